"""Figures from arrays and frames: no torch, no generation."""
