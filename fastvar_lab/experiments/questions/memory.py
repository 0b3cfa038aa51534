"""Memory of the KV cache and of what is held to restore from."""

from __future__ import annotations

import pandas as pd

from fastvar_lab.audit import audited
from fastvar_lab.experiments.base import Cell, Each, Experiment, Methods, Question, full_and_preset
from fastvar_lab.experiments.verdicts import FAILS, HOLDS, Answer, Claim, label
from fastvar_lab.methods.prune import Prune
from fastvar_lab.models.model import Model
from fastvar_lab.plotting import charts
from fastvar_lab.scales import stretch
from fastvar_lab.speed.memory import allocated, cloned, copied
from fastvar_lab.store import Rows

SIDES = (16, 32, 48, 64)


def methods(model: Model) -> Methods:
    """Full generation, the preset, and one that prunes less and one that skips the last step."""
    others = {"last scale 50 %": Prune({-1: 0.5}), "50 %, last skipped": Prune({-2: 0.5, -1: 1.0})}
    return {**full_and_preset(model), **others}


def cells(question: Question) -> list[list[Cell]]:
    """Return a cell for each side of the final map and method; a quick look takes two sides."""
    sides = SIDES[:2] if question.scope.name == "quick" else SIDES
    sizes = {side: stretch(question.model.sizes, side, side) for side in sides}
    return [
        [
            Cell({"side": side}, method, label, (question.timed,), sizes=sizes[side])
            for side in sides
            for label, method in question.methods.items()
        ]
    ]


def memory(model: Model, cell: Cell) -> Rows:
    """Bytes of the KV cache and of what is held to restore from: computed, and as allocated."""
    method = cell.method
    assert method is not None
    grids, config = model.grids(cell.sizes), model.transformer.config
    run = audited(method, grids, model.depth, model.transformer.kinds)
    guided = model.transformer.guided(model.sampling)
    rows = 2 if guided else 1
    cache = model.transformer.new_cache(grids, rows, run)
    cache.expect(run.keys_read(grids, guided, resumable=False))
    cache_step, tokens = method.cache_index(grids), 0
    if isinstance(method, Prune) and cache_step is not None:
        layers = len(method.depth_checked(model.depth))
        kinds = [k for k in model.transformer.kinds if k in method.sublayers]
        tokens = layers * len(kinds) * grids[cache_step].tokens
    condition = model.condition(cell.prompts)
    taken = allocated(copied(model, cloned), condition, method, decode=False, sizes=cell.sizes)
    return [
        {
            "kv_computed": cache.planned,
            "kv_measured": taken.cache,
            "held_computed": rows * config.width * model.dtype.itemsize * tokens,
            "held_measured": taken.restoration,
        }
    ]


def saves_memory(frame: pd.DataFrame) -> Answer:
    """KV cache and restore cache of the largest map, under the preset over full."""
    rows = frame[frame.side == frame.side.max()].set_index("method")
    full = label(frame[frame.family == "full"], "that prunes nothing")
    preset = next((m for m in rows.index if m != full), None)  # the first one after it
    if preset is None:
        raise ValueError("the frame has no method beside full generation")
    held = rows.kv_measured[preset] + rows.held_measured[preset]
    share = float(held / rows.kv_measured[full])
    side = frame.side.max()
    text = f"at {side}x{side} the preset's caches take {share:.0%} of the full ones"
    return Answer(text, HOLDS if share < 1 else FAILS)


EXPERIMENT = Experiment(
    question="What memory do the KV cache and the restore cache take?",
    source="FastVAR, section 4.2",
    methods=methods,
    cells=cells,
    work=Each(memory),
    chart=charts.memory,
    claims=(Claim("It saves memory", "18.9 to 14.7 GB, all told (section 4.2)", saves_memory),),
    version=3,
    speed=True,
)
