"""A model: a backbone with its tokenizer and text encoder, ready to generate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from fastvar_lab import scales
from fastvar_lab.backbones.autoencoder import AutoEncoder
from fastvar_lab.backbones.protocol import Backbone, ConditionEncoder
from fastvar_lab.backbones.quantize import Quantizer
from fastvar_lab.graphs import Graphs
from fastvar_lab.models import stamps
from fastvar_lab.models.absent import NoAutoEncoder
from fastvar_lab.models.precision import (
    PRECISIONS,
    Int8Linear,
    Official,
    narrow,
    narrow_layers,
)
from fastvar_lab.prompts import PromptList, PromptSet
from fastvar_lab.sampling import Sampling
from fastvar_lab.scales import Buckets, Sizes, as_sizes, extend, stretch
from fastvar_lab.seam import Grid, Method

Preset = Method | Callable[[int, int], Method]  # a function of the numbers of steps and layers


@dataclass(repr=False)
class Model:
    """A backbone with its tokenizer and text encoder, and the facts that belong to the model.

    A user-defined model sets the fields that apply to it; the defaults suit any backbone:

    - `sizes` is the schedule of token maps, `sampling` the default sampling.
    - `family` names its architecture (default: `name`).
    - `fast` is its acceleration preset, or a function of the numbers of scale steps and layers
      that returns it; it is read through `preset`. Without one, commands and experiments need a
      schedule from the user.
    - `prompts` is the prompt set of experiments (default: the text encoder's example at many
      seeds). `grammar(prompt)` raises ValueError for a prompt outside a closed language.
    - `official` describes the mixed precision of its released scripts, if there are any.
    - `buckets` are its trained schedules by aspect and pixel budget, if there are several.
      `extends` means that larger squares append scales, see `sizes_to`.
    - `timed` are the schedules and labelled methods of the bench command (default: the model's
      schedule under its preset).

    `graphs` holds what `generate(graphs=True)` has captured; `graphs.clear()` releases it.
    `autocast` is the type of the official precision. If `load` opened the model, `source` is that
    call as Python, and `opened`, `opened_sampling` and `opened_types` are schedule, sampling, and
    device and precision at that time.
    """

    name: str
    transformer: Backbone
    tokenizer: AutoEncoder
    quantizer: Quantizer
    text_encoder: ConditionEncoder
    sizes: Sizes
    sampling: Sampling
    family: str = ""
    fast: Preset | None = None
    prompts: PromptSet = None  # type: ignore[assignment]  # set below
    grammar: Callable[[str], object] | None = None
    official: Official | None = None
    buckets: Buckets | None = None
    timed: Sequence[tuple[Sizes, Mapping[str, Method]]] = ()
    autocast: torch.dtype | None = None
    source: str = ""
    opened: Sizes = ()
    opened_sampling: Sampling | None = None
    opened_types: tuple[str, str] | None = None
    extends: bool = False
    graphs: Graphs = field(init=False, compare=False, default_factory=Graphs)
    _identity: stamps.Identity = field(init=False, compare=False)
    _stamp_of: Callable[[nn.Module], stamps.Stamp] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        self.family = self.family or self.name
        self.prompts = self.prompts or PromptList(self.text_encoder.example)
        self.sizes = as_sizes(self.sizes)
        self._identity = stamps.Identity(self.parts)
        self._stamp_of = stamps.stamp_of

    def __repr__(self) -> str:
        sides = ", ".join(grid.name for grid in self.grids())
        return f"<Model {self.name}, {self.precision} on {self.device}, maps {sides}>"

    @property
    def parts(self) -> list[nn.Module]:
        """All modules that hold weights."""
        parts: list[nn.Module] = [self.transformer, self.tokenizer, self.text_encoder]
        if isinstance(self.tokenizer, NoAutoEncoder) and isinstance(self.quantizer, nn.Module):
            parts.append(self.quantizer)
        return parts

    @property
    def device(self) -> torch.device:
        return next(self.transformer.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        kept = (p.dtype for p in self.transformer.parameters() if p.is_floating_point())
        return next(kept)  # first come those outside of the layers

    @property
    def types(self) -> tuple[str, str]:
        """Device and precision, as text."""
        return str(self.device), self.precision

    @property
    def context(self) -> dict[str, Any]:
        """What results depend on of the model: the first part of every address in a store."""
        return {
            "model": self.name,
            "weights": self.fingerprint,
            "device": str(self.device),
            "precision": self.precision,
            "sampling": repr(self.sampling),
            "sizes": [list(size) for size in self.sizes],
        }

    def grids(self, sizes: Sequence[tuple[int, int]] | None = None) -> tuple[Grid, ...]:
        """Turn a schedule of token maps, default the model's own, into its scale steps."""
        return scales.grids(self.sizes if sizes is None else sizes, self.transformer.prefix)

    def sizes_to(self, h: int, w: int) -> Sizes:
        """Return a schedule that ends at an h x w map; larger than in training it is zero-shot.

        If the model `extends`, larger squares append scales to its schedule, because stretching
        the early scales duplicates objects. Raises ValueError if that takes more steps than the
        model has level embeddings.
        """
        if not (self.extends and h == w > self.sizes[-1][0]):
            return stretch(self.sizes, h, w)
        sizes, levels = extend(self.sizes, h), self.transformer.config.levels
        if len(sizes) > levels:
            raise ValueError(
                f"{self.name} has level embeddings for {levels} scales; a map of {h}x{w} takes "
                f"{len(sizes)}"
            )
        return sizes

    def sizes_of(self, pixels: int) -> Sizes:
        """Return the schedule of a square picture of `pixels` a side, if possible a trained one.

        Raises ValueError for a side that is no whole number of tokens.
        """
        cell = self.tokenizer.config.stride * self.quantizer.patch
        side, rest = divmod(pixels, cell)
        if rest:
            raise ValueError(
                f"a side of {self.name}'s pictures is a multiple of {cell} pixels; not {pixels}"
            )
        trained = self.buckets.square(side) if self.buckets else None
        return trained or self.sizes_to(side, side)

    @property
    def random_weights(self) -> bool:
        """Whether `load` opened the model with random weights."""
        return "weights='random'" in self.source

    @property
    def preset(self) -> Method | None:
        """The paper's ratios for the model's schedule, or ours; None if there are none."""
        return self.preset_of(self.sizes)

    def preset_of(self, sizes: Sizes) -> Method | None:
        """Return the preset under a schedule; None if there is none."""
        return self.fast(len(sizes), self.depth) if callable(self.fast) else self.fast

    def with_guidance(self, scale: float) -> Model:
        """Return a view of the model that samples with another guidance scale; weights are shared.

        Raises ValueError for a scale that its family does not take.
        """
        view = replace(self, sampling=replace(self.sampling, guidance=scale))
        view._identity = self._identity  # the same modules: they are hashed once
        view.transformer.check_sampling(view.sampling, view.grids())
        return view

    def check(self, prompt: str) -> None:
        """Raise ValueError for a prompt outside the model's closed language, if it has one.

        That is its grammar, or its classes.
        """
        if self.grammar is not None:
            self.grammar(prompt)
        if (check := getattr(self.text_encoder, "check", None)) is not None:
            check(prompt)

    def caption(self, prompt: str) -> str:
        """Return how captions write a prompt: a class number with the name of its class."""
        write = getattr(self.text_encoder, "caption", str)
        return str(write(prompt))

    @property
    def example(self) -> str:
        """A prompt that the text encoder accepts."""
        return self.text_encoder.example

    @property
    def depth(self) -> int:
        return self.transformer.config.depth

    def stamp(self, *parts: nn.Module) -> dict[str, object]:
        """Give what changes when parts, default all, compute something else, by its name.

        That is their weights, by checksum, their settings and hooks, and the types they compute in.
        See `stamps.checksums` for what it costs.
        """
        types = {"precision": self.precision, "device": str(self.device)}
        return types | stamps.stamp(parts or self.parts, self._stamp_of)

    def as_is(self) -> Self:
        """Return a view of the model that reads the stamp of each part once, and keeps it.

        For several calls between which nothing changes the model: each of them would look again.
        """
        view = copy(self)
        view._stamp_of = cache(stamps.stamp_of)
        return view

    @property
    def drawing(self) -> dict[str, object]:
        """The stamp of the parts that generate: transformer and quantizer, without the decoder."""
        quantizer = [self.quantizer] if isinstance(self.quantizer, nn.Module) else []
        return self.stamp(self.transformer, *quantizer)

    @property
    def fingerprint(self) -> str:
        """Hash of all weights, and of what else decides what they compute, for provenance.

        That is the code of hooks and of user-defined modules. Computed anew when the stamp has
        changed.
        """
        return self._identity.of(self.parts, self._stamp_of)

    def unchanged(self) -> AbstractContextManager[None]:
        """Return a block within which the fingerprint is computed once: no weight changes in it."""
        return self._identity.held()

    @torch.no_grad()
    def condition(self, prompts: Sequence[str]) -> Any:
        """Encode prompts, or class labels, to the condition of the transformer."""
        return self.text_encoder.encode(prompts)

    def blank(self, n: int, last: Grid) -> Tensor:
        """Return the latent before the first step: zeros (n, d, H, W) of the size of map `last`."""
        dtype = torch.promote_types(self.dtype, torch.float32)
        if self.autocast is not None and self.official is not None and self.official.latent:
            dtype = self.autocast  # as in the released code: HART sums its latent in float16
        p = self.quantizer.patch
        shape = (n, self.quantizer.channels, p * last.h, p * last.w)
        return torch.zeros(shape, dtype=dtype, device=self.device)

    @torch.no_grad()
    def decode(self, canvas: Tensor) -> Tensor:
        """Decode latents (n, d, H, W) to pictures (n, 3, h, w) in [0, 1]."""
        with torch.autocast(canvas.device.type, enabled=False):
            pictures = self.tokenizer.decode(canvas)
        if not pictures.is_meta and bool(pictures.isnan().any()):
            raise ValueError(
                f"{self.name}'s decoder returns values that are no numbers, in {self.precision}; "
                "check its weights and the latent, or decode in float32"
            )
        return pictures

    def freeze(self) -> Model:
        """Set all parts to inference, without gradients.

        Under autocast the weights keep `requires_grad`: autocast caches casts only of such weights.
        """
        for part in self.parts:
            part.eval().requires_grad_(self.autocast is not None)
        return self

    def set_precision(self, precision: str, dtype: torch.dtype = torch.float32) -> Model:
        """Compute in `dtype` throughout ("float32"), or as the released code does ("official").

        Under "official", Infinity's text attention rounds to bfloat16. With dtype bfloat16
        (Infinity) or float16 (VAR, HART) the model also runs under autocast, with weights in
        float32 except Infinity's layers, which are stored in bfloat16. Every value then has the
        type that the released code gives it on a GPU, on any device.

        Under "int8" the linear layers of the blocks are stored in int8, with a scale for each
        output channel, and everything computes in `dtype`. Their former weights are gone then:
        other precisions need the model opened again. Raises ValueError for that, for an unknown
        precision, and for "official" if the model has none.
        """
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}; not {precision!r}")
        official, mixture = precision == "official", self.official or Official()
        if official and self.official is None:
            raise ValueError(f"{self.name} has no official precision; use precision='float32'")
        if precision != "int8" and any(isinstance(m, Int8Linear) for m in self.parts[0].modules()):
            raise ValueError(
                f"the weights of {self.name} are int8 already; open it again for {precision}"
            )
        if mixture.rounds_text:
            cast(Any, self.transformer).round_text_attention(official)
        self.autocast = dtype if official and dtype.itemsize == 2 else None
        self.freeze()
        if self.autocast is None:
            self.to(self.device, dtype)
            if precision == "int8":
                narrow(self.transformer.blocks)
            return self
        self.to(self.device, torch.float32)
        if mixture.stores_blocks:
            self.transformer.blocks.to(dtype)
        return self

    def check_changeable(self) -> None:
        """Raise ValueError if the weights belong to an object outside of the model."""

    def detached(self) -> Model:
        """Return the model, to be copied: one that is attached to no object outside of it."""
        return self

    def check_ready(self) -> None:
        """Raise ValueError if it can no longer compute what it was opened as."""

    @property
    def precisions(self) -> tuple[str, ...]:
        """The names of precisions that `set_precision` accepts for this model."""
        return tuple(p for p in PRECISIONS if p != "official" or self.official)

    @property
    def precision(self) -> str:
        """The types that the model computes in, as text for provenance."""
        named = [str(self.dtype).removeprefix("torch."), *narrow_layers(self.transformer)]
        if self.autocast is not None:
            named.append(f"autocast {str(self.autocast).removeprefix('torch.')}")
        if self.official and self.official.rounds_text and self.transformer.rounds_text_attention:
            named.append("text attention rounded")
        if products := _reduced_products(self.device):
            named.append(f"products in {products} precision")
        return ", ".join(named)

    def lay_out(self) -> Model:
        """Transpose the layout of weights on a CPU, for up to twice as fast small products.

        State dicts then hold copies of these weights in the usual layout, which files of tensors
        need; to change weights, use `load_state_dict` or the parameters themselves.
        """
        for module in self.transformer.modules():
            if isinstance(module, nn.Linear) and module.weight.device.type == "cpu":
                module.weight.data = module.weight.data.t().contiguous().t()
        self.tokenizer.channels_last()
        for part in (self.transformer, self.tokenizer):
            for module in part.modules():
                _contiguous_in_state_dicts(module)
        return self

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Model:
        """Move all parts to a device and, if given, to a dtype."""
        for part in self.parts:
            part.to(device=device, dtype=dtype)
        if self.device.type != "cpu":  # a GPU needs contiguous weights, unlike `lay_out`
            for module in self.transformer.modules():
                if isinstance(module, nn.Linear):
                    module.weight.data = module.weight.data.contiguous()
        return self


