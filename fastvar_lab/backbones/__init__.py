"""Visual autoregressive generators and their tokenizers; they know nothing of pruning."""
