"""The scores of Inception's features: FID, sFID, KID, IS, precision, recall."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from fastvar_lab.errors import short
from fastvar_lab.evaluators import distances, jackknife
from fastvar_lab.evaluators.case import Case, Result
from fastvar_lab.evaluators.picture_folder import Pictures
from fastvar_lab.files import DAMAGED
from fastvar_lab.measure.statistics import UNKNOWN, wilson
from fastvar_lab.networks import resizing


def activations(case: Case, part: str, pictures: Pictures | None = None) -> np.ndarray:
    """Return one part of Inception's activations of a folder's pictures, or of others.

    The parts are "pooled" (N, 2048), "spatial" (N, 2023) and "logits" (N, 1008).
    """
    depends = {"resize": case.resize, **case.hash("inception")}
    rows = case.rows("inception", partial(_activations, case), pictures, **depends)
    network = case.network("inception")
    wide, classes = network.fc.in_features, network.fc.out_features
    pooled, spatial, logits = np.split(rows, [wide, rows.shape[1] - classes], axis=1)
    return {"pooled": pooled, "spatial": spatial, "logits": logits}[part]


def _activations(case: Case, pictures: Sequence[np.ndarray], places: Sequence[int]) -> np.ndarray:
    resize = resizing.RESIZES[case.resize]
    pixels = torch.stack([resize(picture) for picture in pictures]).to(case.device)
    with torch.no_grad():
        return torch.cat([t.float().cpu() for t in case.network("inception")(pixels)], 1).numpy()


def moments(case: Case, part: str) -> distances.Moments:
    """Return the reference's moments: those in its npz file, else those of its pictures."""
    path, keys = (
        case.options.reference,
        {"pooled": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")},
    )
    if path is not None and path.suffix == ".npz":
        try:
            with np.load(path) as held:
                if set(keys[part]) <= set(held.files):
                    return distances.Moments(*(held[key] for key in keys[part]))
        except DAMAGED as error:
            raise ValueError(f"cannot read {path}: {short(error, 100)}") from None
    return distances.moments(activations(case, part, case.reference()))


def _depends(case: Case, interval: str, **more: Any) -> dict[str, Any]:
    return {"resize": case.resize, **more, **case.hash("inception"), "interval": interval}


def _against(case: Case, interval: str, **more: Any) -> dict[str, Any]:
    """Return what a score against a reference depends on; an npz file holds moments of others."""
    path = case.options.reference
    assert path is not None
    count = None if path.suffix == ".npz" else len(case.reference())
    return _depends(case, interval, reference=path.name, references=count, **more)


def _left_out(case: Case) -> str:
    return f"jackknife over {len(case.parts())} groups of pictures"


def frechet(case: Case, part: str) -> Result:
    """Return the FID of the pooled features, or the sFID of the spatial ones."""
    reference, rows, parts = moments(case, part), activations(case, part), case.parts()
    title = {"pooled": "FID", "spatial": "sFID"}[part]
    with tqdm(total=2 + len(parts), desc=title, unit="decomposition", delay=2) as bar:
        root = distances.square_root(reference.covariance)
        bar.update()
        value = distances.frechet(reference, distances.moments(rows), root)
        bar.update()
        values = list[float]()
        for mine in jackknife.moments_without(rows, parts):
            values.append(distances.frechet(reference, mine, root))
            bar.update()
    return Result(value, *jackknife.interval(value, values), len(rows), case.prompts,
                  depends=_against(case, _left_out(case)))  # fmt: skip


def kid(case: Case) -> Result:
    """KID times 1000: like the FID, without its bias at few pictures."""
    mine, theirs = activations(case, "pooled"), activations(case, "pooled", case.reference())
    value, spread = distances.kernel_distance(mine, theirs, subsets=case.options.subsets)
    values = jackknife.kernel_distances_without(mine, theirs, case.parts())
    low, high = jackknife.interval(1e3 * value, [1e3 * v for v in values])
    return Result(1e3 * value, low, high, len(mine), case.prompts,
                  {"deviation over subsets": (1e3 * spread, *UNKNOWN)},
                  _against(case, _left_out(case), subsets=case.options.subsets))  # fmt: skip


def inception_score(case: Case) -> Result:
    """IS: how sure Inception is of each picture, and how varied the pictures are."""
    logits, split, order = activations(case, "logits"), case.options.split, case.options.order
    value, spread = distances.inception_score(logits, split, order)
    parts = case.parts()
    values = [
        distances.inception_score(logits[stays], split, order)[0]
        for stays in tqdm(jackknife.without(parts), "interval of IS", len(parts), unit="group",
                          delay=2)
    ]  # fmt: skip
    return Result(value, *jackknife.interval(value, values), len(logits), case.prompts,
                  {"deviation over splits": (spread, *UNKNOWN)},
                  _depends(case, _left_out(case), order=order, split=split))  # fmt: skip


def coverage(case: Case, part: str) -> Result:
    """Return the precision, the share of covered pictures, or the recall, that of references."""
    if case.hits is None:  # both come from the same distances
        pair = activations(case, "pooled"), activations(case, "pooled", case.reference())
        case.hits = distances.precision_recall(*pair, half=case.options.half)
    hits = case.hits
    covered = getattr(hits, part).astype(float)
    what = "pictures" if part == "precision" else "references"
    return Result(float(covered.mean()), *wilson(covered), len(case.folder), case.prompts,
                  depends=_against(case, f"Wilson's, over {what}",
                                   half=case.options.half))  # fmt: skip
