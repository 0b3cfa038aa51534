"""Opens a model by name: finds or downloads its files and fills the model without a copy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

import psutil
import torch

from fastvar_lab.backbones.protocol import ConditionEncoder
from fastvar_lab.errors import WeightsError, short
from fastvar_lab.files import expanded
from fastvar_lab.models import names, releases, states, tiny
from fastvar_lab.models.absent import NoText
from fastvar_lab.models.build import build
from fastvar_lab.models.checkpoints import read_released
from fastvar_lab.models.families import Config
from fastvar_lab.models.features import StoredFeatures
from fastvar_lab.models.hub import fetch
from fastvar_lab.models.lora import load_lora
from fastvar_lab.models.lora_files import lora_file
from fastvar_lab.models.model import Model
from fastvar_lab.models.releases import Release
from fastvar_lab.models.seeding import seeded
from fastvar_lab.models.wrappers import unprefixed
from fastvar_lab.scales import Buckets, as_sizes, whole

# name -> module with `build_tiny` and `open_tiny`
SHIPPED = dict(zip(names.SHIPPED, (tiny,), strict=True))

CONFIGURED = {
    "reference": "a rotary reference grid belongs to Infinity",
    "rotary_mode": "modes of rotary positions belong to Infinity",
    "level_every": "level embeddings of later layers belong to Infinity",
    "attn_l2_norm": "the norm of queries and keys belongs to VAR",
    "share_quant_resi": "shared convolutions of the codebook belong to VAR and HART",
}
"""Options of `load` that replace a field of the configuration, and whose they are."""


def load(
    name: str = "tiny",
    weights: str | Path | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    seed: int | None = 0,
    *,
    download: bool = False,
    precision: str = "float32",
    lora: str | Path | None = None,
    lora_scale: float = 1.0,
    reference: tuple[int, int] | None = None,
    sizes: Sequence[Sequence[int]] | None = None,
    depth: int | None = None,
    features: str | Path | None = None,
    text: bool = True,
    instruction: str | Path | None = None,
    rotary_mode: str | None = None,
    level_every: int | None = None,
    attn_l2_norm: bool | None = None,
    share_quant_resi: int | None = None,
) -> Model:
    """Open a model: "tiny", "var-d16" to "var-d36", "infinity-2b" and its kin, "hart-0.7b".

    "module:function" imports a function of your own and calls it: it returns the model, for
    instance of `attach`, and takes no options but `lora` and `lora_scale`. So a live object can be
    named in commands and notebooks, and opened by workers.

    `weights` is a folder with the released files (default for tiny: those in the package), or
    "random" for random weights drawn from `seed`, which are good for speed and tests alone.
    `download` fetches missing files through huggingface_hub. The text encoder is read from the
    same folder; if it is not there, `generate` needs encoded prompts. `precision` is "float32"
    (everything in `dtype`), "official" or "int8", see `Model.set_precision`; with `dtype`
    torch.int8 it is "int8" beside float32. `lora` is a file or folder of a LoRA, put on scaled by
    `lora_scale`; see `load_lora`. `reference` replaces
    Infinity's rotary grid, `sizes` the schedule. `depth` keeps only the first layers, for random
    weights. `features` is a folder in which encoded prompts are cached; `text=False` leaves a
    released text encoder unread, for prompts that are encoded (see `staging.load_encoded`).
    `instruction` is the file with HART's instruction text, which is not shipped.

    Weights trained in other ways than the released ones are opened with `rotary_mode` and
    `level_every` (see `InfinityConfig`), `attn_l2_norm` (`VARConfig`) and `share_quant_resi`
    (`VectorQuantizer`).

    Raises ValueError for an unknown name or option, WeightsError for files that are missing or do
    not match, and RuntimeError without enough memory or without the CUDA device.

    >>> load("tiny").sizes[-1]
    (32, 32)
    >>> load("var-d16", weights="random", depth=2).name
    'var-d16'
    """
    seed = whole("seed", 0 if seed is None else seed)
    depth = None if depth is None else whole("depth", depth)
    sizes = None if sizes is None else as_sizes(sizes)  # raises before any file is read
    reference = None if reference is None else as_sizes([reference])[0]
    require(device)
    options = {
        "weights": None if weights is None else str(weights),
        "device": str(torch.device(device)),
        "dtype": dtype,
        "seed": seed,
        "download": download,
        "precision": precision,
        "lora": None if lora is None else str(lora),
        "lora_scale": lora_scale,
        "reference": reference,
        "sizes": sizes,
        "depth": depth,
        "features": None if features is None else str(features),
        "instruction": None if instruction is None else str(instruction),
        "rotary_mode": rotary_mode,
        "level_every": None if level_every is None else whole("level_every", level_every),
        "attn_l2_norm": attn_l2_norm,
        "share_quant_resi": None
        if share_quant_resi is None
        else whole("share_quant_resi", share_quant_resi),
    }
    names.check_name(name)
    if names.is_function(name):
        return _from_function(name, options)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"dtype must be a torch.dtype such as torch.bfloat16; not {dtype!r}")
    if lora is not None:
        lora_file(lora)  # raises before any weights are read
    elif lora_scale != 1:
        raise ValueError(f"lora_scale {lora_scale!r} scales a LoRA; name its file with lora")
    if dtype == torch.int8:
        if precision == "official":
            raise ValueError("official precision has no int8 weights; give one of the two")
        precision, dtype = "int8", torch.float32
    if name in SHIPPED:
        model = _shipped(name, options)
    elif weights == "random":
        if download or instruction is not None:
            raise ValueError("random weights read no files; omit download and instruction")
        release = _first_layers(name, _configured(name, releases.release(name), options), depth)
        _need_memory(name, release.config, device, torch.float32)  # drawn so, then cast
        with seeded(seed), torch.device(device):
            model = skeleton(name, release)
    else:
        release = _configured(name, releases.release(name), options)
        if depth is not None:
            raise ValueError("only random weights can be cut to fewer layers")
        _need_memory(name, release.config, device, dtype)
        folder, place = _folder(name, release, weights, download)
        model = _released(name, release, folder, place if text else None, instruction)
    if features is not None:
        encoder = None if isinstance(model.text_encoder, NoText) else model.text_encoder
        model.text_encoder = StoredFeatures(features, encoder)
    model.sizes = model.sizes if sizes is None else sizes
    model.set_precision(precision, dtype).to(device)
    if lora is not None:
        load_lora(model, lora, lora_scale)
    _remember(model, name, options)
    return model.lay_out()


def _from_function(name: str, options: Mapping[str, Any]) -> Model:
    """Open a model through a function "module:function"; ValueError if there is none, or no model.

    What the function itself raises is raised.
    """
    defaults = {k: p.default for k, p in signature(load).parameters.items()}
    for option, value in options.items():
        if value != defaults[option] and option not in ("lora", "lora_scale", "seed"):
            raise ValueError(f"{name} opens the model itself; {option} is for it to choose")
    module, _, function = name.partition(":")
    try:
        opened = getattr(import_module(module), function)()
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ValueError(f"there is no module {error.name!r} to open {name} from") from None
    except AttributeError as error:
        if hasattr(import_module(module), function):
            raise
        raise ValueError(f"cannot open {name}: {short(error, 120)}") from None
    if not isinstance(opened, Model):
        raise ValueError(f"{name} must return a Model, such as attach does; not {short(opened)}")
    if options["lora"] is not None:
        load_lora(opened, options["lora"], options["lora_scale"])
    _remember(opened, name, options)
    return opened


def _remember(model: Model, name: str, options: Mapping[str, Any]) -> None:
    """Keep in the model how it was opened, and what it was then."""
    model.source = _source(name, options)
    model.opened, model.opened_sampling = model.sizes, model.sampling
    model.opened_types = model.types


def buckets(name: str) -> Buckets | None:
    """Return the trained schedules of a model by aspect and pixel budget; None if it has one alone.

    Raises ValueError for an unknown name.
    """
    names.check_name(name)
    return (
        None
        if name in SHIPPED or names.is_function(name)
        else releases.release(name).family.buckets
    )


def open_text(
    name: str,
    weights: str | Path | None,
    *,
    download: bool = False,
    instruction: str | Path | None = None,
) -> ConditionEncoder:
    """Open the released text encoder of a model alone, on the CPU; a `NoText` if it is not there.

    Raises ValueError or WeightsError as `load` does.
    """
    release = releases.release(name)
    folder, place = _folder(name, release, weights, download)
    release, _ = _followed(name, release, folder / str(release.transformer))
    return _condition(name, release, place, instruction)


def hollow(name: str, precision: str = "float32", dtype: torch.dtype = torch.bfloat16) -> Model:
    """Open a model whose weights have shapes and no content, for counts; see `load`."""
    names.check_name(name)
    if names.is_function(name):
        raise ValueError(f"{name} is opened by a function, which gives it content")
    with torch.device("meta"):
        model = skeleton(name)
    return model.to("meta").set_precision(precision, dtype)


def skeleton(name: str, release: Release | None = None) -> Model:
    """Build a model by name with random weights; `release` replaces the released configuration."""
    if name in SHIPPED:
        return SHIPPED[name].build_tiny()
    release = release or releases.release(name)
    sizes, sampling = release.sizes, release.sampling
    return build(release.config, name=name, sizes=sizes, sampling=sampling)


def _source(name: str, options: Mapping[str, Any]) -> str:
    """Write the call of `load` that opens this model, without default values."""
    defaults = {k: p.default for k, p in signature(load).parameters.items()}
    arguments = [repr(name), *(f"{k}={v!r}" for k, v in options.items() if v != defaults[k])]
    return f"fv.load({', '.join(arguments)})"


def _shipped(name: str, options: Mapping[str, Any]) -> Model:
    """Open a model whose weights are in the package; raise ValueError for unsupported options."""
    for option in ("depth", "instruction", "download", *CONFIGURED):
        if options[option] is not (False if option == "download" else None):
            raise ValueError(f"the model {name} does not take the option {option}")
    if options["weights"] == "random":
        with seeded(options["seed"]):
            return skeleton(name)
    return SHIPPED[name].open_tiny(options["weights"])


def _configured(name: str, release: Release, options: Mapping[str, Any]) -> Release:
    """Check the options that belong to one family, and apply those of the configuration."""
    owners = {"instruction": "an instruction text belongs to HART", **CONFIGURED}
    for option, sentence in owners.items():
        if options[option] is not None and option not in release.family.options:
            raise ValueError(f"{sentence}; not to {name}")
    if options["features"] is not None and release.family.text_length is None:
        raise ValueError(f"features are those of texts; {name} reads none")
    changes = {field: options[field] for field in CONFIGURED if options[field] is not None}
    config: Any = release.config
    return replace(release, config=replace(config, **changes)) if changes else release


def _first_layers(name: str, release: Release, depth: int | None) -> Release:
    """Keep the first `depth` layers of a release; all of them if it is None."""
    if depth is None:
        return release
    if not 1 <= depth <= release.config.depth:
        raise ValueError(f"{name} has 1 to {release.config.depth} layers; not {depth}")
    return replace(release, config=replace(release.config, depth=depth))


def _folder(
    name: str, release: Release, weights: str | Path | None, download: bool
) -> tuple[Path, Path | None]:
    """Find or download the folders of a release and of its text encoder, None if that is absent.

    Raises WeightsError if a file of the release is missing.
    """
    if not release.files:
        raise ValueError(f'no weights of {name} were released; it opens with weights="random"')
    if weights is None and not download:
        raise ValueError(
            f"{name} needs weights: a folder with {' and '.join(release.files)} from "
            f"https://huggingface.co/{release.repo}, or download=True"
        )
    if download and weights is not None:
        raise ValueError(f"weights={str(weights)!r} and download both say what to open; give one")
    if download:
        folder, text = fetch(release)
    else:
        folder = expanded(str(weights))
        text = None if release.text is None else folder / release.text.folder
    for file in release.files:
        if not (folder / file).exists():
            raise WeightsError(
                f"{name} needs {folder / file}, which does not exist; "
                f"download it from https://huggingface.co/{release.repo}"
            )
    return folder, text


def _released(
    name: str, release: Release, folder: Path, text: Path | None, instruction: str | Path | None
) -> Model:
    """Open a release from the files in a folder, its text encoder from the folder `text`."""
    release, model = _followed(name, release, folder / str(release.transformer))
    for module, file in zip((model.transformer, model.tokenizer), release.files, strict=True):
        tensors, prefix = unprefixed(read_released(folder / file))
        source = f"{folder / file}{f' (without the prefix {prefix})' if prefix else ''}"
        states.fill(module, states.by_own_names(tensors, module), source)
    model.text_encoder = _condition(name, release, text, instruction)
    return model


def _followed(name: str, release: Release, file: Path) -> tuple[Release, Model]:
    """Bring a release in line with the configuration beside its weights, and build it so.

    On the meta device, and no deeper or wider than the weights are long. Raises WeightsError for a
    configuration that no model has.
    """
    try:
        config: Any = release.family.follow(release.config, file)
        if config != release.config:
            length = sum(part.stat().st_size for part in file.rglob("*") if part.is_file())
            if not 0 < config.depth * config.width**2 <= length:  # no layer has fewer weights
                raise ValueError(
                    f"{config.depth} layers of width {config.width} do not lie in {length} bytes"
                )
        with torch.device("meta"):
            return replace(release, config=config), skeleton(name, replace(release, config=config))
    except WeightsError:
        raise
    except Exception as error:  # values of any type, sizes that contradict each other
        raise WeightsError(
            f"the configuration in {file} is none of a {name}: {short(error, 100)}"
        ) from None


def _condition(
    name: str, release: Release, place: Path | None, instruction: str | Path | None
) -> ConditionEncoder:
    """Open the text encoder in the folder `place`, or return a `NoText` if there is none."""
    if release.text is None or release.family.text_length is None:
        return release.family.condition(release.config)
    if place is None or not place.exists():
        return NoText(name, "" if place is None else f"{release.text.repo} in {place}")
    from fastvar_lab.backbones.encoders import open_encoder

    length = release.family.text_length(release.config)
    path = None if instruction is None else expanded(instruction)
    try:
        return open_encoder(release.text.kind, place, length, path)
    except (OSError, UnicodeError, RuntimeError, TypeError, KeyError, AttributeError) as error:
        raise WeightsError(
            f"cannot open the text encoder in {place}: {short(error, 160)}"
        ) from error


def parameters(config: Config) -> int:
    """Count a transformer's parameters without allocating them."""
    with torch.device("meta"):
        return sum(p.numel() for p in build(config).transformer.parameters())


def _need_memory(name: str, config: Config, device: torch.device | str, dtype: torch.dtype) -> None:
    """Raise OutOfMemoryError if the weights exceed the free memory."""
    place, needed = torch.device(device), parameters(config) * dtype.itemsize
    cuda = place.type == "cuda"
    free = torch.cuda.mem_get_info(place)[0] if cuda else psutil.virtual_memory().available
    if needed > free:
        raise torch.OutOfMemoryError(
            f"{name} needs {needed / 2**30:.1f} GiB for its weights in {dtype}; "
            f"{free / 2**30:.1f} GiB are free on {place}"
        )


def require(device: torch.device | str) -> None:
    """Raise ValueError for what is no device, RuntimeError for CUDA on a machine without it."""
    try:
        torch.device(device)
    except (RuntimeError, TypeError):
        raise ValueError(f"device must be cpu or cuda, such as cuda:0; not {device!r}") from None
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(f"device {device} needs a GPU, but no CUDA GPU is available here")
