"""Orders of HeatKV and drafters of ScaleKV, calibrated on the shipped model.

Written by `python -m fastvar_lab calibrate heatkv --budget 0.25` and `calibrate scalekv --budget
0.25`, on 10 prompts that no experiment judges on. Orders do not depend on the budget.
"""

from __future__ import annotations

_TINY = (
    "7 6 4 22 19 18 24 25 23 31 14 28 1 29 12 20 15 27 30 3 5 10 8 16 13 17 26 21 0 2 9 11",
    "6 7 4 25 18 24 12 22 1 29 3 19 31 28 20 10 8 30 15 27 13 14 23 17 5 16 0 26 11 9 21 2",
    "4 6 11 7 25 22 2 12 18 24 29 1 3 19 10 28 13 31 30 17 20 26 15 8 27 14 23 5 21 16 0 9",
    "11 2 6 25 7 12 4 15 18 22 21 24 29 19 10 17 23 1 30 3 31 20 26 28 27 9 5 13 8 16 0 14",
    "11 9 2 21 4 6 13 0 25 26 14 17 18 22 29 3 16 12 5 27 10 30 23 1 28 24 8 20 15 19 7 31",
    "9 11 2 13 21 26 25 16 0 14 18 17 22 10 27 29 5 19 15 3 24 23 20 1 4 28 6 30 12 8 31 7",
)  # a line a source step, 6x6 to 24x24

ORDERS = {"tiny": tuple(tuple(map(int, line.split())) for line in _TINY)}
"""HeatKV's orders by model: pairs layer * heads + head of each source step, the first to drop
first."""

DRAFTERS = {"tiny": (5,)}
"""ScaleKV's drafters by model."""
