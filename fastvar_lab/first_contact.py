"""First contact with a checkpoint: tells whether it is the model that it is taken for.

Released files can be complete and still not be understood: a tensor in another's place, another
tokenizer, another schedule, another rotary grid. All of these lower the likelihood of a real
picture's tokens, so that likelihood is compared with what it would be otherwise.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import psutil
import torch
from torch import Tensor
from torch.nn.functional import interpolate, pixel_unshuffle

from fastvar_lab.backbones import quantize
from fastvar_lab.generation import Generation, generate
from fastvar_lab.measure.quality import psnr
from fastvar_lab.methods.prune import Dense, Prune
from fastvar_lab.models.absent import NoText
from fastvar_lab.models.loading import skeleton
from fastvar_lab.models.model import Model
from fastvar_lab.models.requirements import memory
from fastvar_lab.pictures import to_tensor, to_uint8, write_image
from fastvar_lab.scales import Sizes
from fastvar_lab.seam import Branch, Grid, Runner, Site, Stack, Wrapper
from fastvar_lab.speed.flops import step_flops, total

RIGHT, OFF, OPEN = "right", "off", "open"
LEAST_GAIN = 6.0  # dB over a picture of the mean color alone
NEAR = 0.01  # of the gap to chance: differences below it are no evidence
HARMFUL = 0.03  # of the gap to chance, by which leaving a sublayer out must help to count
PROBED = 1000  # tokens of the first scales, over which sublayers are left out one by one
CLOSE = 0.05  # nats a token: rounding to bfloat16 changes less


class Finding(NamedTuple):
    """One row of the report: what was looked at, the verdict, the numbers, what it would mean."""

    what: str
    verdict: str
    numbers: str
    meaning: str = ""


class _Likelihood(Wrapper):
    """Collects the mean log-likelihood of given tokens at each step; leaves one sublayer out."""

    def __init__(self, inner: Runner, tokens: Sequence[Tensor], without: Site | None) -> None:
        super().__init__(inner)
        self.tokens, self.without, self.values = tokens, without, list[float]()
        self.logits: Callable[[Tensor], Tensor] | None = None

    def prepare(self, handles: Any) -> None:
        self.logits = handles.logits
        self.inner.prepare(handles)

    def sublayer(self, site: Site, grid: Grid, branch: Branch, x: Tensor) -> Tensor:
        out = self.inner.sublayer(site, grid, branch, x)
        return torch.zeros_like(out) if site == self.without else out

    def stack(self, grid: Grid, blocks: Stack, x: Tensor) -> Tensor:
        x = self.inner.stack(grid, blocks, x)
        assert self.logits is not None
        logs = self.logits(x[:, grid.prefix :]).float().log_softmax(-1)
        drawn = self.tokens[grid.index].long().unsqueeze(-1)
        self.values.append(float(logs.gather(-1, drawn).mean()))
        return x


@dataclass
class Subject:
    """A model with its encoded captions, a picture's tokens, and how likely they are.

    `right` and `wrong` are conditions of the picture's caption and of another one.
    """

    model: Model
    right: Any
    wrong: Any
    tokens: list[Tensor]

    def likelihood(
        self,
        condition: Any = None,
        tokens: Sequence[Tensor] | None = None,
        sizes: Sizes | None = None,
        first: int | None = None,
        without: Site | None = None,
    ) -> np.ndarray:
        """Return the log-likelihood of tokens at each step, in nats a token or bit.

        `first` runs that many steps alone, `without` leaves a sublayer out.
        """
        watchers = list[_Likelihood]()
        tokens = self.tokens if tokens is None else list(tokens)

        def watch(runner: Runner) -> Runner:
            watchers.append(_Likelihood(runner, tokens, without))
            return watchers[0]

        count = len(tokens)
        rest = range(first - count, 0) if first else ()
        unguided = self.model.transformer.unguided
        generate(
            self.model,
            self.right if condition is None else condition,
            Prune(dict.fromkeys(rest, 1.0)) if rest else Dense(),
            seed=0,
            sizes=sizes,
            given=tokens[:first],
            sampling=replace(self.model.sampling, guidance=unguided, temperature=1.0),
            watch=[watch],
        )
        return np.array(watchers[0].values)


def tokens_of(
    model: Model, picture: np.ndarray, sizes: Sizes | None = None
) -> tuple[list[Tensor], np.ndarray]:
    """Encode a picture (H, W, 3) uint8 to a model's tokens; return them and its reconstruction."""
    maps = model.sizes if sizes is None else sizes
    tokenizer, patch = model.tokenizer, model.quantizer.patch
    height, width = (tokenizer.config.stride * patch * n for n in maps[-1])
    image = to_tensor([picture], model.device)
    image = interpolate(image, (height, width), mode="bicubic", antialias=True).clamp(-1, 1)
    weight = tokenizer.decoder.conv_in.weight
    with torch.no_grad():
        latent = tokenizer.encoder(image.to(weight.dtype))
        if hasattr(tokenizer, "quant_conv"):
            latent = cast(Any, tokenizer).quant_conv(latent)
        latent = latent.float()
        if hasattr(model.quantizer, "encode"):
            tokens = model.quantizer.encode(latent, maps)
        else:
            tokens, _ = quantize.encode(pixel_unshuffle(latent, patch), maps)
        grids = model.grids(maps)
        canvas = model.blank(1, grids[-1])
        for grid, drawn in zip(grids, tokens, strict=True):
            canvas = model.quantizer.accumulate(canvas, drawn, grid)
        return tokens, to_uint8(model.decode(canvas))[0]


