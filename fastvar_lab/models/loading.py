"""Open a model by name: find its files, or fetch them, and fill it without a second copy."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields, replace
from inspect import signature
from pathlib import Path
from typing import Any

import torch

from fastvar_lab.backbones.features import StoredFeatures
from fastvar_lab.backbones.hart import HARTConfig
from fastvar_lab.backbones.infinity import InfinityConfig
from fastvar_lab.backbones.protocol import ConditionEncoder
from fastvar_lab.backbones.var import LabelEncoder, VARConfig
from fastvar_lab.models import releases
from fastvar_lab.models import weights as files
from fastvar_lab.models.build import build
from fastvar_lab.models.model import Model, NoText
from fastvar_lab.models.tiny import TOKENIZER_FILE, TRANSFORMER_FILE, WEIGHTS, build_tiny, language
from fastvar_lab.scales import Sizes, grids, square

NAMES = ("tiny", *releases.NAMES)
UNREAD = ["*.h5", "*.msgpack", "*.ot", "*.onnx"]  # a text encoder's weights for other frameworks
DRAWING = threading.Lock()  # random weights are drawn from the whole process's generator


def load(
    name: str = "tiny",
    weights: str | Path | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    *,
    download: bool = False,
    precision: str = "float32",
    reference: tuple[int, int] | None = None,
    sizes: Sizes | None = None,
    depth: int | None = None,
    features: str | Path | None = None,
    instruction: str | Path | None = None,
) -> Model:
    """Open a model: "tiny", "var-d16" to "var-d36", "infinity-2b" and its kin, "hart-0.7b".

    `weights` is a folder with the released files (default for tiny: those in the package), or
    "random" for seeded random weights, which serve speed work and tests and nothing else.
    `download` fetches what is missing through huggingface_hub. The text encoder is read from the
    same folder when it is there; without it, `generate` takes encoded prompts. `precision` is
    "float32", everything in `dtype`, or "official", see `Model.set_precision`. `reference`
    replaces Infinity's rotary grid, `sizes` the schedule; `depth` cuts random weights to so many
    layers. `features` is a folder that keeps prompts
    once encoded; `instruction` the file of HART's instruction text, which is not shipped.

    Raises ValueError for an unknown name, WeightsError for files that do not fit, RuntimeError
    for CUDA or memory that is not there.

    >>> load("tiny").sizes[-1]
    (32, 32)
    >>> load("var-d16", weights="random", depth=2).name
    'var-d16'
    """
    if name not in NAMES:
        raise ValueError(f"model must be one of {', '.join(NAMES)}; not {name!r}")
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"dtype must be a type of torch such as torch.bfloat16; not {dtype!r}")
    require(device)
    if sizes is not None:
        grids(sizes)  # refused before anything is read
    if name == "tiny":
        given = {"depth": depth, "reference": reference, "instruction": instruction}
        given["download"] = download or None
        for option, value in given.items():
            if value is not None:
                raise ValueError(f"the embedded model is opened as it is: {option} is not for it")
        model = _tiny(weights, seed)
    else:
        found = releases.release(name)
        if instruction is not None and not isinstance(found.config, HARTConfig):
            raise ValueError(f"an instruction text belongs to HART; not to {name}")
        if reference is not None:
            if not isinstance(found.config, InfinityConfig):
                raise ValueError(f"a rotary reference grid belongs to Infinity; not to {name}")
            found = replace(found, config=replace(found.config, reference=reference))
        if depth is not None:
            if weights != "random":
                raise ValueError("only random weights can be cut to fewer layers")
            if not 1 <= depth <= found.config.depth:
                raise ValueError(f"{name} has 1 to {found.config.depth} layers; not {depth}")
            found = replace(found, config=replace(found.config, depth=depth))
        random = weights == "random"  # drawn in float32, then cast
        _need_memory(name, found.config, device, torch.float32 if random else dtype)
        if random:
            on = [torch.device(device)] if torch.device(device).type == "cuda" else []
            with DRAWING, torch.random.fork_rng(devices=on), torch.device(device):
                torch.manual_seed(seed)
                model = _build(name, found)
        else:
            model = _released(name, found, weights, download, instruction)
    if features is not None:
        here = None if isinstance(model.text_encoder, NoText) else model.text_encoder
        model.text_encoder = StoredFeatures(features, here)
    model.sizes = model.sizes if sizes is None else sizes
    asked = {
        "weights": None if weights is None else str(weights),
        "device": str(device),
        "dtype": dtype,
        "seed": seed,
        "download": download,
        "precision": precision,
        "reference": reference,
        "sizes": sizes,
        "depth": depth,
        "features": None if features is None else str(features),
        "instruction": None if instruction is None else str(instruction),
    }
    model.source, model.opened = _written(name, asked), model.sizes
    return model.set_precision(precision, dtype).to(device).lay_out()


def _written(name: str, asked: Mapping[str, Any]) -> str:
    """Write the call of `load` that was made, defaults left out."""
    plain = {k: p.default for k, p in signature(load).parameters.items()}
    words = [repr(name), *(f"{k}={v!r}" for k, v in asked.items() if v != plain[k])]
    return f"fv.load({', '.join(words)})"


def _tiny(weights: str | Path | None, seed: int) -> Model:
    if weights == "random":
        with DRAWING, torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return build_tiny()
    folder = Path(WEIGHTS if weights is None else weights)
    parts, config = files.read(folder / TRANSFORMER_FILE)
    vision, vision_config = files.read(folder / TOKENIZER_FILE)
    try:
        model = build_tiny({**config, **vision_config})
    except (KeyError, TypeError) as error:
        raise files.WeightsError(f"{folder} holds another model's configuration: {error}") from None
    files.fill(language(model), parts, folder / TRANSFORMER_FILE)
    files.fill(model.tokenizer, vision, folder / TOKENIZER_FILE)
    return model


def _build(name: str, found: releases.Release) -> Model:
    return build(
        found.config,
        name=name,
        tokenizer=found.tokenizer,
        sizes=found.sizes,
        sampling=found.sampling,
    )


def _released(
    name: str,
    found: releases.Release,
    weights: str | Path | None,
    download: bool,
    instruction: str | Path | None,
) -> Model:
    if not found.files:
        raise ValueError(f'no weights of {name} were released; it opens with weights="random"')
    folder = fetch(found) if download else Path(weights) if weights is not None else None
    if folder is None:
        raise ValueError(
            f"{name} needs weights: a folder with {' and '.join(found.files)} from "
            f"https://huggingface.co/{found.repo}, or download=True"
        )
    for file in found.files:
        if not (folder / file).exists():
            raise files.WeightsError(
                f"{name} looks for {folder / file}, which is not there; "
                f"it comes from https://huggingface.co/{found.repo}"
            )
    if isinstance(found.config, HARTConfig):
        config = hart_config(found.config, folder / str(found.transformer))
        found = replace(found, config=config, sizes=square(*config.sides))
    with torch.device("meta"):
        model = _build(name, found)
    for module, file in zip((model.transformer, model.tokenizer), found.files, strict=True):
        tensors = files.by_own_names(files.read_released(folder / file), module)
        files.fill(module, tensors, folder / file)
    model.text_encoder = _condition(name, found, folder, instruction)
    return model


def _condition(
    name: str, found: releases.Release, folder: Path, instruction: str | Path | None
) -> ConditionEncoder:
    """Open the text encoder that lies beside the weights, if it does."""
    if isinstance(found.config, VARConfig):
        return LabelEncoder(found.config.classes)
    assert found.text is not None
    where = folder / found.text.folder
    if not where.exists():
        return NoText(name, f"{found.text.repo} in {where}")
    from fastvar_lab.backbones.encoders import open_encoder

    length = (
        found.config.context if isinstance(found.config, HARTConfig) else found.config.text_length
    )
    told = None if instruction is None else Path(instruction)
    return open_encoder(found.text.kind, where, length, told)


def hart_config(config: HARTConfig, folder: Path) -> HARTConfig:
    """Follow the release's own `config.json` where it says what this class has a field for."""
    path = folder / "config.json"
    if not path.exists():
        return config
    told: dict[str, Any] = json.loads(path.read_text())
    needed = {"attn_type": "llama", "mlp_type": "llama", "disable_aln": True, "shared_aln": False}
    for key, value in needed.items():
        if told.get(key, value) != value:
            raise files.WeightsError(f"{path} asks for {key} {told[key]!r}; only {value!r} is here")
    names = {
        "embed_dim": "width",
        "num_heads": "heads",
        "context_token": "context",
        "context_dim": "context_width",
        "diff_width": "diffusion_width",
        "diff_depth": "diffusion_depth",
    }
    found = {names.get(key, key): value for key, value in told.items()}
    sides = told.get("patch_nums", config.sides)
    found["sides"] = tuple(
        int(side)
        for side in (sides.replace("-", "_").split("_") if isinstance(sides, str) else sides)
    )
    known = {f.name for f in fields(HARTConfig)} - {"hidden", "early"}
    return replace(config, **{k: v for k, v in found.items() if k in known and v is not None})


