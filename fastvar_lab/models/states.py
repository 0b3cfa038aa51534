"""State dicts: read from and written to safetensors, renamed, moved into modules, hashed."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastvar_lab.errors import WeightsError, short
from fastvar_lab.files import digest_of, folder, read_json
from fastvar_lab.models import releases
from fastvar_lab.models.families import FAMILIES, Config
from fastvar_lab.models.precision import plain_tensors
from fastvar_lab.models.wrappers import check_plain
from fastvar_lab.tensors import read_tensors, write_tensors


def save(
    path: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any], dtype: torch.dtype
) -> None:
    """Write tensors (floating ones as `dtype`) and a JSON configuration; atomic."""
    stored = {k: v.to(dtype) if v.is_floating_point() else v for k, v in tensors.items()}
    folder(path.parent)
    write_tensors(path, stored, {"config": json.dumps(config)})


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read tensors and configuration; raise WeightsError if that is impossible.

    The checksum that `save` wrote is checked; older files have none and are read unchecked.
    """
    try:
        tensors, metadata = read_tensors(path)
    except ValueError as error:
        raise WeightsError(f"cannot read weights {path}: {error}") from None
    if "config" not in metadata:
        raise WeightsError(f"{path} holds no configuration, so it was not written by this library")
    try:
        config = read_json(metadata["config"])
        for part in config.values():
            if not isinstance(part, dict):
                raise ValueError(f"a part of it must be a dict; not {short(part)}")
    except ValueError as error:
        raise WeightsError(
            f"the configuration in {path} does not describe a model: {error}"
        ) from None
    return tensors, config


_UNUSED = {  # buffers that are used in training, obsolete, or computed here
    "lvl_1L",
    "attn_bias_for_masking",
    "ema_vocab_hit_SV",
    "Infinity_visible_kvlen",
    "Infinity_invisible_qlen",
    "mask",
}


