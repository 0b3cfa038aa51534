"""Relations between scale steps: attention, similarity of outputs, and convergence."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from fastvar_lab.instruments.trace import Trace
from fastvar_lab.measure.scale_steps import Decode, images
from fastvar_lab.seam import Site
from fastvar_lab.tokens import gather, resize, wide


def cross_scale_attention(trace: Trace) -> pd.DataFrame:
    """Return the share of attention that a step's tokens spend on each step they attend to.

    Columns: step, size, layer, head, source, source_size, share, chance (the source's share of all
    keys that the head reads). Shares are means over pictures, guidance rows and queries, and sum to
    1 for each head. Needs sites recorded with `attention=`. Source: paper, Fig. 3c.
    """
    rows = []
    for (step, site), attention in trace.attention.items():
        sources = trace.seen[step, site]
        keys = np.array([[[_kept_tokens(trace, s, site) for s in sources]]])
        if (step, site) in trace.read:
            keys = trace.read[step, site].cpu().numpy()
        chances = (keys / keys.sum(axis=-1, keepdims=True)).mean(axis=0).tolist()
        for head, shares in enumerate(wide(attention).mean(dim=(0, 2)).tolist()):
            by_source = zip(sources, shares, chances[head % len(chances)], strict=True)
            for source, share, chance in by_source:
                rows.append(
                    {
                        "step": step,
                        "size": trace.size(step),
                        "layer": site.layer,
                        "head": head,
                        "source": source,
                        "source_size": trace.size(source),
                        "share": share,
                        "chance": chance,
                    }
                )
    return pd.DataFrame(rows)


def _kept_tokens(trace: Trace, step: int, site: Site) -> int:
    mask = trace.kept.get((step, site))
    return trace.grids[step].tokens if mask is None else int(mask[0].sum())


def branch_similarity(trace: Trace, mode: str = "area") -> pd.DataFrame:
    """Compare each sublayer output with the upsampled outputs of the earlier steps.

    Columns: step, size, layer, kind, source, source_size, cosine (mean over tokens and rows) and
    error (relative squared error of the upsampled output). `mode` is the interpolation. Needs
    sites recorded with `outputs=`. The paper uses this to choose the last unpruned step as the
    cache (section 3.3 and Table A.4). Tokens that were dropped from the whole stack have no output:
    the others are compared, and such a step is no source.

    >>> import fastvar_lab as fv
    >>> site = fv.Site(4, "attn")
    >>> _, trace = fv.observe(fv.load("tiny"), "a red ring", fv.Dense(), seed=1, outputs=[site])
    >>> rows = branch_similarity(trace).query("step == 9").set_index("source_size")
    >>> bool(rows.cosine["24x24"] > rows.cosine["4x4"])
    True
    """
    rows = []
    for (step, site), out in trace.outputs.items():
        for (source, other), early in trace.outputs.items():
            if other != site or source >= step:
                continue
            now, then = trace.grids[step], trace.grids[source]
            if early.shape[1] < then.tokens:
                continue
            target = wide(out[:, now.prefix :])
            early = wide(early[: len(out), then.prefix :])  # later steps may have no null rows
            guess = resize(early, (then.h, then.w), (now.h, now.w), mode)
            if out.shape[1] < now.tokens:
                places = trace.order[step, site][: len(guess), now.prefix :] - now.prefix
                guess = gather(guess, places)
            gap = (guess - target).square().sum() / target.square().sum().clamp(min=1e-12)
            rows.append(
                {
                    "step": step,
                    "size": trace.size(step),
                    "layer": site.layer,
                    "kind": site.kind,
                    "source": source,
                    "source_size": trace.size(source),
                    "cosine": float(F.cosine_similarity(guess, target, dim=-1).mean()),
                    "error": float(gap),
                }
            )
    return pd.DataFrame(rows)


def convergence(trace: Trace, decode: Decode, tolerance: float = 2 / 255) -> pd.DataFrame:
    """Return the share of cells that stay within `tolerance` of the final picture from a step on.

    A cell is the area of one token of the final map. Its distance is the mean absolute difference
    of its pixels, intensities in [0, 1]. Columns: step, size, picture, settled (share of cells).

    >>> import fastvar_lab as fv
    >>> model = fv.load("tiny")
    >>> _, trace = fv.observe(model, "a red ring", fv.PRESETS["tiny"], seed=1)
    >>> float(convergence(trace, model.decode).settled.iloc[-1])
    1.0
    """
    pictures = images(trace, decode)
    steps, n = pictures.shape[:2]
    last = trace.grids[-1]
    cells = np.empty((steps, n, last.h, last.w))
    for i in range(steps):
        gap = torch.from_numpy(np.abs(pictures[i] - pictures[-1]).mean(-1)).unsqueeze(1)
        cells[i] = F.interpolate(gap, (last.h, last.w), mode="area").squeeze(1).numpy()
    late = np.maximum.accumulate((cells > tolerance)[::-1], axis=0)[::-1]
    settled = 1 - late.mean(axis=(2, 3))
    return pd.DataFrame(
        [
            {"step": s, "size": trace.size(s), "picture": p, "settled": float(settled[i, p])}
            for i, s in enumerate(sorted(trace.canvases))
            for p in range(n)
        ]
    )
