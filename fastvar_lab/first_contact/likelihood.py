"""A picture's tokens, and how likely a model finds them under a caption."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, pixel_unshuffle

from fastvar_lab.backbones import quantize
from fastvar_lab.generation import generate
from fastvar_lab.methods.prune import Dense, Prune
from fastvar_lab.models.model import Model
from fastvar_lab.pictures import to_tensor, to_uint8
from fastvar_lab.scales import Sizes
from fastvar_lab.seam import Branch, Grid, Runner, Site, Stack, Wrapper


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


def chance(model: Model) -> float:
    """Return the log-likelihood of a token, or bit, that is drawn evenly."""
    return float(-np.log(getattr(model.transformer.config, "vocabulary", 2)))


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
