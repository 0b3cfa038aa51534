"""Opens a model for prompts that are known: text first, freed before the rest is read.

A released text encoder is as large as the transformer beside it. It serves a generation only until
its prompts are encoded, so that the two need never lie in memory together.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from fastvar_lab.models.features import EncodedPrompts, StoredFeatures, encoder_name, row_of
from fastvar_lab.models.loading import SHIPPED, load, open_text, require
from fastvar_lab.models.lora_files import lora_file
from fastvar_lab.models.model import Model
from fastvar_lab.models.names import check_name, is_function

FEW = 8  # prompts that are encoded without a progress bar


def load_encoded(
    prompts: Sequence[str],
    name: str = "tiny",
    weights: str | Path | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    seed: int | None = 0,
    *,
    download: bool = False,
    precision: str = "float32",
    features: str | Path | None = None,
    instruction: str | Path | None = None,
    **options: Any,
) -> Model:
    """Open a model as `load` does, for these prompts alone: `generate` refuses others.

    A released text encoder encodes them on the device, in the model's precision, and is freed
    before transformer and autoencoder are read. With `features`, prompts that this folder holds are
    read, and the others kept there. Models without a text encoder of their own take any prompt.

    >>> load_encoded(["a red ring"]).name
    'tiny'
    """
    check_name(name)
    require(device)
    common: dict[str, Any] = {"download": download, "precision": precision, "features": features,
                              "instruction": instruction, **options}  # fmt: skip
    if options.get("lora") is not None:
        lora_file(options["lora"])  # raises before anything is encoded
    released = name not in SHIPPED and weights != "random" and not is_function(name)
    encoder = (
        open_text(name, weights, download=download, instruction=instruction) if released else None
    )
    if encoder is None or not any(True for _ in encoder.parameters()):  # nothing to free
        return load(name, weights, device, dtype, seed, **common)
    mixed = precision == "official" and dtype.itemsize == 2  # as `Model.set_precision`
    wide = mixed or dtype == torch.int8  # as `load`: text encoders have no int8 weights
    encoder.eval().to(device, torch.float32 if wide else dtype)
    with torch.no_grad(), torch.autocast(torch.device(device).type, dtype, enabled=mixed):
        label = encoder_name(encoder)
        different = tqdm(
            list(dict.fromkeys(prompts)), desc="text", unit="prompt", disable=len(prompts) <= FEW
        )
        if features is None:
            rows = {prompt: row_of(encoder, prompt) for prompt in different}
        else:
            stored = StoredFeatures(features, encoder)
            rows = dict(zip(dict.fromkeys(prompts), stored.rows(list(different))))
            del stored
    del encoder
    gc.collect()
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()
    model = load(name, weights, device, dtype, seed, **common, text=False)
    model.text_encoder = EncodedPrompts(rows, label).to(device)
    return model
