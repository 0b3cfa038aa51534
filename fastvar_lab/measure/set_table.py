"""What methods cost picture by picture, and how far their sets of pictures are, as a table."""

from __future__ import annotations

import pandas as pd

from fastvar_lab.frames import FULL, GUIDANCE, NOTE, OPERATIONS, by_guidance, check_one_place
from fastvar_lab.measure.speedup import DISTURBED, disturbances

AGREE = "agree_"


def set_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Write a line for each guidance scale and method: cost, set of pictures, tokens.

    Columns: `speedup` with the interval of its turns; `operations`, the share of full generation's,
    with the least and the most of a picture where they depend on it; `Fréchet distance` of the
    method's pictures to rendered ones, with its interval; `equal tokens`, the mean share over the
    steps that both draw. Those that the frame does not hold are left out.

    >>> rows = [{"kind": "quality", "method": "a", "family": "a", "picture": 0, "agree_1x1": 0.5},
    ...         {"kind": "set", "method": "a", "family": "a", "frechet": 1, "frechet_low": 0.5,
    ...          "frechet_high": 2}]
    >>> set_table(pd.DataFrame(rows)).iloc[0].to_dict()
    {'method': 'a', 'Fréchet distance': '1.00 (0.50 to 2.00)', 'equal tokens': '0.500'}
    """
    check_one_place(frame, ["model", "machine"])
    parts = []
    for scale, part in by_guidance(frame):
        pictures = part[part.kind == "quality"]
        table = pd.DataFrame({"method": pictures.method.unique()})
        for title, texts in _columns(part).items():
            table[title] = [texts.get(name, "") for name in table.method]
        if scale is not None:
            table.insert(0, GUIDANCE, scale)
        parts.append(table)
    whole = pd.concat(parts, ignore_index=True).fillna("")
    whole = whole.loc[:, (whole != "").any()]
    whole.attrs[NOTE] = (
        "Less is better of the Fréchet distance, in the local features of the model's tokenizer, "
        "to rendered truth, and of operations, the share of full generation's (in brackets the "
        "least and the most of a picture where they depend on it); more is better of the speedup "
        "and of equal tokens, the mean share over the steps that full generation and the method "
        "draw."
    )
    return whole


def _columns(frame: pd.DataFrame) -> dict[str, dict[str, str]]:
    """Return the texts of each column by method, at one guidance scale."""
    columns: dict[str, dict[str, str]] = {}
    if "speedup_low" in frame:
        times = frame[frame.kind == "time"]
        columns["speedup"] = {
            row.method: f"{row.speedup:.2f} [{row.speedup_low:.2f} to {row.speedup_high:.2f}]"
            + (f" ({DISTURBED})" if wide else "")
            for row, wide in zip(times.itertuples(), disturbances(times), strict=True)
        }
    if OPERATIONS in frame:
        counts = frame[frame.kind == OPERATIONS].groupby("method")[OPERATIONS]
        columns[OPERATIONS] = {
            str(name): f"{100 * shares.mean():.1f} %"
            + (
                f" [{100 * shares.min():.1f} to {100 * shares.max():.1f}]"
                if len(shares) > 1
                else ""
            )
            for name, shares in counts
        }
    if "frechet" in frame:
        sets = frame[frame.kind == "set"]
        columns["Fréchet distance"] = {
            row.method: f"{row.frechet:.2f} ({row.frechet_low:.2f} to {row.frechet_high:.2f})"
            for row in sets.itertuples()
        }
    agreed = [c for c in frame if str(c).startswith(AGREE)]
    if agreed:
        pictures = frame[(frame.kind == "quality") & (frame.family != FULL)]
        shares = pictures.groupby("method")[agreed].mean().mean(axis=1)
        columns["equal tokens"] = {str(n): "" if s != s else f"{s:.3f}" for n, s in shares.items()}
    return columns