def _contiguous_in_state_dicts(module: nn.Module) -> None:
    """Have a module with weights in another layout write them to state dicts in the usual one."""
    laid_out = not all(w.is_contiguous() for w in module.parameters(recurse=False))
    if laid_out and _usual_layout not in module._state_dict_hooks.values():
        module.register_state_dict_post_hook(_usual_layout)


def _usual_layout(module: nn.Module, state: dict[str, Any], prefix: str, _: object) -> None:
    for name, parameter in module.named_parameters(recurse=False):
        held = state.get(prefix + name)
        if held is not None and held is not parameter:  # else the parameter was asked for
            state[prefix + name] = held.contiguous()


def paper_preset(model: Model, sizes: Sizes | None = None) -> Method:
    """Return the preset of a model, under its schedule or `sizes`: the paper's ratios, or ours.

    Raises ValueError for a model without one.

    >>> import fastvar_lab as fv
    >>> fv.paper_preset(fv.load("tiny")).pairs
    ((-2, 0.5), (-1, 0.75))
    """
    preset = model.preset_of(model.sizes if sizes is None else sizes)
    if preset is None:
        raise ValueError(
            f"there is no preset for the model {model.name!r}; give a schedule, "
            "such as Prune({-2: 0.5, -1: 0.75})"
        )
    return preset


def _reduced_products(device: torch.device) -> str:
    """Name the process's own setting of float32 products if it is not full precision."""
    try:
        name = torch.get_float32_matmul_precision()
    except RuntimeError:  # it was set by the names of torch 2.9, one for each kind of device
        on_cpu: Any = torch.backends.mkldnn
        kind: Any = torch.backends.cuda.matmul if device.type == "cuda" else on_cpu.matmul
        name = kind.fp32_precision
    return "" if name in ("highest", "ieee", "none") else name
