"""Compares an attached model with its live object's own sampler, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from fastvar_lab.draws import Draws, Streamed
from fastvar_lab.errors import short
from fastvar_lab.generation import generate
from fastvar_lab.methods.prune import Dense
from fastvar_lab.models.attached import Attached
from fastvar_lab.models.model import Model
from fastvar_lab.request import Condition
from fastvar_lab.sampling import Sampling
from fastvar_lab.seam import Grid, Runner, Stack, Wrapper

MOST = 256  # tokens of a step that are compared: 13 steps of 32 layers of a 2B fit into 2 GB
SLACK = 0.1  # how far a picture that is not clamped may leave [0, 1]
ENTERING = -1  # in place of a layer: the tokens that enter the first one


@dataclass(frozen=True, repr=False)
class Check:
    """The result of `check`.

    `largest` is the largest absolute difference of the pictures. `step` and `layer` are the first
    at which hidden states differ by more than `tolerance` of their standard deviation, None if they
    do nowhere; layer -1 are the tokens that enter the first layer, which depend on what was drawn
    before. `layers` is a frame with the columns step, map, layer, difference.
    """

    largest: float
    step: int | None
    layer: int | None
    tolerance: float
    layers: pd.DataFrame

    def __repr__(self) -> str:
        text = f"the pictures differ by at most {self.largest:.2g}"
        if self.layers.empty:
            return f"{text}; no layer of the live object was called, so none was compared"
        if self.step is None:
            most = self.layers["difference"].max()
            return f"{text}; hidden states by at most {most:.2g} of their standard deviation"
        first = self.layers[(self.layers.step == self.step) & (self.layers.layer == self.layer)]
        gap = f"by {first.difference.iloc[0]:.2g} of their standard deviation"
        if self.layer != ENTERING:
            return f"{text}; they part at step {self.step}, layer {self.layer}, {gap}"
        cause = "check what is drawn at the step before: seed and sampling" if self.step else (
            "check the prompt and its encoding"
        )  # fmt: skip
        return f"{text}; they part in the tokens that enter step {self.step}, {gap}: {cause}"


def check(
    model: Model,
    live_sample: Callable[[], Any],
    *,
    prompt: str | Condition | None = None,
    seed: int = 0,
    sampling: Sampling | None = None,
    sizes: Sequence[tuple[int, int]] | None = None,
    draws: Draws | None = None,
    tolerance: float = 1e-2,
) -> Check:
    """Compare one picture of an attached model with that of its live object's own sampler.

    `live_sample` calls the sampler once, for one picture of the same `prompt`, `seed`, `sampling`
    and `sizes`, and returns that picture or its latent (1, d, H, W): a tensor, an array or a PIL
    picture, alone or in a list of one. Pictures are uint8 or in [0, 1], with or without the leading
    dimension, (3, h, w) or (h, w, 3). They are RGB; Infinity's released sampler returns BGR, which
    `flip(-1)` turns.
    Noise is drawn in the released order, unless `draws` says otherwise; torch's global generators,
    which HART's sampler draws from, are seeded with `seed` for the call.

    The default `tolerance` leaves room for kernels in bfloat16; in float32 on a CPU, VAR and HART
    agree within 1e-4. Up to 256 tokens of every step are compared after every layer, through hooks
    that are removed again. Raises ValueError for a model that was not attached, and for a result of
    other shape or range.

    >>> import fastvar_lab as fv
    >>> from fastvar_lab.models.standin import live_infinity
    >>> live = live_infinity()
    >>> live.scales = live.scales[:4]
    >>> parts = {"tokenizer": live.vae_decode, "text": live.encode_text, "sizes": live.scales}
    >>> sampling = fv.Sampling(guidance=2.0, temperature=0.6, top_p=1.0)
    >>> model = fv.attach(live, **parts, reference=live.rotary_grid, sampling=sampling)
    >>> prompt, seed = "a ring", 3
    >>> sample = lambda: live.autoregressive_infer(prompt, seed)
    >>> check(model, sample, prompt=prompt, seed=seed).step is None
    True
    """
    if not isinstance(model, Attached):
        raise ValueError(f"{model.name} is attached to no live object; open it with fv.attach")
    if not callable(live_sample):
        raise ValueError(f"live_sample is a function without arguments; not {short(live_sample)}")
    seen = _LayerStates()
    handles = seen.hook([model.live.modules[f"blocks.{i}"] for i in range(model.depth)])
    try:
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(seed)
            sample = _single(live_sample())
    finally:
        for handle in handles:
            handle.remove()
    watches = list[_Compare]()

    def watch(run: Runner) -> Runner:
        watches.append(_Compare(run, seen))
        return watches[0]

    ours = generate(
        model,
        model.example if prompt is None else prompt,
        Dense(),
        sizes=sizes,
        sampling=sampling,
        draws=draws or Streamed(seed, rest=seed),
        watch=[watch],
    ).canvas
    theirs = _picture(sample, ours)
    if theirs.shape != ours.shape:
        ours = model.decode(ours)
    if theirs.shape != ours.shape:
        raise ValueError(
            f"live_sample returned {tuple(theirs.shape)}; this model gives {tuple(ours.shape)}"
        )
    frame = pd.DataFrame(watches[0].gaps, columns=["step", "map", "layer", "difference"])
    parted = frame[~(frame["difference"] <= tolerance)]  # what is no number parts too
    step = layer = None
    if len(parted):
        step, layer = (int(parted.iloc[0][column]) for column in ("step", "layer"))
    gap = float((ours.float() - theirs.to(ours.device).float()).abs().max())
    return Check(gap, step, layer, tolerance, frame)


def _single(result: Any) -> Tensor:
    """Return the one array that a sampler returned, alone or in a list, as a tensor on its device.

    Raises ValueError for anything else than one array of 3 dimensions, or of 4 with one row.
    """
    only = result
    if isinstance(result, list | tuple) and len(result) == 1:
        only = result[0]
    if isinstance(only, np.ndarray) or hasattr(only, "__array_interface__"):  # that of PIL
        only = np.array(only)
        only = torch.from_numpy(only) if only.dtype.kind in "uif" else None
    if not isinstance(only, Tensor) or only.ndim not in (3, 4) or only.is_complex():
        raise ValueError(
            "live_sample must return a picture (1, 3, h, w) or a latent (1, d, H, W), as a tensor "
            f"or an array; not {short(result)}"
        )
    return only if only.ndim == 4 else only.unsqueeze(0)


def _picture(array: Tensor, latent: Tensor) -> Tensor:
    """Bring one array to a picture (1, 3, h, w) in [0, 1]; one of the shape of `latent` stays.

    Raises ValueError for values of another range.
    """
    if array.shape == latent.shape:
        return array
    if array.shape[-1] == 3 and array.shape[1] != 3:
        array = array.movedim(-1, 1)
    if array.dtype == torch.uint8:
        return array / 255
    low, high = (float(edge) for edge in array.detach().aminmax())
    if low < -SLACK or high > 1 + SLACK:
        raise ValueError(
            f"live_sample returns a picture with values in [0, 1], or uint8; not {array.dtype} "
            f"from {low:.3g} to {high:.3g} (from [-1, 1] convert with (x + 1) / 2)"
        )
    return array


def _spread_tokens(x: Tensor) -> Tensor:
    """Return up to `MOST` tokens of x (B, L, C), evenly spaced."""
    count = x.shape[1]
    if count <= MOST:
        return x.detach().clone()
    places = torch.linspace(0, count - 1, MOST, device=x.device).long()
    return x.detach()[:, places]


class _LayerStates:
    """Keeps what enters the first layer of a live object, and leaves every one, by step."""

    def __init__(self) -> None:
        self.states = dict[int, list[Tensor]]()

    def hook(self, blocks: Sequence[nn.Module]) -> list[Any]:
        handles: list[Any] = [
            blocks[0].register_forward_pre_hook(
                lambda _, args, kwargs: self._keep(ENTERING, args[0] if args else kwargs.get("x")),
                with_kwargs=True,
            )
        ]
        for layer, block in enumerate(blocks):
            handles.append(
                block.register_forward_hook(lambda _, __, out, i=layer: self._keep(i, out))
            )
        return handles

    def _keep(self, layer: int, x: Any) -> None:
        x = x[0] if isinstance(x, tuple) else x
        if isinstance(x, Tensor) and x.ndim == 3:
            self.states.setdefault(layer, []).append(_spread_tokens(x))


class _Compare(Wrapper):
    """Runs the layers one by one, and compares what they return with what was seen."""

    def __init__(self, inner: Runner, seen: _LayerStates) -> None:
        super().__init__(inner)
        self.seen, self.gaps = seen, list[tuple[int, str, int, float]]()

    def stack(self, grid: Grid, blocks: Stack, x: Tensor) -> Tensor:
        self._compare(grid, ENTERING, x)
        for layer, block in enumerate(blocks):
            x = block(x)
            self._compare(grid, layer, x)
        return x

    def _compare(self, grid: Grid, layer: int, x: Tensor) -> None:
        theirs = self.seen.states.get(layer, [])
        if grid.index >= len(theirs):
            return
        ours, other = _spread_tokens(x).float(), theirs[grid.index].to(x.device).float()
        same = ours.shape == other.shape
        gap = float((ours - other).abs().max() / other.std()) if same else float("inf")
        self.gaps.append((grid.index, grid.name, layer, gap))
