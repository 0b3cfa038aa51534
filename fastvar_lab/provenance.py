"""Provenance of results: the request, the model, the machine and the package versions."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import torch

from fastvar_lab.files import digest

COMPUTED_WITH = ("torch", "numpy", "scikit-image")
"""The packages whose versions change computed numbers."""


class Described(Protocol):
    """The part of a `Model` that provenance records."""

    name: str

    @property
    def fingerprint(self) -> str: ...

    @property
    def precision(self) -> str: ...

    @property
    def device(self) -> torch.device: ...


class Requested(Protocol):
    """The part of a `Request` that provenance records."""

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

    def supplied(self, picture: int | None = None) -> Mapping[str, Any]: ...


def provenance(
    model: Described,
    method: object = None,
    request: Requested | None = None,
    *,
    command: str = "",
    packages: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the provenance of a result of `model` as plain JSON values.

    Holds model, weights, precision, device, machine and versions; if given, also the method's
    repr, the request (prompts, seeds, sampling, draws, sizes) and the command. `packages` names
    further packages whose versions are recorded, such as plotting libraries.
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
    """Return the request of a generation, without model and method, as plain values."""
    return {
        "prompts": request.prompts,
        "seeds": request.seeds,
        "sampling": repr(request.sampling),
        "draws": repr(request.draws),
        "sizes": [(grid.h, grid.w) for grid in request.grids],
        **request.supplied(),
    }


def picture_key(model: Described, method: object, request: Requested, i: int) -> str:
    """Hash all that picture `i` of a request depends on; the same in batches of any size."""
    shared = len(request.seeds) != len(request.prompts)  # one stream of noise for the whole batch
    decides = {
        **requested(request),
        **(
            {"picture": i, "draws": repr(request.draws)}
            if shared
            else {
                **request.supplied(i),
                "prompts": request.prompts[i],
                "seeds": request.seeds[i],
                "draws": type(request.draws).__name__,
            }
        ),
        "model": [model.name, model.fingerprint, model.precision, str(model.device)],
        "method": repr(method),
        "versions": versions("fastvar-lab"),
    }
    return digest(json.dumps(decides), length=8)


def environment(device: torch.device | str, packages: Sequence[str] = ()) -> dict[str, Any]:
    """Return the device, the machine and the package versions of a computation."""
    return {
        "device": str(device),
        **machine(device),
        "versions": versions("fastvar-lab", *packages),
    }


def machine(device: torch.device | str = "cpu") -> dict[str, str | int]:
    """Return processor, system, number of threads, and for a CUDA device its GPU.

    On Linux the processor's name is read from /proc/cpuinfo: `platform` and psutil do not give it.
    """
    cpu = platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        cpu = next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), cpu)
    except OSError:
        pass  # not Linux
    system = f"{platform.machine()} {platform.system()}"
    facts: dict[str, str | int] = {"machine": system, "cpu": cpu}
    if torch.device(device).type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
    return {**facts, "threads": torch.get_num_threads()}


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of `COMPUTED_WITH` and of further packages."""
    return {name: version(name) for name in dict.fromkeys((*COMPUTED_WITH, *packages))}
