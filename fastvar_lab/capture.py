"""What captured generations are told apart by, and what cannot be captured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from fastvar_lab.audit import checked_acts
from fastvar_lab.draws import Keyed
from fastvar_lab.errors import short
from fastvar_lab.graphs import CannotCapture
from fastvar_lab.methods.fingerprint import user_classes_hash, user_code_hash
from fastvar_lab.models import stamps
from fastvar_lab.models.model import Model
from fastvar_lab.request import Request
from fastvar_lab.seam import Method, Runner


def check_capture(
    model: Model, request: Request, method: Method, watched: Sequence[object] = ()
) -> None:
    """Raise CannotCapture for what a generation cannot repeat, before anything is computed."""
    kind = model.device.type
    if kind not in ("cuda", "cpu"):
        raise CannotCapture(
            f"graphs are captured on a GPU, or recorded on a CPU; the model is on {kind}"
        )
    if watched or request.given or request.kept:
        raise CannotCapture(
            "a captured graph runs no watchers, keeps no snapshot and takes no given tokens: "
            "generate without graphs"
        )
    if not isinstance(request.draws, Keyed):
        raise CannotCapture(
            f"a captured graph draws keyed noise; not {short(request.draws)}: generate without "
            "graphs"
        )
    for grid, act in zip(
        request.grids, checked_acts(method, request.grids, model.depth), strict=True
    ):
        if not act.exact:
            raise CannotCapture(
                f"{short(method)} decides from the data at step {grid.index} ({grid.name}), which "
                "a captured graph cannot: generate without graphs"
            )


def capture_key(
    model: Model, request: Request, method: Method, runner: Runner, inputs: Sequence[Tensor]
) -> tuple[Any, ...]:
    """Return what decides the operations of a generation, and the places that they read.

    `runner` is one of the method, `inputs` are the tensors of the backbone's state. Weights may
    change where they are; other tensors in their place, modules, settings, hooks, and values that
    the code of hooks and of users' classes names, make another key.
    """
    modules = [model.transformer]
    if isinstance(model.quantizer, nn.Module):
        modules.append(model.quantizer)  # type: ignore[arg-type]
    weights = [t for part in modules for t in (*part.parameters(), *part.buffers())]
    assert isinstance(request.draws, Keyed)
    return (
        method,
        request.grids,
        request.sampling,
        len(request.prompts),
        request.draws.on_device,
        model.precision,
        str(model.device),
        tuple((t.shape, t.dtype, t.stride()) for t in inputs),
        tuple((t.data_ptr(), t.dtype) for t in weights),
        repr(stamps.settings(modules)),
        repr({name: [*each] for name, each in stamps.hooks(modules).items()}),
        repr(stamps.codes(modules)),
        user_classes_hash(each for part in modules for each in part.modules()),
        user_code_hash(method, runner),
    )
