"""Experiments: one question each, cells that are pure functions of their settings, tidy frames."""
