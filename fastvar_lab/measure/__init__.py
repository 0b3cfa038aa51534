"""Instruments: functions from a Trace to arrays."""
