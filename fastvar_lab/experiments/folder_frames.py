"""Folders of pictures as the frame of an experiment: what was made once is compared, not drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from fastvar_lab.evaluators.geneval_pictures import GenEvalPrompts
from fastvar_lab.evaluators.picture_folder import PictureFolder
from fastvar_lab.evaluators.scoring import check_pair, metrics_of_pictures, paired_rows
from fastvar_lab.frames import FULL
from fastvar_lab.measure.quality import Chosen, Metric, notes_of, score
from fastvar_lab.methods.columns import family
from fastvar_lab.methods.parse import read_method
from fastvar_lab.prompts import Judge, world_judge


def compare_folders(
    folders: Mapping[str, str | Path],
    metrics: Chosen = ("psnr", "ssim"),
    networks: str | Path | None = None,
    device: str = "cpu",
) -> pd.DataFrame:
    """Return a frame of folders that `make` wrote, by the label of their method, as `compare` does.

    One of the labels is "full": the unpruned pictures, which each metric compares with. `metrics`
    are names of `METRICS`, or functions of your own by name. GenEval and the closed world are
    judged, too, in the column of the judge; `networks` are those of GenEval. Values are cached
    beside folders. Raises ValueError for folders that are not whole, or of other prompts or seeds,
    and for metrics of several values.

    >>> compare_folders({"FastVAR": "runs/fast"})
    Traceback (most recent call last):
    ValueError: one folder is compared with: call it 'full'; not FastVAR
    """
    if FULL not in folders:
        raise ValueError(f"one folder is compared with: call it {FULL!r}; not {', '.join(folders)}")
    opened = {label: PictureFolder(path) for label, path in folders.items()}
    full = opened[FULL]
    judge = judge_of(full.benchmark, networks, device)
    chosen = [
        *([] if judge is None else [score(judge)]),
        *metrics_of_pictures(metrics, networks, device),
    ]
    for folder in opened.values():
        check_pair(folder, full)
    return pd.concat(
        [_rows(label, folder, full, chosen) for label, folder in opened.items()], ignore_index=True
    )


def judge_of(benchmark: str, networks: str | Path | None, device: str) -> Judge | None:
    """Return the judge of a benchmark's pictures; None if it has none."""
    if benchmark == "geneval":
        return GenEvalPrompts(None if networks is None else str(networks), device).judge
    return world_judge if benchmark == "closed-world" else None


def family_of(method: str) -> str:
    """Name the family of a method that is written as Python; of one of a user's, its class.

    >>> family_of("Prune({-1: 0.5})"), family_of("Mine(share=0.5)"), family_of("Dense()")
    ('FastVAR', 'Mine', 'full')
    """
    try:
        return family(read_method(method))
    except ValueError:
        return method.partition("(")[0]


def _rows(
    label: str, folder: PictureFolder, full: PictureFolder, metrics: Iterable[Metric]
) -> pd.DataFrame:
    settings: dict[str, Any] = folder.settings or {}
    written = str(settings.get("method", ""))
    frame = pd.DataFrame(
        {
            "kind": "quality",
            "model": settings.get("model", ""),
            "weights": settings.get("weights", ""),
            "prompts": folder.benchmark,
            "method": label,
            "repr": written,
            "family": family_of(written),
            "picture": range(len(folder)),
            "prompt": folder.prompts,
            "seed": [sample.seed for sample in folder.samples],
            "group": folder.groups,
        }
    )
    values = paired_rows(folder, full, metrics)
    notes = notes_of([(metric, [metric.name]) for metric in metrics])
    return frame.assign(**values, **notes)