def effort(model: Model) -> tuple[int, float]:
    """Return the number of forwards of a check and their operations, guidance rows included."""
    full = total(step_flops(model, Dense(), model.grids()))
    sites = model.depth * len(model.transformer.kinds)
    share = sum(g.tokens for g in _probed(model)) / sum(g.tokens for g in model.grids())
    return sites + 12, full * (9 / 2 + sites * share / 2 + 2)


def needed(model: Model, dtype: str) -> int:
    """Return the bytes that a check needs at most: weights, KV cache of one picture, decoder."""
    parts = sum(p.numel() for part in model.parts for p in part.parameters())
    cache = memory(model, model.tokenizer.config.stride * model.sizes[-1][0])
    factor = 1 if dtype == "bfloat16" else 2
    return factor * cache + parts * getattr(torch, dtype).itemsize // 2


def speed(device: str, dtype: str) -> float:
    """Return the operations per second of a large product, measured in well under a second."""
    side = 4096 if device != "cpu" else 768
    x = torch.randn(side, side, device=device, dtype=getattr(torch, dtype))
    for _ in range(2):
        begin = time.perf_counter()
        product = x @ x
        float(product[0, 0])  # waits for the device
    return 2 * side**3 / (time.perf_counter() - begin) / 2  # layers reach about half of it


def _probed(model: Model) -> list[Grid]:
    grids, count = list(model.grids()), 0
    for i, grid in enumerate(grids):
        count += grid.tokens
        if count > PROBED:
            return grids[: max(i, 2)]
    return grids


def check(
    model: Model, caption: str, other: str, picture: np.ndarray | None, out: Path
) -> Iterator[Finding]:
    """Yield what is found about an opened model, cheapest first; pictures are written to `out`.

    Prompts are encoded first and the text encoder is dropped, so that it takes no memory later.
    Without a `picture` the model's own generation stands for it: then the tokenizer and the
    caption are not tested by anything from outside.
    """
    yield from configuration(model)
    try:
        right, wrong = (model.condition([text]) for text in (caption, other))
    except ValueError as error:
        yield Finding("text encoder", OFF, str(error), "prompts cannot be encoded here")
        return
    yield from _text(model, right)
    model.text_encoder = NoText(model.name)
    model.grammar = None
    yield from null_prompt(model)
    full = yield from _generated(model, right, out)
    source = to_uint8(model.decode(full.canvas))[0] if picture is None else picture
    tokens, again = tokens_of(model, source)
    shown = to_uint8(interpolate(
        to_tensor([source]).add(1).div(2), again.shape[:2], mode="bicubic", antialias=True
    ).clamp(0, 1))[0]  # fmt: skip
    write_image(out / "round_trip.png", np.concatenate((shown, again), axis=1))
    yield round_trip(shown, again, picture is None)
    subject = Subject(model, right, wrong, tokens)
    yield from likelihoods(subject)
    yield from sublayers(subject)
    yield from alternatives(subject, source)
    yield from _precision(subject)


