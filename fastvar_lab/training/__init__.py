"""Training of the shipped model: tokenizer first, then transformer. Seeded and resumable."""
