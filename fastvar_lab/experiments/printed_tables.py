"""The paper's tables of scores as printed, and what is known of the settings behind them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from fastvar_lab.errors import unknown


class Column(NamedTuple):
    """A column of a table: its heading, the benchmark and score it comes from, and which part.

    `category` is that of the benchmark; `factor` brings our value to the printed unit.
    """

    heading: str
    benchmark: str
    score: str
    part: str = ""
    category: str | None = None
    factor: float = 1.0
    digits: int = 2


@dataclass(frozen=True)
class Table:
    """A printed table: its columns, its rows by name, the families of its models, remarks."""

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: Mapping[str, tuple[float, ...]]
    families: tuple[str, ...]
    remarks: tuple[str, ...] = ()

    def settings(self, benchmark: str, family: str) -> Mapping[str, Any]:
        """Return what the released script of a benchmark sets; nothing for another family."""
        return SCRIPTS.get(benchmark, {}).get(family, {}) if family in self.families else {}


_TWO = Column("two_object", "geneval", "geneval", "two_object")
_POSITION = Column("position", "geneval", "geneval", "position")
_ATTRIBUTES = Column("color_attr", "geneval", "geneval", "color_attr")
_OVERALL = Column("GenEval", "geneval", "geneval")
_PEOPLE = (
    Column("FID", "mjhq", "fid", category="people"),
    Column("CLIP", "mjhq", "clip", category="people"),
)
# `map` is the last token map of 1024 x 1024
_INFINITY = {"model": "infinity-2b", "map": "64x64", "guidance": 4.0, "temperature": 1.0,
             "top_p": 0.97}  # fmt: skip
_HART = {"model": "hart-0.7b", "map": "64x64", "guidance": 4.5, "smooth": True,
         "pixels": "truncate"}  # fmt: skip
_VAR = {"model": ("var-d24", "var-d30"), "map": "16x16", "guidance": 1.5, "top_p": 0.96,
        "top_k": 900, "smooth": False}  # fmt: skip
_JPEG = {"format": "jpg", "quality": 95}
_ALIKE = {"seeds": "per-prompt"}  # seeded anew at every prompt
_ONE = {"seeds": "one"}
SCRIPTS: dict[str, dict[str, dict[str, Any]]] = {
    "geneval": {
        "infinity": {**_INFINITY, **_JPEG, "rewritten": True, **_ALIKE},
        "hart": {**_HART, "format": "jpg", "quality": 75, "rewritten": False, **_ONE},
    },
    "mjhq": {"infinity": {**_INFINITY, **_ONE}, "hart": {**_HART, **_ONE}},
    "hps": {"infinity": {**_INFINITY, **_JPEG, "rewritten": False}, "hart": {**_HART, **_JPEG}},
    "imagereward": {
        "infinity": {**_INFINITY, **_JPEG, "rewritten": False, **_ALIKE},
        "hart": {**_HART, **_JPEG},
    },
    "imagenet": {"var": _VAR},
}
"""What released scripts set, by benchmark and family of models.

