"""Models: a backbone with its tokenizer and text encoder; built, opened, listed."""
