"""Checkpoints: safetensors with their configuration inside, and released files, read safely."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from fastvar_lab.errors import WeightsError
from fastvar_lab.files import digest_of, folder, write
from fastvar_lab.models import releases
from fastvar_lab.models.families import FAMILIES, Config


def save(
    path: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any], dtype: torch.dtype
) -> None:
    """Write tensors (floating ones as `dtype`) and a JSON configuration; atomic."""
    stored = {
        k: (v.to(dtype) if v.is_floating_point() else v).detach().cpu().contiguous()
        for k, v in tensors.items()
    }
    folder(path.parent)
    metadata = {"config": json.dumps(config)}
    try:
        write(path, lambda partial: save_file(stored, partial, metadata=metadata))
    except SafetensorError as error:
        raise OSError(f"cannot write weights {path}: {error}") from error


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read tensors and configuration; raise WeightsError if that is impossible."""
    try:
        with safe_open(path, framework="pt") as file:
            config = (file.metadata() or {}).get("config")
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"cannot read weights {path}: {error}") from error
    if config is None:
        raise WeightsError(f"{path} holds no configuration, so it was not written by this library")
    try:
        content = json.loads(config)
    except ValueError as error:
        raise WeightsError(f"the configuration in {path} is not JSON: {error}") from None
    if not (isinstance(content, dict) and all(isinstance(part, dict) for part in content.values())):
        raise WeightsError(f"the configuration in {path} does not describe a model: {config[:60]}")
    return tensors, content


def read_released(path: Path) -> dict[str, Tensor]:
    """Read a released checkpoint, a file or a folder of shards, without running code from it.

    Reads safetensors, and pickles with `weights_only=True`. State dicts inside training dumps are
    unwrapped. Raises WeightsError for files that are missing, damaged or would run code.
    """
    if not path.exists():
        raise WeightsError(f"there are no weights at {path}")
    state: dict[str, Tensor] = {}
    for part in _parts(path) if path.is_dir() else [path]:
        state |= _unwrap(_open(part), part)
    return state


def _parts(folder: Path) -> list[Path]:
    """Find the files of a sharded or single checkpoint in a folder."""
    preferred = folder / "ema_model.bin"
    if preferred.exists():
        return [preferred]
    for index in sorted(folder.glob("*.index.json")):
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        missing = [name for name in names if not (folder / name).exists()]
        if missing:
            raise WeightsError(f"{index} names the shard {missing[0]}, which does not exist")
        return [folder / name for name in names]
    parts = [p for kind in ("safetensors", "bin", "pth") for p in sorted(folder.glob(f"*.{kind}"))]
    if not parts:
        raise WeightsError(f"{folder} holds no weights (.safetensors, .bin, .pth, or an index)")
    return parts[:1]


