"""Training of the embedded model: tokenizer first, then transformer. Seeded and resumable."""
