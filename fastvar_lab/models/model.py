"""A model: a backbone with its tokenizer and text encoder, ready to generate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from fastvar_lab.backbones.autoencoder import AutoEncoder
from fastvar_lab.backbones.protocol import Backbone, ConditionEncoder
from fastvar_lab.backbones.quantize import Quantizer
from fastvar_lab.models import weights as files
from fastvar_lab.models.absent import NoAutoEncoder
from fastvar_lab.models.precision import PRECISIONS, Official
from fastvar_lab.prompts import PromptList, PromptSet
from fastvar_lab.sampling import Sampling
from fastvar_lab.scales import Buckets, Sizes, as_sizes, extend, stretch
from fastvar_lab.scales import grids as number
from fastvar_lab.seam import Grid, Method
from fastvar_lab.tokens import wide

Preset = Method | Callable[[int, int], Method]  # of scale steps and layers


@dataclass(repr=False)
class Model:
    """A backbone with its tokenizer and text encoder, and all that the lab asks of a model.

    A model of your own gives what it has; the defaults suit any backbone:

    - `family` names its kind (default: `name`).
    - `fast` is its acceleration preset, or a function of scale steps and layers that returns it;
      read it as `preset`. Without one, commands and experiments ask for a schedule.
    - `prompts` is the prompt set of experiments, with its judge or None (default: the text
      encoder's example at many seeds). `grammar` raises ValueError for a prompt outside a closed
      language.
    - `official` says how precisions are mixed in its released scripts, if there are any.
    - `buckets` are the schedules by aspect and pixel budget that it was trained on, if several;
      `extends` says that larger squares append scales, see `sizes_to`.
    - `timed` are the schedules and labelled methods of the bench command (default: its own
      schedule under its preset).

    `autocast` is the type that the official precision computes in, `source` the Python that opened
    the model, with the schedule `opened`, if `load` did.
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
    extends: bool = False
    _hashed: tuple[object, str] | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.family = self.family or self.name
        self.prompts = self.prompts or PromptList(self.text_encoder.example)
        self.sizes = as_sizes(self.sizes)

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
        return self.transformer.head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.transformer.head.weight.dtype

    def grids(self, sizes: Sequence[tuple[int, int]] | None = None) -> tuple[Grid, ...]:
        """Turn a schedule of token maps, default the model's own, into its scale steps."""
        return number(self.sizes if sizes is None else sizes, self.transformer.prefix)

    def sizes_to(self, h: int, w: int) -> Sizes:
        """Return this model's schedule up to an h x w map, zero-shot where that is larger.

        The embedded model goes on from its own to a larger square: stretched, the maps on which it
        settles what lies where would be larger than in training, and objects multiply. Raises
        ValueError where that takes more steps than it has level embeddings.
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
        """Return the schedule of a square picture of `pixels` a side; trained ones go first."""
        side = pixels // (self.tokenizer.config.stride * self.quantizer.patch)
        trained = self.buckets.square(side) if self.buckets else None
        return trained or self.sizes_to(side, side)

    @property
    def preset(self) -> Method | None:
        """The paper's method for this model and its schedule, or None."""
        return self.preset_of(self.sizes)

    def preset_of(self, sizes: Sizes) -> Method | None:
        """Return the paper's method for this model under a schedule, or None."""
        return self.fast(len(sizes), self.depth) if callable(self.fast) else self.fast

    def check(self, prompt: str) -> None:
        """Raise ValueError for a prompt outside the model's closed language, if it has one."""
        if self.grammar is not None:
            self.grammar(prompt)

    @property
    def example(self) -> str:
        """A prompt that the text encoder takes."""
        return self.text_encoder.example

    @property
    def depth(self) -> int:
        return self.transformer.config.depth

    def stamp(self, *parts: nn.Module) -> object:
        """Give what changes when the weights of parts, default all, do, or how they compute.

        That is where they lie, and how often they were written; writing through `.data` is not
        noticed.
        """
        chosen = parts or self.parts
        tensors = (t for part in chosen for t in (*part.parameters(), *part.buffers()))
        now = tuple(
            (t.data_ptr(), 0 if t.is_inference() else t._version, t.dtype, t.device)
            for t in tensors
        )
        return (self.precision, *map(id, chosen), now)

    @property
    def drawing(self) -> object:
        """The stamp of what a resumed generation computes with."""
        quantizer = [self.quantizer] if isinstance(self.quantizer, nn.Module) else []
        return self.stamp(self.transformer, *quantizer)

    @property
    def fingerprint(self) -> str:
        """Hash of all weights, for provenance; computed anew when they have changed."""
        if self._hashed is None or self._hashed[0] != self.stamp():
            config = {part._get_name(): repr(getattr(part, "config", "")) for part in self.parts}
            self._hashed = self.stamp(), files.fingerprint(config, *self.parts)
        return self._hashed[1]

    @torch.no_grad()
    def condition(self, prompts: Sequence[str]) -> Any:
        """Encode prompts, or class labels, to what the transformer is conditioned on."""
        return self.text_encoder.encode(prompts)

    def blank(self, n: int, last: Grid) -> Tensor:
        """Make the latent before the first step: zeros (n, d, H, W) of the final map."""
        dtype = wide(self.transformer.head.weight).dtype
        if self.autocast is not None and self.official is not None and self.official.latent:
            dtype = self.autocast  # released: HART adds up its latent in float16
        p = self.quantizer.patch
        shape = (n, self.quantizer.channels, p * last.h, p * last.w)
        return torch.zeros(shape, dtype=dtype, device=self.device)

    @torch.no_grad()
    def decode(self, canvas: Tensor) -> Tensor:
        """Decode latents (n, d, H, W) to pictures (n, 3, h, w) in [0, 1]."""
        return self.tokenizer.decode(canvas)

    def freeze(self) -> Model:
        """Set all parts to inference.

        Autocast keeps the casts of a generation only for weights that could have gradients.
        """
        for part in self.parts:
            part.eval().requires_grad_(self.autocast is not None)
        return self

    def set_precision(self, precision: str, dtype: torch.dtype = torch.float32) -> Model:
        """Compute in `dtype` throughout, or in the mixture of the released code.

        "official": Infinity's text attention rounds to bfloat16; with dtype bfloat16 (Infinity) or
        float16 (VAR, HART) the model also runs under autocast as its scripts do, Infinity's
        layers stored in bfloat16 and all else in float32. "float32" is `dtype` alone. Raises
        ValueError for an official precision of a model without one.
        """
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}; not {precision!r}")
        official, mixture = precision == "official", self.official or Official()
        if official and self.official is None:
            raise ValueError(f"{self.name} has no official precision; use precision='float32'")
        if mixture.rounds_text:
            cast(Any, self.transformer).round_text_attention(official)
        self.autocast = dtype if official and dtype != torch.float32 else None
        self.freeze()
        if self.autocast is None:
            return self.to(self.device, dtype)
        self.to(self.device, torch.float32)
        if mixture.stores_blocks:
            self.transformer.blocks.to(dtype)
        return self

    @property
    def precisions(self) -> tuple[str, ...]:
        """Names that `set_precision` takes here."""
        return PRECISIONS if self.official else PRECISIONS[:1]

    @property
    def precision(self) -> str:
        """Name the types that the model computes in, for provenance."""
        named = [str(self.dtype).removeprefix("torch.")]
        if self.autocast is not None:
            named.append(f"autocast {str(self.autocast).removeprefix('torch.')}")
        if self.official and self.official.rounds_text and self.transformer.rounds_text_attention:
            named.append("text attention rounded")
        return ", ".join(named)

    def lay_out(self) -> Model:
        """Lay weights out, on a CPU, so that small steps' products run up to twice as fast.

        State dicts then hold copies of these weights in the usual layout, which files of tensors
        need: write to weights through `load_state_dict` or through the parameters themselves.
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
        """Move all parts; `dtype` too if given."""
        for part in self.parts:
            part.to(device=device, dtype=dtype)
        if self.device.type != "cpu":  # where products want another layout than `lay_out` makes
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
    """Return the paper's preset for a model, under its own schedule or another.

    Raises ValueError for a model without one.

    >>> import fastvar_lab as fv
    >>> fv.paper_preset(fv.load("tiny")).pairs
    ((-2, 0.5), (-1, 0.75))
    """
    preset = model.preset_of(model.sizes if sizes is None else sizes)
    if preset is None:
        raise ValueError(
            f"there is no preset for the model {model.name!r}; give a schedule of your own, "
            "such as Prune({-2: 0.5, -1: 0.75})"
        )
    return preset
