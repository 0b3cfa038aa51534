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
"""The log of the embedded model."""

TARGETS = (1.5, 2.0, 3.0, 4.0)
"""Savings that are tuned for: full generation's operations, or bytes, over a setting's."""

LEAST = 1.02
"""A saving that counts as none."""

SAVES = ("operations", "bytes")

DIGITS = 6
"""Digits of a saving and a PSNR in the log."""

COLUMNS = {
    "model": str, "weights": str, "guidance": float, "family": str, "trial": int, "pictures": int,
    "saves": str, "saving": float, "psnr": float, "method": str,
}  # fmt: skip


@dataclass
class TuningLog:
    """Trials in the order in which they were made; each is on disk before the next begins.

    `psnr` is the mean over calibration pictures, in dB to full generation. `saving` says how many
    times fewer operations, or bytes of keys and values (`saves`), a setting takes; bytes count
    against a cache in 16 bits.

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
            frame = pd.read_csv(path, dtype=COLUMNS)[[*COLUMNS]]
        except OSError as error:
            raise ValueError(f"cannot read the log {path}: {error.strerror}") from None
        except (ValueError, KeyError) as error:
            raise ValueError(f"{path} is no log of a tuning: {short(error)}") from None
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


def settings(
    trials: Sequence[dict[str, Any]], targets: Sequence[float] = TARGETS
) -> list[dict[str, Any]]:
    """Return the best trial for each target, from mild to extreme, of those that save something.

    That is the one of the front whose saving is nearest. Where two targets have one in common, the
    front's next ones fill up, so that there are as many as targets, if it has as many.

    >>> settings([{"saving": 1.6, "psnr": 38.0}, {"saving": 1.4, "psnr": 35.0}])
    [{'saving': 1.6, 'psnr': 38.0}]
    """
    candidates = front([trial for trial in trials if trial["saving"] > LEAST])
    chosen: list[dict[str, Any]] = []
    for target in targets:
        left = [trial for trial in candidates if trial not in chosen]
        if left:
            chosen.append(min(left, key=lambda t: abs(math.log(t["saving"] / target))))
    return sorted(chosen, key=lambda trial: trial["saving"])