def configuration(model: Model) -> Iterator[Finding]:
    """Compare schedule and rotary grid with those that the model was trained with."""
    try:
        with torch.device("meta"):
            trained = skeleton(model.name)
    except (KeyError, ValueError):
        yield Finding("schedule", OPEN, "no released model of this name")
        return
    allowed = [trained.sizes]
    if model.buckets is not None:
        allowed += [model.buckets.square(size[-1][0]) or trained.sizes for size in [model.sizes]]
    same = model.sizes in allowed
    yield Finding("schedule", RIGHT if same else OFF, _maps(model.sizes),
                  "" if same else f"it was trained with {_maps(trained.sizes)}")  # fmt: skip
    here, there = (getattr(m.transformer.config, "reference", None) for m in (model, trained))
    if there is not None:
        yield Finding("rotary grid", RIGHT if here == there else OFF, f"reference {here}",
                      "" if here == there else f"it was trained with {there}")  # fmt: skip


def _maps(sizes: Sizes) -> str:
    return " ".join(str(h) if h == w else f"{h}x{w}" for h, w in sizes)


def _text(model: Model, condition: Any) -> Iterator[Finding]:
    features = condition if isinstance(condition, Tensor) else condition[0]
    if not features.is_floating_point():
        return
    finite, spread = bool(features.isfinite().all()), float(features.float().std())
    width = getattr(model.transformer.config, "text_width", features.shape[-1])
    good = finite and spread > 1e-4 and features.shape[-1] == width
    yield Finding("text features", RIGHT if good else OFF,
                  f"{tuple(features.shape)}, deviation {spread:.3g}", "" if good else
                  f"another text encoder: {width} features are expected")  # fmt: skip


def null_prompt(model: Model) -> Iterator[Finding]:
    """Look for rows of the null prompt that were not in the file."""
    null = getattr(model.transformer, "cfg_uncond", None)
    if null is None:
        return
    empty = int((null.abs().amax(1) == 0).sum())
    yield Finding("null prompt", OFF if empty else RIGHT,
                  f"{len(null) - empty} of {len(null)} rows",
                  "it was made for prompts of another length; guidance is not as trained"
                  if empty else "")  # fmt: skip


def round_trip(picture: np.ndarray, again: np.ndarray, drawn_here: bool = False) -> Finding:
    """Compare a picture with its reconstruction and its mean color; `own`: it was generated."""
    blank = np.broadcast_to(picture.mean((0, 1)).round().astype(np.uint8), picture.shape)
    value, least = psnr(again, picture), psnr(blank, picture) + LEAST_GAIN
    if drawn_here:
        return Finding("tokenizer", OPEN, f"{value:.1f} dB of its own picture",
                       "give --picture to test it on a photograph")  # fmt: skip
    good = value >= least
    meaning = "encoder, quantizer and decoder are not of one tokenizer"
    numbers = f"{value:.1f} dB, {least:.1f} needed"
    return Finding("tokenizer", RIGHT if good else OFF, numbers, "" if good else meaning)


def chance(model: Model) -> float:
    """Return the log-likelihood of a token, or bit, that is drawn evenly."""
    return float(-np.log(getattr(model.transformer.config, "vocabulary", 2)))


def likelihoods(subject: Subject) -> Iterator[Finding]:
    """Compare the picture's tokens with chance at each scale, and its caption with another."""
    names = [grid.name for grid in subject.model.grids()]
    right, wrong = subject.likelihood(), subject.likelihood(subject.wrong)
    even = chance(subject.model)
    bad = [name for name, value in zip(names, right) if not value > even]
    per_scale = " ".join(f"{name}:{value:.2f}" for name, value in zip(names, right))
    yield Finding("likelihood by scale", OFF if bad else RIGHT,
                  f"{per_scale}; chance {even:.2f}",
                  f"worse than chance at {', '.join(bad)}: weights, tokenizer or schedule are not "
                  "of one model" if bad else "")  # fmt: skip
    better = right.mean() > wrong.mean()
    yield Finding("caption", RIGHT if better else OFF,
                  f"{right.mean():.3f} under its caption, {wrong.mean():.3f} under another",
                  "" if better else "the text does not reach the picture")  # fmt: skip


def sublayers(subject: Subject) -> Iterator[Finding]:
    """Leave sublayers out one by one: whichever is better left out holds another's weights."""
    model = subject.model
    first = len(_probed(model))
    base = subject.likelihood(first=first).mean()
    harmful = dict[str, float]()
    for layer in range(model.depth):
        for kind in model.transformer.kinds:
            gain = subject.likelihood(first=first, without=Site(layer, kind)).mean() - base
            if gain > HARMFUL * abs(base - chance(model)):
                harmful[f"{kind} of layer {layer}"] = gain
    worst = sorted(harmful, key=lambda name: -harmful[name])[:3]
    yield Finding("sublayers", OFF if harmful else RIGHT,
                  ", ".join(f"without {name} {harmful[name]:+.3f}" for name in worst)
                  or f"each of {model.depth * len(model.transformer.kinds)} helps",
                  "weights are not where they belong" if harmful else "")  # fmt: skip