def by_own_names(tensors: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """Rename released tensors to the keys of `module`, and reshape those with another layout.

    Blocks in chunks are numbered consecutively. The prefix `vae.`, the discriminator (`disc.`) and
    the extra `.conv` and `.norm` of Infinity's tokenizers are removed. Both layouts of
    `scale_mul_1H11` are accepted. Infinity's null prompt is cut or padded to the module's length.
    """
    state = module.state_dict(keep_vars=True)
    renamed = {}
    for (key, value), name in zip(tensors.items(), consecutive(tensors), strict=True):
        if key.startswith("disc.") or key.split(".")[-1] in _UNUSED:
            continue
        name = name.removeprefix("vae.")
        *head, module_name, leaf = name.split(".") if "." in name else ("", name)
        if name not in state and module_name in ("conv", "norm"):
            name = ".".join((*head, leaf))
        if name.endswith("scale_mul_1H11") and value.numel():
            value = value.reshape(1, -1, 1, 1)
        if name == "cfg_uncond" and name in state and value.shape[1:] == state[name].shape[1:]:
            value = _resized(value, len(state[name]))
        if name in renamed:
            raise WeightsError(f"{short(name)} appears twice, once as {short(key)}")
        renamed[name] = value
    return renamed


_CHUNK = re.compile(r"block_chunks\.(\d+)\.module\.(\d+)(?=\.|$)")


def chunks(names: Collection[str]) -> tuple[int, int] | None:
    """Return how many chunks of how many blocks names speak of; None without chunks.

    >>> chunks(["block_chunks.0.module.1.ada_gss", "block_chunks.1.module.0.ada_gss"])
    (2, 2)
    """
    matches = [match for name in names if (match := _CHUNK.match(name))]
    if not matches:
        return None
    return 1 + max(int(m[1]) for m in matches), 1 + max(int(m[2]) for m in matches)


def consecutive(names: Collection[str]) -> list[str]:
    """Give blocks in chunks consecutive numbers.

    >>> consecutive(["block_chunks.0.module.1.ada_gss", "block_chunks.1.module.0.ada_gss"])
    ['blocks.1.ada_gss', 'blocks.2.ada_gss']
    """
    chunked = [_CHUNK.match(name) for name in names]
    _, chunk = chunks(names) or (0, 0)
    return [
        f"blocks.{int(match[1]) * chunk + int(match[2])}{name[match.end() :]}" if match else name
        for name, match in zip(names, chunked, strict=True)
    ]


def _resized(rows: Tensor, count: int) -> Tensor:
    """Cut rows, or pad them with zeros, to `count` rows."""
    return torch.cat((rows, rows.new_zeros(max(0, count - len(rows)), rows.shape[1])))[:count]


def fill(module: nn.Module, tensors: dict[str, Tensor], source: object) -> None:
    """Move tensors into a module, which may be on the meta device; `tensors` is emptied.

    A module on the meta device takes the tensors over without a copy. Raises WeightsError that
    names the first keys that do not match; `source` is what the message calls the tensors.
    """
    state = module.state_dict(keep_vars=True)
    missing = [f"{key} {tuple(state[key].shape)}" for key in state if key not in tensors]
    extra = [key for key in tensors if key not in state]
    guess = looks_like(tensors)
    hint = f"; it looks like {guess}" if guess else ""
    for keys, problem in ((missing, "lacks"), (extra, "has keys that this model lacks:")):
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            named = ", ".join(map(short, keys[:3]))
            raise WeightsError(f"{source} {problem} {named}{more}{hint}")
    for key, tensor in state.items():
        check_plain(key, tensors[key], source)
        if tensors[key].is_floating_point() != tensor.is_floating_point():
            raise WeightsError(
                f"{key} in {source} has dtype {tensors[key].dtype}; this model needs "
                f"{'a floating-point type' if tensor.is_floating_point() else tensor.dtype}"
            )
        if tensors[key].shape != tensor.shape:
            raise WeightsError(
                f"{key} in {source} has shape {short(tuple(tensors[key].shape))}; "
                f"this model needs {tuple(tensor.shape)}{hint}"
            )
    for key in list(state):
        path, _, leaf = key.rpartition(".")
        owner = module.get_submodule(path)
        tensor, old = tensors.pop(key), getattr(owner, leaf)
        if old.device.type != "meta":
            old.data.copy_(tensor)
        elif isinstance(old, nn.Parameter):
            setattr(owner, leaf, nn.Parameter(tensor, requires_grad=False))
        else:
            owner.register_buffer(leaf, tensor)


_BLOCK = re.compile(r"(?:blocks\.|block_chunks\.)[\d.]+(?:module\.\d+)?")


MARKS = {  # keys that only one family has
    "class_emb.weight": ("var", "a VAR"),
    "text_proj_for_ca.0.weight": ("infinity", "an Infinity"),
    "context_embed.weight": ("hart", "a HART"),
}


def released() -> dict[Config, str]:
    """Return a dict from the configuration of each model with released files to its name."""
    names = [name for name in releases.NAMES if releases.release(name).files]
    return {releases.release(name).config: name for name in reversed(names)}


def looks_like(tensors: Mapping[str, Tensor]) -> str | None:
    """Describe which released model a state dict seems to belong to; None if it is unclear."""
    keys = {key.removeprefix("vae.").removeprefix("transformer."): key for key in tensors}

    def size(name: str, axis: int = 0) -> int | None:
        shape = tensors[keys[name]].shape if name in keys else ()
        return shape[axis] if axis < len(shape) else None

    width, blocks = size("word_embed.weight"), map(_BLOCK.match, keys)
    depth = len({match[0] for match in blocks if match})
    for mark, (name, family) in MARKS.items():
        if mark in keys:
            for config, release in released().items():
                same = type(config) is FAMILIES[name].config
                if same and (config.width, config.depth) == (width, depth):
                    return f"the transformer of {release}"
            return f"{family} transformer of depth {depth} and width {width}"
    if "quantize.embedding.weight" in keys:
        return f"a VAR or HART tokenizer of {size('quantize.embedding.weight')} codes"
    for name in ("encoder.conv_out.weight", "encoder.conv_out.conv.weight"):
        if name in keys:
            owners = [release for config, release in released().items()
                      if getattr(config, "bits", None) == size(name)]  # fmt: skip
            return f"an Infinity tokenizer of {size(name)} channels" + (
                f", as {owners[0]} uses" if owners else ""
            )
    return None


def fingerprint(config: Mapping[str, Any], *modules: nn.Module) -> str:
    """Hash configuration and weights to 16 hex digits, independent of the device."""

    def parts() -> Iterator[Any]:
        yield json.dumps(config, sort_keys=True)
        for module in modules:  # variables: state dicts of weights laid out anew hold copies
            for key, value in sorted(module.state_dict(keep_vars=True).items()):
                yield key
                yield from contents(value)

    return digest_of(parts(), length=16)


def contents(value: Any) -> Iterator[Any]:
    """Write the value of a state dict as bytes or text; quantised layers hold more than tensors."""
    if isinstance(value, tuple | list):
        for part in value:
            yield from contents(part)
    elif not isinstance(value, Tensor):
        yield repr(value)
    elif len(parts := plain_tensors(value)) != 1 or parts[0] is not value:
        yield type(value).__name__
        yield from contents(parts)
    elif value.is_quantized:
        yield f"{value.dtype} {value.qscheme()}"
        yield from contents(value.int_repr())
        if value.qscheme() in (torch.per_channel_affine, torch.per_channel_symmetric):
            yield from contents((value.q_per_channel_scales(), value.q_per_channel_zero_points()))
        else:
            yield repr((value.q_scale(), value.q_zero_point()))
    else:
        flat = value.detach().cpu().contiguous().flatten()
        array: Any = flat.view(torch.uint8).numpy()
        yield memoryview(array)
