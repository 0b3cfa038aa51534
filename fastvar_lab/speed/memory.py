"""Counts the memory of a generation before it starts, by part.

The generation runs once on tensors that have shapes and no content, through the same loop, method
and backbone as the real one, and every allocation is counted until it is released. Values that a
method reads back are zero, so for a method that decides from the data the count is one case of
several. Not counted: the text encoder, what kernels allocate inside (a GPU's libraries keep a
workspace of some megabytes), and the gaps of an allocator.
"""

from __future__ import annotations

import copy
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastvar_lab.cache import KVCache
from fastvar_lab.generation import generate
from fastvar_lab.models.absent import NoAutoEncoder
from fastvar_lab.models.model import Model
from fastvar_lab.models.precision import packed_parts, weight_shape
from fastvar_lab.sampling import Sampling
from fastvar_lab.seam import Branch, Grid, Method, Rows, Runner, Site, Stack, Wrapper
from fastvar_lab.tokens import has_content

PARTS = ("weights", "constants", "cache", "restoration", "activations", "logits", "decoder")
"""Weights with autocast's copies; values that all steps share, such as modulation; the KV cache;
branch outputs that a method restores from; what layers allocate; logits, draws and latents; and
what decoding allocates."""


@dataclass(frozen=True)
class Memory:
    """Bytes that a generation holds: of each part at its own peak, and all of them at theirs.

    `generation` is the peak up to the final latent, `peak` the one with decoding.
    """

    weights: int
    constants: int
    cache: int
    restoration: int
    activations: int
    logits: int
    decoder: int
    generation: int
    peak: int

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {size(getattr(self, name))}" for name in PARTS)
        return f"{size(self.peak)} at most, {size(self.generation)} up to the latent ({parts})"


def size(count: int) -> str:
    """Format bytes.

    >>> size(3_360_000_000), size(2_500_000)
    ('3.36 GB', '2.5 MB')
    """
    return f"{count / 1e9:.2f} GB" if count >= 5e8 else f"{count / 1e6:.1f} MB"


class Allocations(TorchDispatchMode):
    """Counts the bytes of live tensors by part; `part` is the one that allocates now."""

    def __init__(self, weights: Iterable[Tensor]) -> None:
        super().__init__()
        self.part, self.peak = "activations", 0
        self.live, self.most = (dict.fromkeys(PARTS, 0) for _ in range(2))
        self.parts: dict[int, str] = {}  # by storage
        self.references: dict[int, Any] = {}
        for weight in weights:
            self._note(weight, "weights")

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and not has_content(args[0]):
            return without_content(args[0])
        if func in DRAWS and not has_content(args[0]):
            return args[0]
        out = func(*args, **(kwargs or {}))
        part = self.part
        if func is torch.ops.aten._to_copy.default and isinstance(args[0], nn.Parameter):
            part = "weights"  # autocast keeps copies
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._note(tensor, part)
        return out

    def _note(self, tensor: Tensor, part: str) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.parts:
            return
        count = storage.nbytes()
        self.parts[key] = part
        self.references[key] = weakref.ref(storage, partial(self._released, key, count))
        self._add(part, count)

    def _add(self, part: str, count: int) -> None:
        self.live[part] += count
        self.most[part] = max(self.most[part], self.live[part])
        self.peak = max(self.peak, sum(self.live.values()))

    def _released(self, key: int, count: int, _: Any) -> None:
        self.references.pop(key, None)
        self.live[self.parts.pop(key)] -= count

    def move(self, tensor: Tensor, part: str) -> None:
        """Count a live tensor as another part from here on."""
        storage = tensor.untyped_storage()
        before = self.parts.get(storage._cdata)
        if before is not None and before != part:
            self.parts[storage._cdata] = part
            self.live[before] -= storage.nbytes()
            self._add(part, storage.nbytes())

    @contextmanager
    def of(self, part: str) -> Iterator[None]:
        """Count what is allocated inside as a part."""
        before, self.part = self.part, part
        try:
            yield
        finally:
            self.part = before


DRAWS = {getattr(torch.ops.aten, name).default for name in ("exponential_", "normal_", "uniform_")}
"""Draws in place, which tensors without content do not all support."""


def without_content(tensor: Tensor) -> float | int | bool:
    """Return zero in the type of a tensor, which stands for a value that is read from it."""
    return False if tensor.dtype == torch.bool else 0.0 if tensor.is_floating_point() else 0


class _Parts(Wrapper):
    """Tells apart what layers and samplers allocate, and what the method holds."""

    def __init__(self, inner: Runner, allocations: Allocations) -> None:
        super().__init__(inner)
        self.allocations = allocations

    def rows(self, grid: Grid, canvas: Tensor) -> Rows | None:
        self.allocations.part = "activations"
        return self.inner.rows(grid, canvas)

    def sublayer(self, site: Site, grid: Grid, branch: Branch, x: Tensor) -> Tensor:
        delta = self.inner.sublayer(site, grid, branch, x)
        held = self.inner.held().get((grid.index, site))
        if held is not None:
            self.allocations.move(held, "restoration")
        return delta

    def stack(self, grid: Grid, blocks: Stack, x: Tensor) -> Tensor:
        out = self.inner.stack(grid, blocks, x)
        self.allocations.part = "logits"
        return out


