"""The log of a tuning: every trial as a row of a file, and the settings that are read from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from fastvar_lab.errors import short
from fastvar_lab.files import expanded, write_utf8
from fastvar_lab.models.model import Model

SHIPPED = Path(__file__).with_name("trials.csv")
"""The log of the shipped model."""

TARGETS = (1.5, 2.0, 3.0, 4.0)
"""Savings that are tuned for: full generation's operations, or bytes, over a setting's."""

LEAST = 1.02
"""A saving that counts as none."""

BAND = 0.1
"""A saving is about a target if it differs by this share at most."""

TIE = 0.005
"""Two savings are as near to a target if they differ by this share at most."""

FARTHEST = 1.5
"""Savings above the largest target times this are no settings, if there are others."""

SAVES = ("operations", "bytes")

DIGITS = 6
"""Digits of a saving and a PSNR in the log."""

COLUMNS = {
    "model": str, "weights": str, "guidance": float, "family": str, "trial": int, "pictures": int,
    "items": str, "saves": str, "saving": float, "psnr": float, "method": str,
}  # fmt: skip


@dataclass
class TuningLog:
    """Trials in the order in which they were made; each is on disk before the next begins.

    `psnr` is the mean over calibration pictures, in dB to full generation. `saving` says how many
    times fewer operations, or bytes of keys and values (`saves`), a setting takes; bytes count
    against a cache in 16 bits. `items` is the key of the prompts and seeds that were drawn.

    >>> {"model", "guidance", "method"} <= set(TuningLog.read().frame)
    True
    """

    path: Path
    rows: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def read(cls, path: str | Path = SHIPPED) -> TuningLog:
        """Read a log; an absent file is an empty one. Raises ValueError for any other file."""
        path = expanded(path)
        if not path.exists():
            return cls(path)
        try:
            frame = pd.read_csv(path, dtype=COLUMNS)
        except OSError as error:
            raise ValueError(f"cannot read the log {path}: {error.strerror}") from None
        except ValueError as error:
            raise ValueError(f"{path} is no log of a tuning: {short(error)}") from None
        missing = [name for name in COLUMNS if name not in frame]
        if missing:
            raise ValueError(f"{path} is no log of a tuning: it lacks {', '.join(missing)}")
        frame = frame[[*COLUMNS]]
        sound = frame.notna().all(axis=1) & frame.saves.isin(SAVES) & frame.method.str.endswith(")")
        sound &= (frame.saving > 0) & (frame.saving < math.inf)
        if not sound.all():
            raise ValueError(f"{path} is damaged: line {2 + int(sound.argmin())} holds no trial")
        return cls(path, frame.to_dict("records"))

    @property
    def frame(self) -> pd.DataFrame:
        """All trials, a row each."""
        return pd.DataFrame(self.rows, columns=[*COLUMNS])

    def add(self, **trial: Any) -> None:
        """Keep a trial."""
        self.rows.append(trial)
        text = self.frame.to_csv(index=False, float_format=f"%.{DIGITS}g")
        write_utf8(self.path, text)

    def of(self, model: Model, family: str | None = None) -> list[dict[str, Any]]:
        """Return the trials on a model at its guidance, of one family or of all."""
        weights, guidance = model.fingerprint, model.sampling.guidance
        return [
            row
            for row in self.rows
            if (row["weights"], row["guidance"]) == (weights, guidance)
            and family in (None, row["family"])
        ]


def front(trials: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the trials that no other beats in both saving and PSNR, from mild to extreme.

    >>> front([{"saving": 2, "psnr": 30}, {"saving": 3, "psnr": 31}, {"saving": 4, "psnr": 25}])
    [{'saving': 3, 'psnr': 31}, {'saving': 4, 'psnr': 25}]
    """
    best: list[dict[str, Any]] = []
    for trial in sorted(trials, key=lambda t: (-t["saving"], -t["psnr"])):
        if not best or trial["psnr"] > best[-1]["psnr"]:
            best.append(trial)
    return best[::-1]


def reachable(savings: Sequence[float], targets: Sequence[float] = TARGETS) -> list[float]:
    """Return the targets between the least and the largest saving, or about as large as one.

    >>> reachable([1.1, 1.4, 1.9]), reachable([1.03, 1.2])
    ([1.5, 2.0], [])
    """
    if not savings:
        return []
    low, high = min(savings), max(savings)
    return [t for t in targets if low <= t <= high or min(gap(low, t), gap(high, t)) <= BAND]


def gap(saving: float, target: float) -> float:
    """Return how far a saving is from a target, as a difference of logarithms."""
    return abs(math.log(saving / target))


def settings(
    trials: Sequence[dict[str, Any]], targets: Sequence[float] = TARGETS
) -> list[dict[str, Any]]:
    """Return as many trials as targets, from mild to extreme, of those that save something.

    They are of the front, as far as it has as many. Each target in reach has the one whose saving
    is nearest, or a better one that is as near but for half a per cent. Then those follow whose
    savings are farthest from all that are chosen, as long as they are not far above the targets.

    >>> settings([{"saving": 1.6, "psnr": 38.0}, {"saving": 1.4, "psnr": 35.0}])
    [{'saving': 1.6, 'psnr': 38.0}]
    """
    left = front([trial for trial in trials if trial["saving"] > LEAST])
    chosen: list[dict[str, Any]] = []
    for target in reachable([trial["saving"] for trial in left], targets):
        if left:
            least = min(gap(trial["saving"], target) for trial in left)
            near = [trial for trial in left if gap(trial["saving"], target) <= least + TIE]
            chosen.append(max(near, key=lambda trial: trial["psnr"]))
            left.remove(chosen[-1])
    while left and len(chosen) < len(targets):
        known = [trial["saving"] for trial in chosen] or [min(targets)]
        within = [t for t in left if t["saving"] <= FARTHEST * max(targets)] or left[:1]
        farthest = max(within, key=lambda t: min(gap(t["saving"], saving) for saving in known))
        chosen.append(farthest)
        left.remove(farthest)
    return sorted(chosen, key=lambda trial: trial["saving"])
