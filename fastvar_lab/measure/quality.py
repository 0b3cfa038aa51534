"""Metrics: numbers of a picture beside its reference, each a function in one registry.

A metric is a function of `picture` and `reference`, (H, W, 3) uint8, that returns a number, or
several by name. It may also take, by these names, `item` (its prompt, seed and group), `tokens` and
`reference_tokens` (of both generations, by scale step, such as "32x32"; None where a step was
skipped). To ship one, add it to `METRICS`; your own is any such function.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fastvar_lab.errors import unknown
from fastvar_lab.frames import HITS, LARGER, SCORE, TITLES, is_described
from fastvar_lab.measure.learned import Alignment, Perceptual

if TYPE_CHECKING:  # figures and tables need no torch
    from torch import Tensor

    from fastvar_lab.prompts import Item

MOST_PSNR = 10 * math.log10(12 * 255**2)
"""PSNR in dB of two pictures that differ by their rounding to 8 bits alone, 58.9; equal ones count
as much, so that a mean over pictures says how far the others are off."""

OFFERED = ("item", "tokens", "reference_tokens")
Tokens = Mapping[str, "Tensor | None"]


@dataclass(frozen=True)
class Metric:
    """A metric under its name: how a table shows it, and the function that computes it.

    `title` heads its column of tables, with the key of each of several values; `digits` follow the
    point. `larger` says whether a larger value is better (None: neither), `hits` that values are 0
    or 1, so that intervals are those of shares. `version` is part of the address of its values:
    raise it when they change. A function of your own is addressed by its code. A metric that is not
    `usual` is computed only where it is named.
    If pictures have a side below `smallest` pixels, a metric that is asked for by name is refused
    before any is drawn, and any other is left out. Raises ValueError for a name that frames use
    otherwise, for digits that are no whole number from 0, and for a function of other arguments.

    >>> Metric("red", "red", lambda picture, reference: float(picture[..., 0].mean())).digits
    3
    """

    name: str
    title: str
    function: Callable[..., float | Mapping[str, float]]
    digits: int = 3
    larger: bool | None = True
    hits: bool = False
    version: int = 1
    usual: bool = True
    smallest: int = 1

    def __post_init__(self) -> None:
        if not self.name or is_described(self.name):
            raise ValueError(f"a metric cannot be named {self.name!r}: frames use that name")
        if not isinstance(self.digits, int) or self.digits < 0:
            raise ValueError(
                f"the digits of the metric {self.name} must be a whole number from 0; "
                f"not {self.digits!r}"
            )
        try:
            inspect.signature(self.function).bind(None, None, **dict.fromkeys(self.wants))
        except TypeError as error:
            raise ValueError(
                f"the metric {self.name} must be a function of picture and reference, and of "
                f"{', '.join(OFFERED)} if it wants them; {error}"
            ) from None

    @property
    def address(self) -> str:
        """What its values depend on beside the pictures."""
        from fastvar_lab.methods.fingerprint import code_of

        rule = getattr(self.function, "judge", self.function)
        module = rule.__module__  # of a callable value, that of its class
        if module.partition(".")[0] == "fastvar_lab":
            weights = getattr(rule, "fingerprint", "")  # of networks
            return f"{self.name}/{self.version}{weights and f'/{weights}'}"
        return f"{self.name}/{self.version}/{code_of(rule)}"

    @property
    def wants(self) -> set[str]:
        """What it takes beside the two pictures."""
        return set(OFFERED) & set(inspect.signature(self.function).parameters)

    def heading(self, column: str) -> tuple[str, int]:
        """Return title and digits of one of its columns.

        >>> METRICS["agree"].heading("agree_4x4")
        ('equal tokens 4x4', 3)
        """
        key = column.removeprefix(self.name).removeprefix("_")
        return f"{self.title} {key}" if key else self.title, self.digits

    def columns(
        self, picture: np.ndarray, reference: np.ndarray, **offered: Any
    ) -> dict[str, float]:
        """Compute the columns of one picture: `name`, or `name_key` for each of several values.

        Raises ValueError for a function that returns anything but numbers, or hits but 0 and 1.
        """
        wanted = {name: offered[name] for name in self.wants}
        value = self.function(picture, reference, **wanted)
        values = value if isinstance(value, Mapping) else {"": value}
        try:
            numbers = {f"{self.name}_{k}" if k else self.name: float(v) for k, v in values.items()}
        except (TypeError, ValueError):
            raise ValueError(
                f"the metric {self.name} must return a number or numbers by name; "
                f"it returned {value!r}"
            ) from None
        graded = [v for v in numbers.values() if v not in (0, 1) and not math.isnan(v)]
        if self.hits and self.name != SCORE and graded:
            raise ValueError(
                f"the metric {self.name} has hits=True, so that its values are 0, 1 or nan; "
                f"it returned {graded[0]!r}"
            )
        return numbers


def psnr(picture: np.ndarray, reference: np.ndarray) -> float:
    """PSNR in dB of two uint8 pictures, at most `MOST_PSNR`, which stands for equal ones."""
    from skimage.metrics import peak_signal_noise_ratio

    if np.array_equal(picture, reference):
        return MOST_PSNR
    return min(MOST_PSNR, float(peak_signal_noise_ratio(reference, picture)))


def ssim(picture: np.ndarray, reference: np.ndarray) -> float:
    """Structural similarity of two uint8 pictures (H, W, 3); 1 if they are equal."""
    from skimage.metrics import structural_similarity

    return float(structural_similarity(reference, picture, channel_axis=-1))


def ms_ssim(picture: np.ndarray, reference: np.ndarray) -> float:
    """Multi-scale structural similarity, by torchmetrics; nan for pictures of at most 160 px."""
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    if min(picture.shape[:2]) <= 160:
        return float("nan")
    one, other = _as_tensors(picture, reference)
    return float(multiscale_structural_similarity_index_measure(one, other, data_range=255.0))


def vif(picture: np.ndarray, reference: np.ndarray) -> float:
    """Visual information fidelity, by torchmetrics: 1 is equal, more is sharper."""
    from torchmetrics.functional.image import visual_information_fidelity

    one, other = _as_tensors(picture, reference)
    return float(visual_information_fidelity(one, other))  # its noise is set for 0 to 255


def spectrum_error(picture: np.ndarray, reference: np.ndarray) -> float:
    """Mean absolute gap of the radial spectra, in log10 of their amplitudes."""
    from fastvar_lab.measure.scale_steps import radial_spectrum

    one, other = (radial_spectrum(x / 255)[1] for x in (picture, reference))
    return float(np.abs(one - other).mean())


def agreement(
    picture: np.ndarray, reference: np.ndarray, tokens: Tokens, reference_tokens: Tokens
) -> dict[str, float]:
    """Share of equal tokens at every scale step that neither generation skipped."""
    shares = {size: token_agreement(tokens[size], reference_tokens[size]) for size in tokens}
    return {size: share for size, share in shares.items() if share == share}


def world_detail(picture: np.ndarray, reference: np.ndarray, item: Item) -> dict[str, float]:
    """Detail of a closed-world picture against the rendered truth of its prompt; see `detail`.

    Raises PromptError for a prompt outside the closed world's grammar.
    """
    from fastvar_lab.world.detail import detail
    from fastvar_lab.world.grammar import parse

    return detail(parse(item.prompt), picture, item.seed)


def token_agreement(first: Tensor | None, second: Tensor | None) -> float:
    """Share of equal bits, or codebook rows, of one step; nan where either was skipped."""
    if first is None or second is None or first.is_floating_point():
        return float("nan")
    return float((first == second).float().mean())


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("psnr", "PSNR (dB)", psnr, digits=1, version=2),
        Metric("ssim", "SSIM", ssim, smallest=7),
        Metric("ms_ssim", "MS-SSIM", ms_ssim),
        Metric("vif", "VIF", vif, larger=None, smallest=41),
        Metric("spectrum_error", "spectrum error", spectrum_error, larger=False),
        Metric("agree", "equal tokens", agreement),
        Metric("detail", "detail", world_detail, larger=None, usual=False),
        Metric("lpips", "LPIPS", Perceptual("lpips"), larger=False, usual=False, smallest=31),
        Metric("clip_i", "CLIP-I", Perceptual("clip"), usual=False),
        Metric("dino", "DINO", Perceptual("dino"), usual=False),
        Metric("clip_score", "CLIP score", Alignment("clip"), digits=2, usual=False),
        Metric("hps", "HPSv2.1", Alignment("hps"), digits=2, usual=False),
        Metric("imagereward", "ImageReward", Alignment("imagereward"), usual=False),
    )
}
"""Every metric that ships here, by name."""


@dataclass(frozen=True)
class Judged:
    """The judge of a prompt set as the function of a metric: it needs no reference."""

    judge: Callable[[Any, np.ndarray], float]

    def __call__(self, picture: np.ndarray, reference: np.ndarray, item: Any) -> float:
        return float(self.judge(item, picture))


def score(judge: Callable[[Any, np.ndarray], float]) -> Metric:
    """Return the judge of a prompt set, a function of an item and a picture, as a metric.

    Where it gives grades, not hits, intervals are those of a mean.
    """
    return Metric(SCORE, "score", Judged(judge), digits=2, hits=True)


def notes_of(measured: Iterable[tuple[Metric, Iterable[str]]]) -> dict[str, str]:
    """Return what a frame says of metrics, each with its columns: `frames.ABOUT_COLUMNS`.

    It names the columns that are hits, beside the judge's, titles those of your metrics, and says
    of which of these larger values are not better.

    >>> notes_of([(Metric("same", "same", lambda picture, reference: 1.0, hits=True), ["same"])])
    {'hits': 'same', 'titles': '{"same": ["same", 3]}'}
    """
    others = [(metric, columns) for metric, columns in measured if metric.name != SCORE]
    hits = [c for metric, columns in others if metric.hits for c in columns]
    user_metrics = [(m, columns) for m, columns in others if m.name not in METRICS]
    titles = {c: m.heading(c) for m, columns in user_metrics for c in columns}
    larger = {c: m.larger for m, columns in user_metrics for c in columns if not m.larger}
    return {
        **({HITS: ",".join(hits)} if hits else {}),
        **({TITLES: json.dumps(titles)} if titles else {}),
        **({LARGER: json.dumps(larger)} if larger else {}),
    }


Chosen = Iterable[str | Metric] | Mapping[str, Callable[..., Any]]


def chosen(metrics: Chosen | None = None) -> tuple[Metric, ...]:
    """Return the usual metrics, and those that are asked for beside them.

    `metrics` are names of `METRICS`, metrics, or functions of your own by name. Raises ValueError
    for a name that is not known, or stands for two metrics.

    >>> [metric.name for metric in chosen({"mine": lambda picture, reference: 0.0})][-2:]
    ['agree', 'mine']
    """
    by_name = {name: metric for name, metric in METRICS.items() if metric.usual}
    for metric in as_metrics(metrics or ()):
        if metric.name == SCORE or by_name.get(metric.name, metric) != metric:
            raise ValueError(f"there is a metric {metric.name!r} already; name yours otherwise")
        by_name[metric.name] = metric
    return tuple(by_name.values())


def as_metrics(metrics: Chosen) -> list[Metric]:
    """Return metrics for their names, or for functions of your own by name.

    A single string is one name. Raises ValueError for a name that is not known, and for anything
    else than names, metrics and functions by name.
    """
    if isinstance(metrics, str):
        metrics = [metrics]
    if isinstance(metrics, Mapping):
        items = metrics.items()
        return [f if isinstance(f, Metric) else Metric(name, name, f) for name, f in items]
    metrics = list(metrics)  # it may be a generator
    for name in metrics:
        if isinstance(name, str) and name not in METRICS:
            raise unknown("metric", name, METRICS)
        if not isinstance(name, str | Metric):
            raise ValueError(
                f"metrics are names, Metrics or functions by name, {{'mine': f}}; not {name!r}"
            )
    return [METRICS[metric] if isinstance(metric, str) else metric for metric in metrics]


def fitting(
    metrics: Sequence[Metric],
    named: Collection[str],
    height: int,
    width: int,
    note: Callable[[str], object] = print,
) -> tuple[Metric, ...]:
    """Return the metrics that pictures of `height` x `width` pixels are large enough for.

    `note` is told of each that is left out. Raises ValueError for one that is `named`.

    >>> [metric.name for metric in fitting(chosen(), (), 32, 48)][-1]
    pictures of 32x48 px are too small for the metric vif, which needs 41 px a side: it is left out
    'agree'
    """
    large_enough = list[Metric]()
    for metric in metrics:
        if min(height, width) >= metric.smallest:
            large_enough.append(metric)
            continue
        reason = (
            f"pictures of {height}x{width} px are too small for the metric {metric.name}, "
            f"which needs {metric.smallest} px a side"
        )
        if metric.name in named:
            raise ValueError(reason)
        note(f"{reason}: it is left out")
    return tuple(large_enough)


def to_reference(picture: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Compare a picture (H, W, 3) uint8 with its reference: every usual metric of two pictures.

    Metrics that they are too small for are left out.

    Raises ValueError for pictures of different shapes.

    >>> picture = np.random.default_rng(0).integers(0, 256, (176, 176, 3)).astype(np.uint8)
    >>> round(to_reference(picture, picture)["psnr"], 1)
    58.9
    """
    if picture.shape != reference.shape:
        raise ValueError(f"pictures of {picture.shape} and {reference.shape} cannot be compared")
    side = min(picture.shape[:2])
    paired = [metric for metric in chosen() if not metric.wants and metric.smallest <= side]
    return {k: v for metric in paired for k, v in metric.columns(picture, reference).items()}


def _as_tensors(*pictures: np.ndarray) -> list[Tensor]:
    """Turn pictures (H, W, 3) into tensors (1, 3, H, W) in 0 to 255."""
    import torch

    arrays = (picture.astype(np.float32).transpose(2, 0, 1)[None] for picture in pictures)
    return [torch.from_numpy(array) for array in arrays]
