"""Settings that do a control's work alone: they skip steps or drop rows, and prune nothing.

A search over a family's settings may end at such a setting. In a ranking it would stand for a
family that it is none of.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from fastvar_lab.frames import FULL, KEPT, OPERATIONS, by_guidance
from fastvar_lab.measure.speedup import undisturbed
from fastvar_lab.scales import grids, parse_size

if TYPE_CHECKING:  # charts are drawn without torch, which methods import
    from fastvar_lab.seam import Grid, Method


def control(method: Method, grids: Sequence[Grid]) -> str | None:
    """Return the family of a method that computes every token of the rows and steps that it runs.

    That is skipping, a tail, or full generation; None for a method that does more, or that decides
    from the data.

    >>> from fastvar_lab.methods.focusvar import FocusVAR
    >>> from fastvar_lab.methods.merge import Merge
    >>> from fastvar_lab.scales import TINY, grids
    >>> [control(m, grids(TINY)) for m in (FocusVAR(layer=0), Merge({-1: 1.0}), Merge({-1: 0.5}))]
    ['conditional tail', 'skipping', None]
    """
    from fastvar_lab.methods.guidance import TAILS
    from fastvar_lab.seam import Rows

    rows = set[Rows | None]()
    for act in method.acts(grids):
        if act.key or not act.exact or act.alone is not None or act.fused not in (None, 0):
            return None
        rows.add(act.rows if act.fused is None else Rows.COND)
    return ", ".join(name for kind, name in TAILS.items() if kind in rows) or FULL


def stands_in(text: str, family: str, steps: tuple[Grid, ...]) -> bool:
    """Return whether a method, as it is written, does a control's work under a family's name.

    >>> from fastvar_lab.scales import TINY, grids
    >>> [stands_in("Merge({-1: 1.0})", name, grids(TINY)) for name in ("ToMe", "skipping")]
    [True, False]
    """
    return _control(text, steps) is not None and not _is_control(family)


def stand_ins(frame: pd.DataFrame) -> dict[str, str]:
    """Return the methods of one guidance scale that do a control's work, with its family.

    They are known by their acts at every step; those that decide from the data by their pictures,
    all of which are those of a control in the frame. A control stands for itself, and so does a
    planned schedule, because planning chooses among controls too.
    """
    pictures = frame[frame.kind == "quality"]
    if "repr" not in frame or "psnr" not in frame or pictures.empty:
        return {}
    names = [str(c).removeprefix(KEPT) for c in frame if str(c).startswith(KEPT)]
    steps = grids([parse_size(name) for name in names])
    methods = pictures.drop_duplicates("method").set_index("method")
    families = {str(label): str(family) for label, family in methods.family.items()}
    works = {str(label): _control(text, steps) for label, text in methods["repr"].items()}
    controls = [label for label, work in works.items() if work == families[label]]
    psnr = pictures.pivot_table(index="picture", columns="method", values="psnr")
    values = {str(label): column.to_numpy() for label, column in psnr.items()}
    for label in _by_picture(frame):
        alike = [c for c in controls if np.allclose(values[c], values[label], atol=0)]
        works[label] = families[alike[0]] if alike else None
    return {
        label: work
        for label, work in works.items()
        if work is not None and not _is_control(families[label])
    }


def _by_picture(frame: pd.DataFrame) -> set[str]:
    """Return the methods whose operations depend on the picture: they decide from the data."""
    if OPERATIONS not in frame:
        return set()
    return set(frame.method[(frame.kind == "operations") & frame.picture.notna()])


def _is_control(family: str) -> bool:
    from fastvar_lab.methods.guidance import TAILS

    named = {*TAILS.values(), FULL}
    return family.startswith("planned") or set(family.split(", ")) <= named


@cache
def _control(text: str, steps: tuple[Grid, ...]) -> str | None:
    from fastvar_lab.methods.parse import read_method

    try:
        return control(read_method(text), steps)
    except ValueError:  # of a class of the user's, or of another schedule
        return None


def without_stand_ins(frame: pd.DataFrame) -> pd.DataFrame:
    """Drop the methods of one guidance scale that do a control's work under another name."""
    return frame[~frame.method.isin(stand_ins(frame).keys())]


def left_out(frame: pd.DataFrame) -> str:
    """Write which settings of a frame do a control's work, and which; empty if none does."""
    scales = by_guidance(frame)
    found: dict[str, dict[str, list[object]]] = {}
    for scale, part in scales:
        for label, work in stand_ins(part).items():
            found.setdefault(work, {}).setdefault(label, []).append(scale)
    several = len(scales)
    texts = [
        "; ".join(
            label + (f" at guidance {at[0]:g}" if len(at) < several else "")
            for label, at in sorted(labels.items())
        )
        + f" ({work})"
        for work, labels in sorted(found.items())
    ]
    lead = "Left out of their families, because they do another one's work alone: "
    return f"{lead}{'; '.join(texts)}." if texts else ""


def timing_gap(frame: pd.DataFrame) -> float:
    """Return how far apart, as a share, two timings of equal work are at most; nan without two.

    Equal are the pictures of a setting that does a control's work, and of that control.
    """
    if not {"speedup", "psnr"} <= set(frame.columns):
        return float("nan")
    scales = by_guidance(frame)
    gaps = list[float]()
    for _, part in scales:
        pictures = part[part.kind == "quality"]
        families = pictures.drop_duplicates("method").set_index("method").family
        speeds = undisturbed(part[part.kind == "time"]).set_index("method").speedup
        psnr = pictures.pivot_table(index="picture", columns="method", values="psnr")
        for label, work in stand_ins(part).items():
            for other in families.index[families == work]:
                same = np.allclose(psnr[other], psnr[label], atol=0.02)
                if same and {label, other} <= set(speeds.index):
                    gaps.append(abs(float(np.log(speeds[label] / speeds[other]))))
    return float(np.expm1(max(gaps))) if gaps else float("nan")
