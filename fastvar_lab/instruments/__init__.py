"""Instruments: Wrappers that observe a generation, and the records they fill."""
