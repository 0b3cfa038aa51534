"""The columns of frames that methods, metrics, tables and charts have in common."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pandas as pd

KEPT, ROWS = "kept_", "rows_"
"""Prefixes of the columns of each scale step, such as `kept_32x32`."""

SCORE = "right"
"""The column of a prompt set's judge."""

HITS = "hits"
"""The column that names other columns of hits (0 or 1), with commas between."""

TITLES = "titles"
"""The column of title and digits of metrics that do not ship here, by column, as JSON."""

LARGER = "larger"
"""The column that says, of columns of metrics that do not ship here, where larger values are not
better: false where smaller ones are, null for neither, as JSON."""

ABOUT_COLUMNS = (HITS, TITLES, LARGER)
"""The columns that say something of other columns."""

GUIDANCE = "guidance"
"""The column of the guidance scale, in frames of experiments that ask at several."""

CELL = "cell"
"""The column of the key under which a store keeps a row, by which committed rows are read back."""

METRICS = "metric_addresses"
"""The attribute of frames, and the entry of reports, that says on what values depend: a metric's
address by its name."""

NOTE = "note"
"""The attribute of tables that holds the line under them."""

LINE, OPERATIONS = "line", "operations"
"""The columns of the line of a chart that a method belongs to, and of counted operations as a share
of those of full generation."""

CACHE = "cache"
"""The column of the most bytes of keys and values that are held between steps, as a share of full
generation's in 16 bits."""

PLANNED_AT = "planned_at"
"""The column of the guidance scale that a planned schedule was planned at."""

PLACE = ("model", "machine", GUIDANCE)
"""The columns of where values are from: they are shown if there are several."""

FULL, FASTVAR, SKIPPING, CONDITIONAL = "full", "FastVAR", "skipping", "conditional tail"
"""Families of methods, in the column of that name; `FULL` also labels unpruned generation."""

BY_HAND = (FASTVAR, SKIPPING, CONDITIONAL)
"""The families of schedules that people write by hand."""

DESCRIBED = (
    *("kind", "model", "weights", "prompts", "machine", "method", "repr", "family", "axis"),
    *("selector", "restorer", "granularity", "cache_step", "layers", "sublayers", "picture"),
    *("prompt", "seed", "group", "ms", "speedup", "turns", "disturbed", GUIDANCE, LINE),
    *(OPERATIONS, CACHE, *ABOUT_COLUMNS, CELL),
)
"""Columns of comparisons that hold no metric."""

PREFIXES = (KEPT, ROWS, "agree_", "speedup_")
"""Prefixes of columns of which tables show no mean."""


def by_guidance(frame: pd.DataFrame) -> list[tuple[Any, pd.DataFrame]]:
    """Split a frame by guidance scale, in rising order; one without the column is a whole, at None.

    >>> frame = pd.DataFrame({"guidance": [4, 2, 4], "psnr": [30.0, 31.0, 32.0]})
    >>> [(scale, len(part)) for scale, part in by_guidance(frame)]
    [(2, 1), (4, 2)]
    """
    return [*frame.groupby(GUIDANCE)] if GUIDANCE in frame else [(None, frame)]


def check_one_place(frame: pd.DataFrame, columns: Sequence[str] = PLACE) -> None:
    """Raise ValueError for a frame of several models, machines or guidance scales, or `columns`.

    What is measured at one is not to be averaged with what is measured at another.

    >>> check_one_place(pd.DataFrame({"guidance": [2, 4]}))
    Traceback (most recent call last):
    ValueError: the frame holds the guidances 2 and 4; take one: frame[frame.guidance == 2]
    """
    for column in columns:
        names = frame[column].dropna().unique().tolist() if column in frame else []
        if len(names) > 1:
            one = f"frame.{column} == {names[0]!r}"
            one = f"frame.{column}.isna() | ({one})" if column == "machine" else one
            several = " and ".join(map(str, names))
            raise ValueError(f"the frame holds the {column}s {several}; take one: frame[{one}]")


def is_described(column: str) -> bool:
    """Return whether a column holds no metric that tables show.

    >>> [is_described(column) for column in ("method", "kept_32x32", "psnr")]
    [True, True, False]
    """
    return column in DESCRIBED or column.startswith(PREFIXES)


def holds_hits(frame: pd.DataFrame, column: str) -> bool:
    """Return whether the values of a column are hits: said to be, and 0 or 1.

    A prompt set's judge may give hits or grades.

    >>> frame = pd.DataFrame({"right": [1, 0], "same": [1, 1], "near": [0.5, 1], "psnr": [30, 31]})
    >>> frame["hits"] = "same,near"
    >>> [holds_hits(frame, column) for column in ("right", "same", "near", "psnr")]
    [True, True, False, False]
    """
    names = frame[HITS].dropna().unique() if HITS in frame else ()
    said = column == SCORE or any(column in name.split(",") for name in names)
    return said and bool(frame[column].dropna().isin((0, 1)).all())


def counted(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of pictures of an untimed comparison, with what each method costs.

    Counts of methods that decide from the picture are means over the pictures. Raises ValueError
    for a frame without counts, and for one of several models.

    >>> rows = [{"kind": "quality", "method": "a", "psnr": 30.0},
    ...         {"kind": "operations", "method": "a", "operations": 0.5}]
    >>> counted(pd.DataFrame(rows))[["psnr", "operations"]].to_numpy().tolist()
    [[30.0, 0.5]]
    """
    if "kind" not in frame or not {"quality", "operations"} <= set(frame.kind):
        raise ValueError(
            "the frame must come from a comparison, with its rows of both kinds: quality, and "
            "operations or time"
        )
    check_one_place(frame, ["model"])
    keys = [column for column in (GUIDANCE, "method") if column in frame]
    counts = [column for column in (OPERATIONS, CACHE) if column in frame]
    costs = frame[frame.kind == "operations"].groupby(keys, sort=False)[counts].mean()
    pictures = frame[frame.kind == "quality"].drop(columns=counts)
    return pictures.merge(costs.reset_index(), on=keys)


def titles(frame: pd.DataFrame) -> dict[str, tuple[str, int]]:
    """Return title and digits of the columns of metrics that do not ship here.

    >>> titles(pd.DataFrame({"titles": ['{"red": ["mean of red", 1]}', None]}))
    {'red': ('mean of red', 1)}
    """
    return {column: (title, digits) for column, (title, digits) in _noted(frame, TITLES).items()}


def not_larger(frame: pd.DataFrame) -> dict[str, bool | None]:
    """Return the columns of metrics that do not ship here of which larger values are not better.

    False where smaller values are better, None for neither.

    >>> not_larger(pd.DataFrame({"larger": ['{"error": false}', None, '{"red": null}']}))
    {'error': False, 'red': None}
    """
    return _noted(frame, LARGER)


def _noted(frame: pd.DataFrame, column: str) -> dict[str, Any]:
    """Join what the rows of a column say by JSON."""
    texts = frame[column].dropna().unique() if column in frame else ()
    return {name: said for text in texts for name, said in json.loads(text).items()}


def joined_notes(column: str, notes: pd.Series) -> str | None:
    """Join what several frames say in one of `ABOUT_COLUMNS`; None if none says anything.

    >>> joined_notes(HITS, pd.Series(["close,same", None, "same,near"]))
    'close,same,near'
    """
    notes = notes.dropna()
    if notes.empty:
        return None
    if column == HITS:
        return ",".join(dict.fromkeys(name for note in notes for name in note.split(",")))
    return json.dumps({k: v for note in notes for k, v in json.loads(note).items()})
