"""Pictures in motion: generations side by side, each scale step shown for as long as it took."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from fastvar_lab.files import expanded, write
from fastvar_lab.plotting.panels import picture
from fastvar_lab.plotting.style import Figure, looks, style

SLOWER = 3.0  # times as slow as it ran
SHORTEST = 40  # ms of a frame: viewers show shorter ones longer
STEP_MS = 600  # ms of a scale step, where all take the same time
LAST = 2500  # ms of the last frame
PIXELS_PER_INCH = 110


class Frame(NamedTuple):
    """A picture (H, W, 3) uint8 of an animation, and how many milliseconds it is shown."""

    picture: np.ndarray
    ms: int


class Run(NamedTuple):
    """The steps of one generation: pictures (H, W, 3) in [0, 1], names of scales, milliseconds."""

    pictures: Sequence[np.ndarray]
    scales: Sequence[str]
    ms: Sequence[float]


def race(runs: Mapping[str, Run], title: str, slower: float = SLOWER) -> list[Frame]:
    """Animate generations that start together: a frame whenever one has finished a scale step.

    Raises ValueError for a `slower` that is not above 0.

    >>> grey, white = np.full((2, 8, 8, 3), 0.5), np.ones((2, 8, 8, 3))
    >>> runs = {"full": Run(grey, ["1x1", "2x2"], [10, 90]),
    ...         "FastVAR": Run(white, ["1x1", "2x2"], [10, 30])}
    >>> [frame.ms for frame in race(runs, "a red ring")]  # ends at 10 ms, 40 ms and 100 ms
    [40, 90, 180, 2500]
    """
    if not slower > 0:
        raise ValueError(f"an animation must be slower by a factor above 0; not {slower}")
    ends = {name: list(accumulate(run.ms)) for name, run in runs.items()}
    moments = sorted({0.0, *(end for times in ends.values() for end in times)})
    lasting = [max(SHORTEST, round(slower * gap)) for gap in np.diff(moments)] + [LAST]
    first = np.full_like(next(iter(runs.values())).pictures[0], 0.5)
    frames = []
    for moment, ms in zip(moments, lasting, strict=True):
        shown = {}
        for name, run in runs.items():
            done = sum(end <= moment for end in ends[name])
            shown[name] = (
                run.pictures[done - 1] if done else first,
                run.scales[done - 1] if done else "",
                min(moment, ends[name][-1]),
            )
        frames.append(Frame(_drawn(shown, moments[-1], title), ms))
    return frames


def in_step(
    columns: Mapping[str, Sequence[np.ndarray]], scales: Sequence[str], title: str,
    ms: int = STEP_MS,
) -> list[Frame]:  # fmt: skip
    """Animate pictures (H, W, 3) in [0, 1] side by side: a frame of `ms` for each scale step.

    Raises ValueError for columns of another length than `scales`.

    >>> grey = [np.full((8, 8, 3), 0.5)] * 2
    >>> [frame.ms for frame in in_step({"full": grey, "FastVAR": grey}, ["1x1", "2x2"], "a ring")]
    [600, 2500]
    """
    for name, pictures in columns.items():
        if len(pictures) != len(scales):
            raise ValueError(f"{name} has {len(pictures)} pictures for {len(scales)} scale steps")
    frames = []
    for step, scale in enumerate(scales):
        with style():
            fig = Figure(figsize=(2.2 * len(columns), 2.75))
            fig.suptitle(f"{title}: {scale}", y=0.975, fontsize=9)
            for i, (name, pictures) in enumerate(columns.items()):
                left, width = (i + 0.03) / len(columns), 0.94 / len(columns)
                picture(fig.add_axes((left, 0.1, width, 0.77)), pictures[step])
                fig.text(left + width / 2, 0.03, name, ha="center")
            frames.append(Frame(_pixels(fig), LAST if step == len(scales) - 1 else ms))
    return frames


def _pixels(fig: Figure) -> np.ndarray:
    with Image.open(io.BytesIO(fig.png(PIXELS_PER_INCH))) as drawing:
        return np.asarray(drawing.convert("RGB"))


def _drawn(
    shown: Mapping[str, tuple[np.ndarray, str, float]], longest: float, title: str
) -> np.ndarray:
    """Draw one moment: the pictures so far, and a bar of the time that each has taken."""
    with style():
        fig = Figure(figsize=(2.6 * len(shown), 3.35))
        fig.suptitle(title, y=0.975, fontsize=9)
        colors = {name: look.color for name, look in looks(shown).items()}
        for i, (name, (image, scale, ms)) in enumerate(shown.items()):
            left, width = (i + 0.04) / len(shown), 0.92 / len(shown)
            picture(fig.add_axes((left, 0.16, width, 0.74)), image)
            bar = fig.add_axes((left, 0.09, width, 0.04), xlim=(0, longest), ylim=(0, 1))
            bar.barh(0.5, ms, 1, color=colors[name])
            bar.barh(0.5, longest, 1, color="none", edgecolor="0.7", lw=0.8, clip_on=False)
            bar.set_axis_off()
            fig.text(left, 0.03, f"{name}: {ms / 1000:.2f} s")
            fig.text(left + width, 0.03, scale, ha="right")
        return _pixels(fig)


def write_gif(path: str | Path, frames: Sequence[Frame]) -> None:
    """Write an animation as GIF that loops.

    All frames share one palette, so that colors do not flicker. Raises ValueError without a frame.
    """
    if not frames:
        raise ValueError("an animation must have at least one frame")
    pictures = [Image.fromarray(frame.picture) for frame in frames]
    sheet = Image.fromarray(np.concatenate([frame.picture[::2, ::2] for frame in frames]))
    palette = sheet.quantize(256, dither=Image.Dither.NONE)
    first, *rest = (p.quantize(palette=palette, dither=Image.Dither.NONE) for p in pictures)
    write(
        expanded(path),
        lambda partial: first.save(
            partial,
            format="gif",
            save_all=True,
            append_images=rest,
            duration=[frame.ms for frame in frames],
            loop=0,
            optimize=True,
        ),
    )