def fetch(found: releases.Release) -> Path:
    """Download a release and its text encoder to the hub's cache; return the release's folder."""
    from huggingface_hub import snapshot_download

    assert found.repo is not None
    patterns = [p for file in found.files for p in (file, f"{file}/*")]
    folder = Path(snapshot_download(found.repo, allow_patterns=patterns))
    if found.text is not None:
        encoder = Path(snapshot_download(found.text.repo, ignore_patterns=[*UNREAD, "*.bin"]))
        if not any(encoder.glob("*.safetensors")):  # then its weights are the .bin files
            encoder = Path(snapshot_download(found.text.repo, ignore_patterns=UNREAD))
        link = folder / found.text.folder
        if not link.exists():
            link.unlink(missing_ok=True)  # of an encoder that the cache no longer has
            with suppress(FileExistsError):  # another process fetched it meanwhile
                link.symlink_to(encoder, target_is_directory=True)
    return folder


def parameters(config: releases.Config) -> int:
    """Count a transformer's parameters without allocating them."""
    with torch.device("meta"):
        return sum(p.numel() for p in build(config).transformer.parameters())


def _need_memory(
    name: str, config: releases.Config, device: torch.device | str, dtype: torch.dtype
) -> None:
    """Raise OutOfMemoryError if the weights alone exceed the memory that is free."""
    where, needed = torch.device(device), parameters(config) * dtype.itemsize
    free = torch.cuda.mem_get_info(where)[0] if where.type == "cuda" else _free_memory()
    if free is not None and needed > free:
        raise torch.OutOfMemoryError(
            f"{name} needs {needed / 2**30:.1f} GiB for its weights in {dtype}; "
            f"{free / 2**30:.1f} GiB are free on {where}"
        )


def _free_memory() -> int | None:
    """Bytes that can be had on this machine, where the system tells."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None


def require(device: torch.device | str) -> None:
    """Raise RuntimeError if a CUDA device is asked for that is not there."""
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(f"device {device} was asked for, but no CUDA GPU is available here")