def alternatives(subject: Subject, picture: np.ndarray) -> Iterator[Finding]:
    """Compare the likelihood with that under other rotary grids and another schedule."""
    model, base = subject.model, subject.likelihood().mean()
    likelihoods = dict[str, float]()
    config: Any = model.transformer.config
    reference = getattr(config, "reference", None)
    for factor in (0.5, 2.0):
        if reference is None:
            break
        other = tuple(int(n * factor) for n in reference)
        model.transformer.config = replace(config, reference=other)
        try:
            likelihoods[f"rotary grid {other}"] = subject.likelihood().mean()
        finally:
            model.transformer.config = config
    for sizes in _schedules(model):
        tokens, _ = tokens_of(model, picture, sizes)
        likelihoods[f"schedule {_maps(sizes)}"] = subject.likelihood(
            tokens=tokens, sizes=sizes
        ).mean()
    better = {
        k: v - base for k, v in likelihoods.items() if v - base > NEAR * abs(base - chance(model))
    }
    numbers = ", ".join(f"{name} {value - base:+.3f}" for name, value in likelihoods.items())
    if likelihoods:
        yield Finding("alternatives", OFF if better else RIGHT, numbers,
                      f"likelier with {', '.join(better)}: it may have been trained so"
                      if better else "")  # fmt: skip


def _schedules(model: Model) -> list[Sizes]:
    """Return other schedules to the same last map: the trained one, and one with a map enlarged."""
    sizes, middle = model.sizes, len(model.sizes) // 2
    moved = tuple((h + 1, w + 1) if i == middle else (h, w) for i, (h, w) in enumerate(sizes))
    others = [moved] if moved[middle] < sizes[-1] else []
    try:
        with torch.device("meta"):
            trained = skeleton(model.name).sizes
    except (KeyError, ValueError):
        trained = sizes
    return [s for s in (trained, *others) if s != sizes and s[-1] == sizes[-1]]


def _generated(model: Model, condition: Any, out: Path) -> Generator[Finding, None, Generation]:
    """Generate in full and pruned, with times and memory; return the full generation."""
    full, seconds, memory = _measured(model, condition, Dense())
    write_image(out / "full.png", to_uint8(model.decode(full.canvas))[0])
    yield Finding("generation", OPEN, f"{seconds:.2f} s, {memory:.2f} GB: {out / 'full.png'}",
                  "look at it: is it what the caption says?")  # fmt: skip
    if model.preset is not None:
        pruned, fast, memory = _measured(model, condition, model.preset)
        write_image(out / "pruned.png", to_uint8(model.decode(pruned.canvas))[0])
        yield Finding("pruned generation", OPEN,
                      f"{fast:.2f} s, {memory:.2f} GB: {out / 'pruned.png'}",
                      f"{seconds / fast:.2f} times as fast, by the preset")  # fmt: skip
    return full


def _measured(model: Model, condition: Any, method: Any) -> tuple[Generation, float, float]:
    cuda = model.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(model.device)
    begin = time.perf_counter()
    generation = generate(model, condition, method, seed=0)
    seconds = time.perf_counter() - begin
    process = psutil.Process().memory_info().rss
    peak = torch.cuda.max_memory_allocated(model.device) if cuda else process
    return generation, seconds, peak / 1e9


def _precision(subject: Subject) -> Iterator[Finding]:
    """Compare the likelihood in bfloat16 with that in the model's type; the model ends in it."""
    model = subject.model
    if model.dtype == torch.bfloat16 or model.autocast is not None:
        yield Finding("bfloat16", OPEN, f"it runs in {model.precision}")
        return
    before = subject.likelihood()
    model.transformer.to(torch.bfloat16)
    gap = float(np.abs(subject.likelihood() - before).max())
    good = gap < CLOSE
    yield Finding("bfloat16", RIGHT if good else OFF, f"{gap:.4f} nats at most",
                  "" if good else "use float32: values leave bfloat16's precision")  # fmt: skip


def table(findings: Sequence[Finding]) -> str:
    """Format findings for a terminal."""
    lines = [f"{'':<5} {'':<20} found"]
    for finding in findings:
        lines.append(f"{finding.verdict:<5} {finding.what:<20} {finding.numbers}")
        if finding.meaning:
            lines.append(f"{'':<26} {finding.meaning}")
    return "\n".join(lines)
