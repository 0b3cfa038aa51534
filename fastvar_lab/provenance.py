"""Where a result is from: the generation that was asked for, the model, the machine, versions."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import torch

COMPUTED_WITH = ("torch", "numpy", "scikit-image")
"""The packages that computed numbers depend on."""


class Described(Protocol):
    """What is said of a model; a `Model` has it."""

    name: str

    @property
    def fingerprint(self) -> str: ...

    @property
    def precision(self) -> str: ...

    @property
    def device(self) -> torch.device: ...


class Requested(Protocol):
    """What is said of a generation apart from its method; a `Request` has it."""

    @property
    def prompts(self) -> tuple[str, ...]: ...

    @property
    def seeds(self) -> tuple[int, ...]: ...

    @property
    def grids(self) -> tuple[Any, ...]: ...

    @property
    def sampling(self) -> Any: ...

    @property
    def draws(self) -> Any: ...


def provenance(
    model: Described,
    method: object = None,
    request: Requested | None = None,
    *,
    command: str = "",
    packages: Sequence[str] = (),
) -> dict[str, Any]:
    """Say where a result of `model` is from, in plain JSON values.

    Model, weights, precision, device, machine and versions always; the method's repr, what was
    requested (prompts, seeds, sampling, draws, sizes) and the command where they are given.
    `packages` names more of which the versions matter, such as those that draw.
    """
    return {
        **({"command": command} if command else {}),
        "model": model.name,
        "weights": model.fingerprint,
        "precision": model.precision,
        **({} if method is None else {"method": repr(method)}),
        **({} if request is None else requested(request)),
        **environment(model.device, packages),
    }


def requested(request: Requested) -> dict[str, Any]:
    """Say which generation was asked for, apart from model and method."""
    return {
        "prompts": request.prompts,
        "seeds": request.seeds,
        "sampling": repr(request.sampling),
        "draws": repr(request.draws),
        "sizes": [(grid.h, grid.w) for grid in request.grids],
    }


def environment(device: torch.device | str, packages: Sequence[str] = ()) -> dict[str, Any]:
    """Say what a result was computed on and with: device, machine, versions."""
    return {
        "device": str(device),
        **machine(device),
        "versions": versions("fastvar-lab", *packages),
    }


def machine(device: torch.device | str = "cpu") -> dict[str, str | int]:
    """Say what times were measured on: processor, system, threads, and the GPU of a device."""
    cpu = platform.processor()  # its name is what neither this nor psutil tells on Linux
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), cpu)
    except OSError:
        pass  # not Linux
    system = f"{platform.machine()} {platform.system()}"
    found: dict[str, str | int] = {"machine": system, "cpu": cpu}
    if torch.device(device).type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    return {**found, "threads": torch.get_num_threads()}


def versions(*packages: str) -> dict[str, str]:
    """Versions that numbers depend on, and those of more packages."""
    return {name: version(name) for name in dict.fromkeys((*COMPUTED_WITH, *packages))}
