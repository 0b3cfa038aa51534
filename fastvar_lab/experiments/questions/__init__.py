"""The experiments that ship here: one module each, which holds its record as `EXPERIMENT`."""

from __future__ import annotations

import pkgutil
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # lists of names need no torch
    from fastvar_lab.experiments.base import Experiment


def shipped() -> dict[str, Experiment]:
    """Import every experiment, by the name of its module."""
    names = [module.name for module in pkgutil.iter_modules(__path__)]
    records = {name: import_module(f"{__name__}.{name}").EXPERIMENT for name in names}
    return {name: replace(record, name=name) for name, record in records.items()}