def memory(
    model: Model,
    method: Method,
    *,
    sizes: Sequence[tuple[int, int]] | None = None,
    pictures: int = 1,
    sampling: Sampling | None = None,
    decode: bool = True,
) -> Memory:
    """Count what a generation of `pictures` holds, on any device, without computing anything.

    The model may be on the meta device. Without `decode` nothing is counted beyond the latent.
    Raises ValueError for a schedule or method that does not fit the model.

    >>> import fastvar_lab as fv
    >>> memory(fv.load("tiny"), fv.Dense()).cache // 2**20
    56
    """
    with hollow_model(model, pictures) as (shadow, condition):
        return allocated(shadow, condition, method, decode, sizes=sizes, sampling=sampling)


@contextmanager
def hollow_model(model: Model, pictures: int) -> Iterator[tuple[Model, Any]]:
    """Give a copy of a model and a condition, without content, that compute shapes alone inside.

    Both are on the CPU, wherever the model is.
    """
    condition = model.condition([model.example] * pictures)
    parts = [model.transformer, model.tokenizer]
    layers = [layer for part in parts for layer in part.modules() if packed_parts(layer)]
    packed = {id(layer): _PackedShape(layer) for layer in layers}
    with warnings.catch_warnings(), FakeTensorMode(allow_non_fake_inputs=True):
        warnings.filterwarnings("ignore", "Accessing the data pointer")
        if isinstance(condition, Tensor):
            yield copied(model, _hollow_copy, packed), _hollow_copy(condition)
        else:
            hollow = type(condition)(*map(_hollow_copy, condition))
            yield copied(model, _hollow_copy, packed), hollow


def allocated(
    model: Model, condition: Any, method: Method, decode: bool = True, **options: Any
) -> Memory:
    """Count what a generation under an encoded condition allocates while it runs.

    Without `decode` nothing is counted beyond the latent. It changes methods of the model's
    transformer: pass a copy. `options` are those of `generate`.
    """
    parts = [p for p in model.parts if p is not model.text_encoder]
    parts += [model.quantizer] if isinstance(model.quantizer, nn.Module) else []
    weights = [t for part in parts for t in (*part.parameters(), *part.buffers())]
    with Allocations(weights) as allocations, torch.no_grad():
        backbone: Any = model.transformer
        begin, new_cache = backbone.begin, backbone.new_cache

        def counted_begin(*args: Any) -> Any:
            with allocations.of("constants"):
                return begin(*args)

        def counted_cache(*args: Any) -> KVCache:
            cache: KVCache = new_cache(*args)
            cache.empty = _counted_empty(allocations)
            return cache

        backbone.begin, backbone.new_cache = counted_begin, counted_cache
        watch = partial(_Parts, allocations=allocations)
        canvas = generate(model, condition, method, watch=[watch], **options).canvas
        peak = allocations.peak
        if decode and not isinstance(model.tokenizer, NoAutoEncoder):
            with allocations.of("decoder"):
                model.decode(canvas)
        return Memory(**allocations.most, generation=peak, peak=allocations.peak)


def _counted_empty(allocations: Allocations) -> Callable[..., Tensor]:
    def empty(*args: Any, **kwargs: Any) -> Tensor:
        with allocations.of("cache"):
            return torch.empty(*args, **kwargs)

    return empty


def copied(
    model: Model, each: Callable[[Tensor], Tensor], packed: Mapping[int, nn.Module] | None = None
) -> Model:
    """Return a copy of a model, of whose weights `each` returns the copies.

    `packed` are the modules that take the place of layers, by the number of the layer's object.
    """
    memo: dict[int, Any] = {id(model.text_encoder): model.text_encoder}
    for layer, stand_in in (packed or {}).items():
        memo[layer] = stand_in
        for name, buffer in stand_in.named_buffers():
            stand_in._buffers[name] = each(buffer)
    for part in (model.transformer, model.tokenizer, model.quantizer):
        if isinstance(part, nn.Module):
            for weight in (*part.parameters(), *part.buffers()):
                memo[id(weight)] = each(weight)
    return copy.deepcopy(model.detached(), memo)


class _PackedShape(nn.Module):
    """Stands for a layer of a quantisation library in a copy: its shapes and bytes alone.

    Its kernels take no tensors without content. The buffers are on the meta device.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.out_features, self.in_features = weight_shape(layer)
        for i, part in enumerate(packed_parts(layer)):
            self.register_buffer(f"part{i}", torch.empty_like(part, device="meta"))

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., C) to (..., C'), without content."""
        return x.new_empty(*x.shape[:-1], self.out_features)


def _hollow_copy(tensor: Tensor) -> Tensor:
    """Return a tensor without content, on the CPU, in the shape and layout of another."""
    hollow = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(hollow, requires_grad=tensor.requires_grad)
    return hollow


def cloned(tensor: Tensor) -> Tensor:
    """Return a copy of a tensor; of a parameter, one with the same `requires_grad`."""
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(tensor.detach().clone(), requires_grad=tensor.requires_grad)
    return tensor.clone()


def table(model: Model, counts: Sequence[tuple[str, str, int, Memory]]) -> str:
    """Format counts (size, method, pictures, memory) for a terminal."""
    titles = ("size", "method", "pictures", *PARTS, "latent", "decoded")
    lines = [f"{model.name}, {model.precision}: bytes of each part at its peak, and of all of them"]
    rows = [titles] + [
        (where, method, str(n), *(size(getattr(m, part)) for part in PARTS), size(m.generation),
         size(m.peak))
        for where, method, n, m in counts
    ]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        lines.append("  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)))
    lines.append(
        "latent: up to the final latent; decoded: with the picture; text encoders are left out"
    )
    return "\n".join(lines)
