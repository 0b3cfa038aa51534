"""What a method is, as columns of a frame, and the label that is printed for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from fastvar_lab.audit import check_value
from fastvar_lab.frames import CONDITIONAL, FASTVAR, FULL, KEPT, ROWS, SKIPPING
from fastvar_lab.methods.guidance import Around
from fastvar_lab.methods.prune import Dense, Prune
from fastvar_lab.methods.registry import classes, restorers, selectors
from fastvar_lab.methods.restore import CachedBranch
from fastvar_lab.methods.schedule import Scheduled
from fastvar_lab.methods.select import FarFromMean
from fastvar_lab.methods.spaces import axis_of
from fastvar_lab.seam import KINDS, Grid, Method, Site


def describe(method: Method, grids: Sequence[Grid], depth: int) -> dict[str, Any]:
    """Return a method's columns: what it is, and what it computes at every scale step.

    `family`, `axis` (what the family changes, see `spaces.AXES`), `selector`, `restorer`,
    `granularity`, `cache_step` (the map restored from, such as "20x20"), `layers`, `sublayers`,
    None where a method has no such part; for each step `kept_32x32`, the fewest tokens that a
    sublayer computes there (0: skipped), and `rows_32x32`, the guidance rows that run of 2. Raises
    ValueError for a method that does not fit.

    >>> from fastvar_lab.scales import TINY, grids
    >>> columns = describe(Prune({-2: 0.5, -1: 1.0}), grids(TINY), depth=8)
    >>> columns["family"], columns["cache_step"], columns["kept_24x24"], columns["rows_32x32"]
    ('FastVAR', '20x20', 288, 0)
    """
    check_value(method)
    runner, acts, cache = method.start(grids, depth), method.acts(grids), method.cache_index(grids)
    base = core(method)
    sites = [Site(layer, kind) for layer in range(depth) for kind in KINDS]
    columns: dict[str, Any] = {
        "family": family(method),
        "axis": axis_of(family(method)),
        "selector": _named(getattr(base, "select", None), selectors()),
        "restorer": _named(getattr(base, "restore", None), restorers()),
        "granularity": getattr(base, "granularity", None),
        "cache_step": None if cache is None else grids[cache].name,
        "layers": _layers(base),
        "sublayers": " ".join(base.sublayers) if isinstance(base, Scheduled) else None,
    }
    for grid, act in zip(grids, acts, strict=True):
        counts = [0 if act.skips else runner.forwarded(site, grid) for site in sites]
        columns[f"{KEPT}{grid.name}"] = min((n for n in counts if n), default=0)
    rows = {f"{ROWS}{g.name}": act.rows_at_head.each for g, act in zip(grids, acts, strict=True)}
    return {**columns, **rows}


def core(method: Method) -> Method:
    """Return the innermost method inside others, such as the one that a `Tail` is put on."""
    return core(method.method) if isinstance(method, Around) else method


def family(method: Method) -> str:
    """Name the family of a method: what it has in common with those of other schedules.

    That is its class, or what the class attribute `family` says; for a method around another one,
    both.

    >>> from fastvar_lab.methods.merge import Merge
    >>> family(Prune({-1: 0.5})), family(Prune({-1: 1.0})), family(Merge({-1: 0.5}))
    ('FastVAR', 'skipping', 'ToMe')
    >>> family(Prune({}, null_until=-2))
    'conditional tail'
    >>> family(Prune({-1: 0.5}, select=selectors()["random"]))
    'pruning, random'
    >>> from fastvar_lab.methods.guidance import Tail
    >>> family(Tail(Prune({-1: 0.5}), cond_from=-1)), family(Tail(skip_from=-2))
    ('FastVAR, conditional tail', 'skipping')
    """
    if isinstance(method, Around):
        inner = family(method.method)
        return method.addition if inner == FULL else f"{inner}, {method.addition}"
    if type(method) is not Prune:
        return FULL if method == Dense() else str(getattr(method, "family", type(method).__name__))
    if all(ratio == 1 for _, ratio in method.pairs):
        return SKIPPING if method.pairs or method.null_until is None else CONDITIONAL
    parts = [("pruning", False)]
    parts.append((_named(method.select, selectors()) or "", method.select == FarFromMean()))
    parts.append((_named(method.restore, restorers()) or "", method.restore == CachedBranch()))
    others = [name for name, default in parts if not default]
    return ", ".join(others) if len(others) > 1 else FASTVAR


def written(method: Method, prefix: str = "") -> str:
    """Write a method as Python that `read_method` reads back, defaults left out.

    `prefix` stands before the names of the library, such as "fv.".

    >>> written(Prune({-2: 0.5, -1: 0.75}, select=selectors()["random"]))
    'Prune({-2: 0.5, -1: 0.75}, select=Random())'
    """
    return _written(method, prefix)


def _written(value: Any, prefix: str) -> str:
    """Write a frozen dataclass by the fields that differ from their defaults; else its `repr`."""
    name = type(value).__name__
    place = prefix if classes().get(name) is type(value) else ""
    if not dataclasses.is_dataclass(value) or type(value).__repr__ is object.__repr__:
        return f"{place}{value!r}"
    parts = []
    for field in dataclasses.fields(value):
        content = getattr(value, field.name)
        factory = field.default_factory
        default = field.default if factory is dataclasses.MISSING else factory()
        if field.name == "ratios" and isinstance(value, Scheduled):
            parts.append("{" + ", ".join(f"{scale}: {ratio!r}" for scale, ratio in content) + "}")
        elif field.init and content != default:
            parts.append(f"{field.name}={_written(content, prefix)}")
    return f"{place}{name}({', '.join(parts)})"


def labels(methods: Sequence[Method], grids: Sequence[Grid], depth: int) -> list[str]:
    """Write a label for each of some methods: what sets it apart from the others.

    Unpruned generation is "full". Raises ValueError for methods that are equal.

    >>> from fastvar_lab.scales import TINY, grids
    >>> from fastvar_lab.methods.merge import Merge
    >>> labels([Dense(), Prune({-1: 0.75}), Merge({-1: 0.5})], grids(TINY), depth=8)
    ['full', 'FastVAR 32x32: 75 %', 'ToMe 32x32: 50 %']
    >>> labels([Prune({-1: 0.75}, cache_step=20), Prune({-1: 0.75})], grids(TINY), depth=8)
    ['cache 20x20', 'cache 24x24']
    """
    all_parts = [None if method == Dense() else _parts(method, grids, depth) for method in methods]
    known = [parts for parts in all_parts if parts is not None]
    varying = {name for name in (known or [{}])[0] if len({p[name] for p in known}) > 1}
    if len(known) == 1 or "kind" in varying:
        varying = (varying | {"family", "schedule"}) - {"selector", "restorer"}
    else:
        varying -= {"family"}
    written = [FULL if p is None else _label(p, varying) for p in all_parts]
    twice = [method for method, name in zip(methods, written) if written.count(name) > 1]
    if len({repr(method) for method in twice}) < len(twice):
        raise ValueError(f"{twice[0]!r} stands twice among the methods")
    return [repr(m) if m in twice else name for m, name in zip(methods, written)]


def label(method: Method, grids: Sequence[Grid], depth: int) -> str:
    """Write the label of one method: its family and the shares that it prunes.

    >>> from fastvar_lab.scales import TINY, grids
    >>> label(Prune({-2: 0.5, -1: 1.0}), grids(TINY), depth=8)
    'FastVAR 24x24: 50 %, 32x32: 100 %'
    """
    return labels([method], grids, depth)[0]


def labelled(
    methods: Mapping[str, Method] | Sequence[Method], grids: Sequence[Grid], depth: int
) -> dict[str, Method]:
    """Return methods by label: those they have already, or those that `labels` writes.

    Raises ValueError for anything but methods.
    """
    if not isinstance(methods, Mapping | Sequence) or isinstance(methods, str):
        raise ValueError(f"methods are a list, or a mapping by label; not {methods!r}")
    for method in methods.values() if isinstance(methods, Mapping) else methods:
        check_value(method)
    if isinstance(methods, Mapping):
        return dict(methods)
    return dict(zip(labels(list(methods), grids, depth), methods, strict=True))


def _parts(method: Method, grids: Sequence[Grid], depth: int) -> dict[str, tuple[str, bool]]:
    """Write what a label may hold, each part with whether it goes without saying."""
    columns = describe(method, grids, depth)
    pruned = [(g.name, 1 - columns[f"{KEPT}{g.name}"] / g.tokens) for g in grids]
    skipping = columns["family"] == SKIPPING  # where every share is 100 %
    shares = [(name, "" if skipping else f": {100 * s:.0f} %") for name, s in pruned if s > 0]
    schedule = ", ".join(name + share for name, share in shares)
    alone = [g.name for g in grids if columns[f"{ROWS}{g.name}"] == 1]
    base = core(method)
    default = {KINDS, None} if isinstance(base, Scheduled) else {None}
    kinds = getattr(base, "sublayers", None)
    return {
        "kind": (type(method).__name__ + str(skipping), True),
        "family": (columns["family"], False),
        "schedule": (schedule, False),
        "selector": (columns["selector"] or "", getattr(base, "select", None) == FarFromMean()),
        "restorer": (columns["restorer"] or "", _is_default(base)),
        "cache": (f"cache {columns['cache_step']}", getattr(base, "cache_step", None) is None),
        "layers": (f"layers {columns['layers']}", columns["layers"] in (None, "all")),
        "sublayers": (columns["sublayers"] or "", kinds in default),
        "granularity": (
            f"by {columns['granularity']}", columns["granularity"] in (None, "sublayer"),
        ),
        "rows": (f"one row at {', '.join(alone)}", not alone),
    }  # fmt: skip


def _label(parts: Mapping[str, tuple[str, bool]], varying: set[str]) -> str:
    """Join the parts that vary and say something; all that vary if none of them does."""
    shown = {name: parts[name] for name in parts if name in varying and name != "kind"}
    said = [text for text, default in shown.values() if text and not default]
    said = said or [text for text, _ in shown.values() if text] or [parts["family"][0]]
    if "family" in varying:
        return " ".join([said[0], ", ".join(said[1:])]).strip()
    return ", ".join(said)


def _is_default(method: Method) -> bool:
    return getattr(method, "restore", None) == CachedBranch()


def _named(rule: object, registry: Mapping[str, Any]) -> str | None:
    """Name a selector or restorer: as its registry does, by its family, or as it is written."""
    if rule is None:
        return None
    names = [name for name, value in registry.items() if value == rule]
    shown = str(getattr(rule, "family", "")) or repr(rule).removesuffix("()")
    return names[0] if names else shown


def _layers(method: Method) -> str | None:
    if not isinstance(method, Scheduled):
        return None
    return "all" if method.layers is None else f"{method.layers[0]} to {method.layers[1] - 1}"
