"""Charts from tidy frames, one function per kind of experiment: no torch, no generation."""

from fastvar_lab.measure.frontier import front
from fastvar_lab.plotting.charts.budgets import (
    budget,
    budget_points,
    small_maps,
    small_maps_points,
    sublayer_points,
    sublayer_sensitivity,
    transfer,
    transfer_points,
)
from fastvar_lab.plotting.charts.by_operations import by_operations, operations_points
from fastvar_lab.plotting.charts.choices import choice, choice_points
from fastvar_lab.plotting.charts.comparisons import (
    by_axis,
    methods,
    rivals,
    sensitivity,
    speedups,
    tradeoff,
    tradeoff_points,
)
from fastvar_lab.plotting.charts.precisions import precisions
from fastvar_lab.plotting.charts.schedules import schedule
from fastvar_lab.plotting.charts.steps import (
    outputs,
    relation_points,
    relations,
    spectra,
    spectra_points,
)
from fastvar_lab.plotting.charts.times import (
    batches,
    costs,
    exponent,
    exponents,
    gaps,
    kernels,
    latency,
    memory,
    modules,
    overhead,
    scaling,
    suite,
)

__all__ = [
    "batches",
    "budget",
    "budget_points",
    "by_axis",
    "by_operations",
    "choice",
    "choice_points",
    "costs",
    "exponent",
    "exponents",
    "front",
    "gaps",
    "kernels",
    "latency",
    "memory",
    "methods",
    "modules",
    "operations_points",
    "outputs",
    "overhead",
    "precisions",
    "relation_points",
    "relations",
    "rivals",
    "scaling",
    "schedule",
    "sensitivity",
    "small_maps",
    "small_maps_points",
    "spectra",
    "spectra_points",
    "speedups",
    "sublayer_points",
    "sublayer_sensitivity",
    "suite",
    "tradeoff",
    "tradeoff_points",
    "transfer",
    "transfer_points",
]
