"""Widgets around the library's results, for anyone's notebook: ipywidgets, and no arithmetic."""

from fastvar_lab.widgets.explorer import Explorer
from fastvar_lab.widgets.pareto_picker import ParetoPicker
from fastvar_lab.widgets.scale_browser import ScaleBrowser

__all__ = ["Explorer", "ParetoPicker", "ScaleBrowser"]
