"""ipywidgets for notebooks: they show results of the library and compute nothing themselves."""

from fastvar_lab.widgets.explorer import Explorer
from fastvar_lab.widgets.pareto_picker import ParetoPicker
from fastvar_lab.widgets.scale_browser import ScaleBrowser

__all__ = ["Explorer", "ParetoPicker", "ScaleBrowser"]
