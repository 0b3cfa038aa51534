"""Instruments: Wrappers that watch a generation, and what they record."""
