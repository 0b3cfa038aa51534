"""Experiments that compare methods: quality to the unpruned picture, task scores, time saved.

Every picture is made twice with the same prompt and seed, in full and under each method, from one
snapshot; what a method does not change is not run again.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np

from fastvar_lab.experiments.base import (
    Experiment,
    Ratios,
    Scope,
    Settings,
    batches,
    in_turns,
    labelled,
    prompts_and_seeds,
    score,
    timed_prompt,
)
from fastvar_lab.generation import generate, resume
from fastvar_lab.measure.quality import to_reference, token_agreement
from fastvar_lab.methods.fingerprint import user_code_hash
from fastvar_lab.methods.merge import Merge
from fastvar_lab.methods.prune import Dense, Prune
from fastvar_lab.methods.registry import restorers, selectors
from fastvar_lab.methods.select import FarFromMean, Random
from fastvar_lab.models.model import Model, paper_preset
from fastvar_lab.pictures import to_uint8
from fastvar_lab.seam import Method
from fastvar_lab.speed import flops
from fastvar_lab.store import Rows

FULL = "full"
TIMED_TOGETHER = 6  # methods: what slows the machine for seconds hits them alike; little is lost
Methods = Mapping[str, Method]


def jobs(
    make: Callable[[Model], Methods], slow: bool, seed: int, model: Model, scope: Scope
) -> list[list[Settings]]:
    """One job per batch of prompts, a cell per method in it; then some that time a few methods.

    Of a slow experiment, a quick scope tries only methods whose ratios are halves and wholes.
    """
    methods = {FULL: Dense(), **make(model)}
    if methods[FULL] != Dense():
        raise ValueError(f"{FULL!r} names generation without pruning; call {methods[FULL]!r} else")
    if slow and scope.name == "quick":
        methods = {k: m for k, m in methods.items() if _ratios(m) <= {0.5, 1.0}}
    called = {label: {"method": label, **_told(label, m, model)} for label, m in methods.items()}
    out = [
        [{"kind": "quality", **called[label], **batch} for label in methods]
        for batch in batches(model, scope, seed)
    ]
    common = {"kind": "time", "prompt": timed_prompt(model), "repeats": scope.repeats}
    timed = [{**common, **called[label]} for label in methods]
    return [*out, *(timed[i : i + TIMED_TOGETHER] for i in range(0, len(timed), TIMED_TOGETHER))]


def _told(label: str, method: Method, model: Model) -> dict[str, str]:
    """Tell a method apart from all others: as written, and the code of rules of one's own.

    Raises ValueError for one that cannot be told apart, or does not fit, before hours of work.
    """
    if " at 0x" in repr(method):
        raise ValueError(f"{label}: {method!r} names no value; make it a frozen dataclass")
    grids = model.grids()
    try:
        method.acts(grids)
        code = user_code_hash(method, method.start(grids, model.depth))
    except ValueError as error:
        raise ValueError(f"{label}: {error}") from error
    return {"repr": repr(method), **({"code": code} if code else {})}


def _ratios(method: Method) -> set[float]:
    return {ratio for _, ratio in method.pairs} if isinstance(method, Prune) else set()


def work(
    make: Callable[[Model], Methods], model: Model, cells: Sequence[Settings]
) -> Iterator[tuple[Settings, Rows]]:
    """Compute one job."""
    methods = {FULL: Dense(), **make(model)}
    for cell in cells:
        label = cell["method"]
        if repr(methods[label]) != cell["repr"]:
            raise ValueError(f"{label} is another method here than where the run began")
    if cells[0]["kind"] == "time":
        yield from _times(methods, model, cells)
    else:
        yield from _pictures(methods, model, cells)


def _pictures(
    methods: Methods, model: Model, cells: Sequence[Settings]
) -> Iterator[tuple[Settings, Rows]]:
    batch = cells[0]["batch"]
    prompts, seeds = prompts_and_seeds(batch)
    full = generate(model, prompts, Dense(), seed=seeds, snapshot=True)
    wanted = to_uint8(model.decode(full.canvas))
    for cell in cells:
        method = methods[cell["method"]]
        made = full if method == full.method else resume(model, full, method)
        pictures = wanted if made is full else to_uint8(model.decode(made.canvas))
        rows: Rows = []
        for i, item in enumerate(batch):
            bits = {
                f"agree_{g.name}": token_agreement(
                    *(None if t is None else t[i] for t in (full.tokens[s], made.tokens[s]))
                )
                for s, g in enumerate(made.request.grids)
            }
            rows.append(
                {
                    **item,
                    "picture": cell["first"] + i,
                    "right": score(model, item["prompt"], pictures[i]),
                    **to_reference(pictures[i], wanted[i]),
                    **{k: v for k, v in bits.items() if not np.isnan(v)},
                }
            )
        yield cell, rows


def _times(
    methods: Methods, model: Model, cells: Sequence[Settings]
) -> Iterator[tuple[Settings, Rows]]:
    """Time methods in turns, each right after full generation, in this one process."""
    prompt = cells[0]["prompt"]
    grids, words = model.grids(), len(prompt.split())
    costs = {
        label: flops.total(flops.step_flops(model, m, grids, words=words))
        for label, m in methods.items()
    }

    def once(cell: Settings) -> tuple[float, float]:
        pair = (Dense(), methods[cell["method"]])
        full, fast = (generate(model, prompt, method, seed=0).seconds for method in pair)
        return full, fast

    generate(model, prompt, Dense(), seed=0)
    for cell, pairs in zip(cells, in_turns(cells, once, warm_up=False), strict=True):
        ratios = [full / fast for full, fast in pairs]
        row = {
            "ms": statistics.median(fast for _, fast in pairs) * 1e3,
            "speedup": statistics.median(ratios),
            "speedup_min": min(ratios),
            "speedup_max": max(ratios),
            "speedup_flop_bound": costs[FULL] / costs[cell["method"]],
        }
        yield cell, [row]


def comparison(
    name: str,
    question: str,
    source: str,
    make: Callable[[Model], Methods],
    slow: bool = False,
    seed: int = 11,
) -> Experiment:
    """Make an experiment that compares methods, by label, with full generation.

    `seed` draws its prompts and their noise.
    """
    return Experiment(
        name,
        question,
        source,
        partial(jobs, make, slow, seed),
        partial(work, make),
        version=3,
        slow=slow,
        kept_as="quality",  # a method is measured once, whichever experiments ask about it
        labels=("method",),
    )


def scale_sensitivity_methods(model: Model) -> Methods:
    """Prune each scale alone at several ratios."""
    sizes = model.sizes
    found: dict[str, Method] = {}
    for back in range(1, min(6, len(sizes) - 1) + 1):
        for ratio in (0.25, 0.5, 0.75, 1.0):
            found[f"{sizes[-back][0]}x{sizes[-back][1]} {ratio:.0%}"] = Prune({-back: ratio})
    return found


def ratio_tradeoff_methods(model: Model) -> Methods:
    """Spread ratios over a grid on the last three scales, later ones pruned at least as much."""
    levels = (0.0, 0.25, 0.5, 0.75, 1.0)
    found: dict[str, Method] = {}
    for a, b, c in product(levels, repeat=3):
        if a <= b <= c and c > 0 and a < 1:
            ratios: Ratios = {k: r for k, r in ((-3, a), (-2, b), (-1, c)) if r}
            found[labelled(ratios)] = Prune(ratios)
    return found


def extreme_ratios_methods(model: Model) -> Methods:
    """Skip more and more of the last scales (Table A.3)."""
    schedules: list[Ratios] = [
        {-1: 0.75},
        {-1: 1.0},
        {-2: 0.5, -1: 0.75},
        {-2: 0.5, -1: 1.0},
        {-2: 1.0, -1: 1.0},
        {-3: 0.5, -2: 1.0, -1: 1.0},
        {-4: 0.4, -3: 0.5, -2: 1.0, -1: 1.0},
        {-3: 1.0, -2: 1.0, -1: 1.0},
    ]
    return {labelled(s): Prune(s) for s in schedules}


def caching_step_methods(model: Model) -> Methods:
    """Restore from earlier and earlier steps (Table A.4)."""
    base = Prune({-2: 0.5, -1: 0.75})
    sizes = model.sizes
    return {
        f"cache {sizes[-back][0]}x{sizes[-back][1]}": replace(base, cache_step=-back)
        for back in range(3, min(8, len(sizes)) + 1)
    }


def selectors_methods(model: Model) -> Methods:
    """Choose tokens in other ways than by their distance to the mean."""
    base = Prune({-2: 0.5, -1: 0.75})
    return {name: replace(base, select=select) for name, select in selectors().items()}


def restorers_methods(model: Model) -> Methods:
    """Fill pruned places in other ways than from the cache, for good and for random choices."""
    base = Prune({-2: 0.5, -1: 0.75})
    found: dict[str, Method] = {}
    for select_name, select in (("PTS", FarFromMean()), ("random", Random())):
        for name, restore in restorers().items():
            found[f"{name}, {select_name}"] = replace(base, select=select, restore=restore)
    return found


def depth_of_pruning_methods(model: Model) -> Methods:
    """Vary how many scales, which layers and which sublayers are pruned."""
    depth = model.depth
    schedules: list[Ratios] = [{-i: 0.5 for i in range(n, 0, -1)} for n in range(1, 6)]
    found: dict[str, Method] = {
        f"last {len(s)} scales" if len(s) > 1 else "last scale": Prune(s) for s in schedules
    }
    base = Prune({-2: 0.5, -1: 0.75})
    third = max(1, depth // 3)
    for low, high in ((0, third), (third, depth - third), (depth - third, depth), (third, depth)):
        found[f"layers {low} to {high - 1}"] = replace(base, layers=(low, high))
    kinds = model.transformer.kinds
    for kind in kinds:
        found[f"{kind} alone"] = replace(base, sublayers=(kind,))
    found["all"] = base
    return found


def rivals_methods(model: Model) -> Methods:
    """FastVAR, token merging and skipping, over a range of speeds, to be compared at equal time."""
    pairs = ((0.1, 0.25), (0.2, 0.4), (0.3, 0.5), (0.5, 0.75), (0.5, 1.0))
    found: dict[str, Method] = {
        f"FastVAR {a:.0%}, {b:.0%}": Prune({-2: a, -1: b}) for a, b in pairs
    }
    for a, b in ((0.3, 0.5), (0.5, 0.7), (0.7, 0.75)):
        found[f"ToMe {a:.0%}, {b:.0%}"] = Merge({-2: a, -1: b})
    for count in (1, 2, 3):
        found[f"skip last {count}"] = Prune({-i: 1.0 for i in range(count, 0, -1)})
    return found


EXPERIMENTS = (
    comparison(
        "scale_sensitivity",
        "Which scale steps can be pruned, and how much time does each save?",
        "section 3.1, Figs 2 and 3",
        scale_sensitivity_methods,
        slow=True,
    ),
    comparison(
        "ratio_tradeoff",
        "What quality does each speedup cost, over ratios of the last three scales?",
        "section 4.3, Table 4",
        ratio_tradeoff_methods,
        slow=True,
    ),
    comparison(
        "extreme_ratios",
        "Can whole scale steps be skipped?",
        "supplement, Table A.3",
        extreme_ratios_methods,
    ),
    comparison(
        "caching_step",
        "Which step is the best one to restore from?",
        "supplement, Table A.4",
        caching_step_methods,
    ),
    comparison(
        "selectors",
        "Does the distance to the mean choose tokens better than other rules?",
        "section 3.2; no table was printed",
        selectors_methods,
    ),
    comparison(
        "restorers",
        "Does the cache restore pruned places better than other rules?",
        "section 3.3; no table was printed",
        restorers_methods,
    ),
    comparison(
        "depth_of_pruning",
        "How many scales, which layers and which sublayers should be pruned?",
        "section 4.3; supplement",
        depth_of_pruning_methods,
        slow=True,
    ),
    comparison(
        "side_by_side",
        "What does the preset change in a picture?",
        "supplement, Figs A.3 and A.4",
        lambda model: {"FastVAR": paper_preset(model)},
    ),
    comparison(
        "rivals",
        "Is FastVAR better than token merging and than skipping at equal time?",
        "Table 3; supplement, Table A.2",
        rivals_methods,
    ),
)
