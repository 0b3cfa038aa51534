"""Tiny random networks of every kind: they rehearse a benchmark before any file is fetched.

Their scores mean nothing. A collection of them is written in a second, has the layout of the real
one, and opens by the same code.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from fastvar_lab.files import expanded, folder, write_json
from fastvar_lab.models.seeding import seeded
from fastvar_lab.networks.conversion import CONFIG, SETTINGS, as_it_is, mask2former, save
from fastvar_lab.networks.inception import Inception
from fastvar_lab.networks.lpips import LPIPS
from fastvar_lab.networks.pretrained import ImageReward, open_tokenizer, transformers

CLIP_MARKS, BERT_MARKS = ("<start>", "<end>", "<pad>"), ("[CLS]", "[SEP]", "[PAD]")
WIDTH, LETTERS = 32, "abcdefghijklmnopqrstuvwxyz"
_LAYER = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 1,
          "num_attention_heads": 2}  # fmt: skip
_SWIN = {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2]}
DETECTOR: dict[str, Any] = {"backbone_config": _SWIN, "feature_size": 32, "mask_feature_size": 32,
                            "hidden_dim": 32, "encoder_feedforward_dim": 32, "encoder_layers": 1,
                            "decoder_layers": 2, "num_attention_heads": 2, "dim_feedforward": 32,
                            "num_queries": 12}  # fmt: skip


def write_collection(collection: str | Path, seed: int = 0) -> Path:
    """Write tiny random networks of every kind; return the folder of the collection.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as work:
    ...     sorted(p.name for p in write_collection(work).iterdir())
    ['clip', 'detector', 'dino', 'hps', 'imagereward', 'inception', 'lpips']
    """
    root = folder(expanded(collection))
    with seeded(seed):
        for name in ("inception", "lpips"):
            network: nn.Module = Inception(16) if name == "inception" else LPIPS(8)
            place = folder(root / name)
            save(network.state_dict(), place, network.config)  # type: ignore[arg-type]
        for name in ("clip", "hps"):
            _clip(folder(root / name))
        _reward(folder(root / "imagereward"))
        _pretrained(mask2former(**DETECTOR), folder(root / "detector"))
        vit = {"model_type": "vit", "architectures": ["ViTModel"], "image_size": 32,
               "patch_size": 16, **_LAYER}  # fmt: skip
        _pretrained(vit, folder(root / "dino"))
    return root


def _pretrained(config: dict[str, Any], place: Path) -> None:
    """Write a network of transformers by its configuration."""
    library = transformers()
    write_json(place / CONFIG, config)
    settings = library.AutoConfig.from_pretrained(place)
    network = getattr(library, config["architectures"][0])(settings)
    with TemporaryDirectory() as work:
        network.save_pretrained(work)
        as_it_is({path.name: path for path in Path(work).iterdir()}, place)


def letter_tokenizer(start: str, end: str, pad: str) -> Any:
    """Build a tokenizer of single letters, with its marks."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocabulary = {token: i for i, token in enumerate(dict.fromkeys((pad, *LETTERS, start, end)))}
    tokens = Tokenizer(models.WordLevel(vocabulary, unk_token=pad))
    tokens.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    marks = [(start, vocabulary[start]), (end, vocabulary[end])]
    tokens.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=marks
    )
    return transformers().PreTrainedTokenizerFast(
        tokenizer_object=tokens, bos_token=start, eos_token=end, pad_token=pad, unk_token=pad
    )


def _clip(place: Path) -> None:
    letter_tokenizer(*CLIP_MARKS).save_pretrained(place)
    text = {**_LAYER, "vocab_size": 32, "max_position_embeddings": 24, "bos_token_id": 27,
            "eos_token_id": 28, "pad_token_id": 0, "projection_dim": 16}  # fmt: skip
    vision = {**_LAYER, "image_size": 32, "patch_size": 8, "projection_dim": 16}
    config = {"model_type": "clip", "architectures": ["CLIPModel"], "projection_dim": 16,
              "text_config": text, "vision_config": vision}  # fmt: skip
    _pretrained(config, place)


def _reward(place: Path) -> None:
    letter_tokenizer(*BERT_MARKS).save_pretrained(place)
    settings = {"text": {**_LAYER, "vocab_size": 32}, "vision": {**_LAYER, "image_size": 32}}
    network = ImageReward(open_tokenizer(place), **settings)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.1)
    save(network.state_dict(), place, settings, SETTINGS)
