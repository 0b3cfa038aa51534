"""Networks that look at pictures: Inception, CLIP, a detector, and others."""
