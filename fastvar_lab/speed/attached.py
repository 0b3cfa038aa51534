"""What attaching costs: the time of an attached model over that of a loaded one."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

from torch import nn

from fastvar_lab.draws import Keyed
from fastvar_lab.generation import generate
from fastvar_lab.measure.speedup import DISTURBED
from fastvar_lab.methods.prune import Dense
from fastvar_lab.models.attach import attach
from fastvar_lab.models.model import Model
from fastvar_lab.provenance import provenance
from fastvar_lab.speed.timed import speedups


def attached_ratio(model: Model, repeats: int = 5) -> dict[str, Any]:
    """Time an attached model over a loaded one with equal weights, in turns.

    `attached_ratio` compares weights in the same layout, the usual one of a live object.
    `attached_ratio_laid_out` compares with the model as `load` opens it, whose weights are laid out
    for this CPU; a live object's stay as they are. Raises ValueError for a model that is attached.
    """
    model.check_changeable()
    live = copy.deepcopy(model.transformer)
    tokenizer: Any = model.tokenizer.decode  # Infinity's quantiser needs no weights of it
    if model.family != "infinity":
        tokenizer = copy.deepcopy(model.tokenizer)
    for module in live.modules():
        if isinstance(module, nn.Linear):
            module.weight.data = module.weight.data.contiguous()
    options: dict[str, Any] = {"sizes": model.sizes, "sampling": model.sampling}
    config = model.transformer.config
    if getattr(config, "reference", None) is not None:
        options["reference"] = config.reference
    text = None if model.family == "var" else model.text_encoder
    attached = attach(live, tokenizer=tokenizer, text=text, name=model.name, **options)
    usual = copy.copy(model)
    usual.transformer = copy.deepcopy(live)
    draws = Keyed((0,), on_device=True)

    def seconds(opened: Model) -> float:
        return generate(opened, model.example, Dense(), draws=draws).seconds

    timed = {"attached": attached, "loaded": usual, "laid out": model}
    runs = {name: partial(seconds, opened) for name, opened in timed.items()}
    pairs = speedups(runs, repeats, base="attached", progress="attached")
    plain, laid_out = (pairs[name].speedup for name in ("loaded", "laid out"))
    return {
        "attached_ratio": plain.median,
        "attached_disturbed": plain.disturbed,
        "attached_ratio_laid_out": laid_out.median,
        "attached_laid_out_disturbed": laid_out.disturbed,
        "repeats": repeats,
        **provenance(model),
    }


def table(result: dict[str, Any]) -> str:
    """Format the ratio for a terminal."""
    wide = (result["attached_disturbed"], result["attached_laid_out_disturbed"])
    note, other = (f" ({DISTURBED})" if disturbed else "" for disturbed in wide)
    return (
        f"an attached model takes {result['attached_ratio']:.3f} times as long as a loaded one "
        f"with weights in the same layout{note}, {result['attached_ratio_laid_out']:.3f} times as "
        f"long as one laid out for this device{other}"
    )
