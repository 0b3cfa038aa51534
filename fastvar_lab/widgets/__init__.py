"""Widgets around the library's results, for anyone's notebook: ipywidgets, and no arithmetic."""

from fastvar_lab.widgets.explorer import Explorer

__all__ = ["Explorer"]
