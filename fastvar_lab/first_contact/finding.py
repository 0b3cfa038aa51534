"""What is found about a checkpoint, row by row, and the table of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

RIGHT, OFF, OPEN = "right", "off", "open"


class Finding(NamedTuple):
    """One row of the report: what was looked at, the verdict, the numbers, what it would mean."""

    what: str
    verdict: str
    numbers: str
    meaning: str = ""


def table(findings: Sequence[Finding]) -> str:
    """Format findings for a terminal."""
    lines = [f"{'':<5} {'':<20} found"]
    for finding in findings:
        lines.append(f"{finding.verdict:<5} {finding.what:<20} {finding.numbers}")
        if finding.meaning:
            lines.append(f"{'':<26} {finding.meaning}")
    return "\n".join(lines)