def _open(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return _open_safetensors(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(
            f"{path} would run code when opened, so it is refused: {reason}"
        ) from None
    except (OSError, EOFError, RuntimeError, SafetensorError) as error:
        raise WeightsError(f"cannot read weights {path}: {str(error).splitlines()[0]}") from None


def _open_safetensors(path: Path, at_once: int = 16) -> dict[str, Tensor]:
    """Read all tensors; the file is mapped again for every `at_once`, to release memory."""
    with safe_open(path, framework="pt") as file:
        keys = list(file.keys())
    tensors = {}
    for first in range(0, len(keys), at_once):
        with safe_open(path, framework="pt") as file:
            for key in keys[first : first + at_once]:
                tensors[key] = file.get_tensor(key).clone()
    return tensors


_NESTS = ("trainer", "var_wo_ddp", "gpt_ema_fsdp", "gpt_fsdp", "vae_local", "vae")


def _unwrap(state: Any, path: Path) -> dict[str, Tensor]:
    for key in _NESTS:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(torch.is_tensor(v) for v in state.values()):
        raise WeightsError(f"{path} holds no state dict in a known layout")
    return state


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
    state = module.state_dict()
    chunked = [re.match(r"block_chunks\.(\d+)\.module\.(\d+)\.", key) for key in tensors]
    chunk = 1 + max((int(m[2]) for m in chunked if m), default=0)
    renamed = {}
    for key, value in tensors.items():
        if key.startswith("disc.") or key.split(".")[-1] in _UNUSED:
            continue
        name = key.removeprefix("vae.")
        match = re.match(r"block_chunks\.(\d+)\.module\.(\d+)\.(.*)", name)
        if match:
            name = f"blocks.{int(match[1]) * chunk + int(match[2])}.{match[3]}"
        *head, module_name, leaf = name.split(".") if "." in name else ("", name)
        if name not in state and module_name in ("conv", "norm"):
            name = ".".join((*head, leaf))
        if name.endswith("scale_mul_1H11"):
            value = value.reshape(1, -1, 1, 1)
        if name == "cfg_uncond" and name in state:
            value = _resized(value, len(state[name]))
        renamed[name] = value
    return renamed


def _resized(rows: Tensor, count: int) -> Tensor:
    """Cut rows, or pad them with zeros, to `count` rows."""
    return torch.cat((rows, rows.new_zeros(max(0, count - len(rows)), rows.shape[1])))[:count]


def fill(module: nn.Module, tensors: dict[str, Tensor], source: object) -> None:
    """Move tensors into a module, which may be on the meta device; `tensors` is emptied.

    A module on the meta device takes the tensors over without a copy. Raises WeightsError that
    names the first keys that do not match; `source` is what the message calls the tensors.
    """
    state = module.state_dict()
    missing = [f"{key} {tuple(state[key].shape)}" for key in state if key not in tensors]
    extra = [key for key in tensors if key not in state]
    guess = looks_like(tensors)
    hint = f"; it looks like {guess}" if guess else ""
    for keys, problem in ((missing, "lacks"), (extra, "has keys that this model lacks:")):
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            raise WeightsError(f"{source} {problem} {', '.join(keys[:3])}{more}{hint}")
    for key, tensor in state.items():
        if tensors[key].shape != tensor.shape:
            raise WeightsError(
                f"{key} in {source} has shape {tuple(tensors[key].shape)}; "
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


_MARKS = {  # keys that only one family has
    "class_emb.weight": ("var", "a VAR"),
    "text_proj_for_ca.0.weight": ("infinity", "an Infinity"),
    "context_embed.weight": ("hart", "a HART"),
}


def _released() -> dict[Config, str]:
    """Return a dict from the configuration of each model with released files to its name."""
    names = [name for name in releases.NAMES if releases.release(name).files]
    return {releases.release(name).config: name for name in reversed(names)}


def looks_like(tensors: Mapping[str, Tensor]) -> str | None:
    """Describe which released model a state dict seems to belong to; None if it is unclear."""
    keys = {key.removeprefix("vae.").removeprefix("transformer."): key for key in tensors}

    def size(name: str, axis: int = 0) -> int | None:
        return tensors[keys[name]].shape[axis] if name in keys else None

    width, blocks = size("word_embed.weight"), map(_BLOCK.match, keys)
    depth = len({match[0] for match in blocks if match})
    for mark, (name, family) in _MARKS.items():
        if mark in keys:
            for config, release in _released().items():
                same = type(config) is FAMILIES[name].config
                if same and (config.width, config.depth) == (width, depth):
                    return f"the transformer of {release}"
            return f"{family} transformer of depth {depth} and width {width}"
    if "quantize.embedding.weight" in keys:
        return f"a VAR or HART tokenizer of {size('quantize.embedding.weight')} codes"
    for name in ("encoder.conv_out.weight", "encoder.conv_out.conv.weight"):
        if name in keys:
            owners = [release for config, release in _released().items()
                      if getattr(config, "bits", None) == size(name)]  # fmt: skip
            return f"an Infinity tokenizer of {size(name)} channels" + (
                f", as {owners[0]} uses" if owners else ""
            )
    return None


def fingerprint(config: Mapping[str, Any], *modules: nn.Module) -> str:
    """Hash configuration and weights to 16 hex digits, independent of the device."""

    def parts() -> Iterator[str | memoryview]:
        yield json.dumps(config, sort_keys=True)
        for module in modules:
            for key, tensor in sorted(module.state_dict().items()):
                yield key
                flat = tensor.detach().cpu().contiguous().flatten()
                yield memoryview(flat.view(torch.uint8).numpy())

    return digest_of(parts(), length=16)