Source: csguoh/FastVAR, evaluation scripts; for ImageNet, FoundationVision/VAR.
"""

_SAME_NOISE = (
    "HART's script draws the 4 pictures of a GenEval prompt from one seed: its effective n is near "
    "553 prompts"
)
_PEOPLE_ARE = "FID and CLIP of Tables A.3 and A.4 are those of MJHQ's category people"

TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        Table(
            "1",
            "GenEval, 1024 x 1024",
            (_TWO, _POSITION, _ATTRIBUTES, _OVERALL),
            {
                "HART": (0.62, 0.13, 0.18, 0.51),
                "HART + FastVAR": (0.57, 0.16, 0.24, 0.51),
                "Infinity-2B": (0.85, 0.44, 0.53, 0.73),
                "Infinity-2B + FastVAR": (0.81, 0.45, 0.52, 0.72),
            },
            ("infinity", "hart"),
            (
                "Infinity's printed rows agree with third parties' runs on rewritten prompts "
                "(0.726 and 0.731), not with those on plain ones (0.683 and 0.690)",
                _SAME_NOISE,
            ),
        ),
        Table(
            "2",
            "MJHQ-30K, by category",
            tuple(
                Column(f"{category} {title}", "mjhq", score, category=category)
                for category in ("landscape", "people", "food")
                for title, score in (("FID", "fid"), ("CLIP", "clip"))
            ),
            {
                "HART": (25.43, 26.82, 30.61, 28.47, 30.37, 28.03),
                "HART + FastVAR": (22.52, 26.51, 28.19, 28.34, 30.97, 28.25),
                "Infinity-2B": (24.68, 26.62, 30.27, 27.82, 31.55, 26.66),
                "Infinity-2B + FastVAR": (24.68, 26.62, 30.55, 28.28, 32.54, 27.08),
            },
            ("infinity", "hart"),
            (
                "The landscape pair of Infinity-2B + FastVAR repeats that of Infinity-2B",
                "An FID of 3,000 pictures has a bias that grows as they get fewer: compare equal n",
            ),
        ),
        Table(
            "A.1",
            "ImageNet 256 x 256, class-conditional",
            (
                Column("IS", "imagenet", "is", digits=1),
                Column("FID", "imagenet", "fid"),
                Column("precision", "imagenet", "precision", factor=100),
                Column("recall", "imagenet", "recall", factor=100),
            ),
            {
                "VAR-d24": (313.7, 2.29, 82.50, 57.45),
                "VAR-d30": (306.6, 2.05, 81.76, 58.20),
                "FastVAR-d24": (287.4, 2.64, 79.76, 58.22),
                "FastVAR-d30": (288.7, 2.30, 80.72, 58.64),
            },
            ("var",),
            (
                "The pruning behind this table was not published: our schedule is ours",
                "The IS depends on the order of pictures: here a fixed seed shuffles them",
            ),
        ),
        Table(
            "A.2",
            "Human preference",
            (
                Column("HPSv2.1", "hps", "hps"),
                Column("ImageReward", "imagereward", "imagereward", digits=4),
            ),
            {
                "HART": (28.75, 0.5658),
                "HART + ToMe": (27.04, 0.4988),
                "HART + FastVAR": (27.85, 0.5370),
                "Infinity-2B": (30.36, 0.9245),
                "Infinity-2B + ToMe": (29.85, 0.8992),
                "Infinity-2B + FastVAR": (30.03, 0.9129),
            },
            ("infinity", "hart"),
            (
                "HPSv2.1 differs by about 1.9 between versions of torchvision, which antialias or "
                "do not: --hps-resize",
            ),
        ),
        Table(
            "A.3",
            "HART under extreme pruning of the last two scales",
            (*_PEOPLE, _OVERALL),
            {
                "no pruning": (30.61, 28.47, 0.51),
                "50 %, 75 %": (28.19, 28.34, 0.51),
                "50 %, 100 %": (48.54, 28.46, 0.48),
            },
            ("hart",),
            (_PEOPLE_ARE, _SAME_NOISE),
        ),
        Table(
            "A.4",
            "HART with another caching step",
            (_TWO, _POSITION, _ATTRIBUTES, _OVERALL, *_PEOPLE),
            {
                "no pruning": (0.62, 0.13, 0.18, 0.51, 30.61, 28.47),
                "K-N-3": (0.53, 0.11, 0.15, 0.47, 40.61, 27.36),
                "K-N-2": (0.60, 0.13, 0.19, 0.50, 32.39, 27.94),
                "K-N-1": (0.57, 0.13, 0.20, 0.49, 29.83, 28.25),
                "K-N": (0.57, 0.16, 0.24, 0.51, 28.19, 28.34),
            },
            ("hart",),
            (_PEOPLE_ARE, _SAME_NOISE),
        ),
    )
}
"""The tables of Guo et al., FastVAR (ICCV 2025), and of its supplement, by number."""


def find(name: str) -> Table:
    """Return a table by its number; raise ValueError for an unknown one.

    >>> find("A.1").rows["VAR-d30"]
    (306.6, 2.05, 81.76, 58.2)
    """
    if name not in TABLES:
        raise unknown("table", name, TABLES)
    return TABLES[name]
