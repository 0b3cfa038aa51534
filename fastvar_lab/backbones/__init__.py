"""Visual autoregressive generators and their tokenizers; they do not depend on methods."""
