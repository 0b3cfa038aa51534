"""Charts from tidy frames, one function per kind of experiment: no torch, no generation."""

from fastvar_lab.plotting.charts.comparisons import (
    front,
    methods,
    rivals,
    sensitivity,
    speedups,
    tradeoff,
    tradeoff_points,
)
from fastvar_lab.plotting.charts.precisions import precisions
from fastvar_lab.plotting.charts.steps import (
    outputs,
    relation_points,
    relations,
    spectra,
    spectra_points,
)
from fastvar_lab.plotting.charts.times import (
    costs,
    exponent,
    exponents,
    kernels,
    latency,
    memory,
    modules,
    overhead,
    scaling,
    suite,
)

__all__ = [
    "costs",
    "exponent",
    "exponents",
    "front",
    "kernels",
    "latency",
    "memory",
    "methods",
    "modules",
    "outputs",
    "overhead",
    "precisions",
    "relation_points",
    "relations",
    "rivals",
    "scaling",
    "sensitivity",
    "spectra",
    "spectra_points",
    "speedups",
    "suite",
    "tradeoff",
    "tradeoff_points",
]
