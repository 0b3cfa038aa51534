"""The networks that transformers builds: CLIP, HPSv2.1, DINO, ImageReward, GenEval's detector.

transformers is imported when a network is opened; `pip install -e ".[text]"` brings it. Pixels are
prepared here (`resizing`), because its image processors need torchvision or differ from the
protocols. Every network has `config`, and reads pictures (H, W, 3) uint8.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize

from fastvar_lab.errors import WeightsError, short
from fastvar_lab.networks import resizing
from fastvar_lab.networks.exact import exact

Preprocess = Callable[..., Tensor]


def transformers() -> Any:
    """Import transformers; raise ValueError that says how to install it."""
    from importlib import import_module

    try:
        return import_module("transformers")
    except ImportError as error:
        raise ValueError("this network needs transformers: pip install -e '.[text]'") from error


# tensors that transformers builds and these scores never read; released files lack them
UNREAD = re.compile(
    r"pooler\..*|criterion\.empty_weight|.*position_ids|.*relative_position_index|"
    r"model\.pixel_level_module\.encoder\.(swin\.)?layernorm\.(weight|bias)"
)
TOKENIZERS = ("tokenizer.json", "vocab.json", "vocab.txt")  # files that hold a vocabulary


def open_pretrained(kind: str, folder: Path) -> Any:
    """Open a network of transformers from a folder, in float32.

    Raises WeightsError for files that it cannot read, and for weights that lack a tensor:
    transformers would fill it at random, with a warning.
    """
    network, report = _opened(kind, folder, output_loading_info=True)
    missing = sorted(name for name in report["missing_keys"] if not UNREAD.fullmatch(name))
    if missing:
        raise WeightsError(
            f"the weights in {folder} lack {len(missing)} tensors of {kind}, such as "
            f"{short(missing[0])}: they are another network's, or not whole"
        )
    return network.float()


def open_tokenizer(folder: Path) -> Any:
    """Open the tokenizer of a folder; raise WeightsError where it is missing or damaged.

    Without a vocabulary transformers builds an empty one, to which all words are unknown.
    """
    if not any((folder / name).exists() for name in TOKENIZERS):
        raise WeightsError(f"{folder} holds no tokenizer: one of {', '.join(TOKENIZERS)}")
    return _opened("AutoTokenizer", folder)


def _opened(kind: str, folder: Path, **options: Any) -> Any:
    library = transformers()
    try:
        return getattr(library, kind).from_pretrained(folder, local_files_only=True, **options)
    except Exception as error:  # of transformers, safetensors and tokenizers: of many kinds
        raise WeightsError(f"cannot open the network in {folder}: {short(error, 160)}") from error


class Clip(nn.Module):
    """A CLIPModel of transformers with its tokenizer; `preprocess` prepares its pictures."""

    def __init__(
        self, model: Any, tokenizer: Any, preprocess: Preprocess = resizing.clip_crop
    ) -> None:
        super().__init__()
        self.model, self.tokenizer = model, tokenizer
        vision = self.model.config.vision_config
        self.preprocess = partial(preprocess, side=vision.image_size)
        self.length = self.model.config.text_config.max_position_embeddings
        self.config = self.model.config.to_json_string()

    @classmethod
    def read(cls, folder: Path, preprocess: Preprocess = resizing.clip_crop) -> Clip:
        """Open a folder in transformers' layout."""
        return cls(
            open_pretrained("CLIPModel", folder),
            open_tokenizer(folder),
            preprocess,
        )

    @property
    def device(self) -> torch.device:
        return self.model.logit_scale.device

    @torch.no_grad()
    @exact()
    def pictures(self, pictures: Sequence[np.ndarray], **options: Any) -> Tensor:
        """Return the features (n, D) of pictures, of unit length; `options` are those of pixels."""
        prepared = [self.preprocess(picture, **options) for picture in pictures]
        pixels = torch.stack(prepared).to(self.device)
        hidden = self.model.vision_model(pixel_values=pixels).pooler_output
        return normalize(self.model.visual_projection(hidden).float(), dim=-1)

    @torch.no_grad()
    @exact()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Return the features (n, D) of texts, of unit length; longer ones are cut, as released."""
        tokens = self.tokenizer(
            list(texts),
            padding="max_length",
            truncation=True,
            max_length=self.length,
            return_tensors="pt",
        )
        hidden = self.model.text_model(input_ids=tokens["input_ids"].to(self.device)).pooler_output
        return normalize(self.model.text_projection(hidden).float(), dim=-1)


class Dino(nn.Module):
    """A ViT of transformers, DINO or DINOv2: the features of its class token."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.config = self.model.config.to_json_string()

    @classmethod
    def read(cls, folder: Path) -> Dino:
        """Open a folder in transformers' layout."""
        return cls(open_pretrained("AutoModel", folder))

    @torch.no_grad()
    @exact()
    def pictures(self, pictures: Sequence[np.ndarray]) -> Tensor:
        """Return the features (n, D) of pictures, of unit length."""
        side, device = self.model.config.image_size, next(self.model.parameters()).device
        pixels = torch.stack([_dino_crop(picture, min(side, 224)) for picture in pictures])
        hidden = self.model(pixel_values=pixels.to(device), interpolate_pos_encoding=side > 224)
        return normalize(hidden.last_hidden_state[:, 0].float(), dim=-1)


def _dino_crop(picture: np.ndarray, side: int) -> Tensor:
    """Crop as CLIP does, with ImageNet's mean and deviation."""
    unit = resizing.clip_crop(picture, side)
    std, mean = (torch.tensor(v).view(3, 1, 1) for v in (resizing.CLIP_STD, resizing.CLIP_MEAN))
    return resizing.normalized((unit * std + mean) * 255, resizing.GREY_MEAN, resizing.GREY_STD)


_WIDTHS = (1024, 128, 64, 16, 1)  # of ImageReward's head
_HEAD_PLACES = ("0", "2", "4", "6", "7")  # in the released file; dropouts lie between
REWARD_MEAN, REWARD_STD = 0.16717362830052426, 1.0333394966054072  # THUDM/ImageReward
REWARD_LENGTH = 35  # tokens


class ImageReward(nn.Module):
    """ImageReward: a BLIP that reads text and picture together, and a head without activations.

    `text` and `vision` are overrides of transformers' BLIP configurations, for tests. Source: Xu
    et al., NeurIPS 2023; github.com/THUDM/ImageReward.
    """

    def __init__(
        self,
        tokenizer: Any,
        text: dict[str, int] | None = None,
        vision: dict[str, int] | None = None,
    ) -> None:
        super().__init__()
        blip = transformers()
        # the released ViT has an epsilon of 1e-6, which is not transformers' default
        look: dict[str, Any] = {"image_size": 224, "hidden_size": 1024, "intermediate_size": 4096,
                "num_hidden_layers": 24, "num_attention_heads": 16, "patch_size": 16,
                "layer_norm_eps": 1e-6, **(vision or {})}  # fmt: skip
        read: dict[str, Any] = {"vocab_size": 30524, "hidden_size": 768, "intermediate_size": 3072,
                "num_hidden_layers": 12, "num_attention_heads": 12, "is_decoder": True,
                "layer_norm_eps": 1e-12, "encoder_hidden_size": look["hidden_size"],
                "max_position_embeddings": 512, **(text or {})}  # fmt: skip
        self.vision = blip.BlipVisionModel(blip.BlipVisionConfig(**look))
        self.text = blip.models.blip.modeling_blip_text.BlipTextModel(
            blip.BlipTextConfig(**read), add_pooling_layer=False
        )
        widths = (read["hidden_size"], *_WIDTHS)
        self.head = nn.ModuleDict(
            {p: nn.Linear(a, b) for p, a, b in zip(_HEAD_PLACES, widths, widths[1:])}
        )
        self.tokenizer = tokenizer
        self.side = look["image_size"]
        self.config = {"text": text, "vision": vision}

    @torch.no_grad()
    @exact()
    def score(self, texts: Sequence[str], pictures: Sequence[np.ndarray]) -> Tensor:
        """Return the rewards (n,) of pictures, each for its text; about 0 on average."""
        pixels = torch.stack([resizing.clip_crop(picture, self.side) for picture in pictures])
        tokens = self.tokenizer(
            list(texts),
            padding="max_length",
            truncation=True,
            max_length=REWARD_LENGTH,
            return_tensors="pt",
        )
        device = next(self.parameters()).device
        seen = self.vision(pixel_values=pixels.to(device)).last_hidden_state
        x = self.text(
            input_ids=tokens["input_ids"].to(device),
            attention_mask=tokens["attention_mask"].to(device),
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long, device=device),
            is_decoder=False,
        ).last_hidden_state[:, 0]
        for layer in self.head.values():
            x = layer(x)
        return (x.squeeze(1).float() - REWARD_MEAN) / REWARD_STD


class Objects(NamedTuple):
    """The detections of one picture: classes (k,), scores (k,), boxes (k, 4), masks (k, H, W).

    A box is xmin, ymin, xmax, ymax in pixels; the last two are exclusive.
    """

    classes: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray
    masks: np.ndarray


MOST_OBJECTS = 100  # of a picture, in mmdetection's configuration


class Detector(nn.Module):
    """A Mask2Former of transformers, with mmdetection's pixels and results."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.config = self.model.config.to_json_string()

    @classmethod
    def read(cls, folder: Path) -> Detector:
        """Open a folder in transformers' layout."""
        return cls(open_pretrained("Mask2FormerForUniversalSegmentation", folder))

    @torch.no_grad()
    @exact()
    def detect(self, picture: np.ndarray, at_least: float = 0.0) -> Objects:
        """Return the objects of a picture (H, W, 3) uint8 that score `at_least` or more."""
        pixels = resizing.detector_input(picture)[None]
        device = next(self.model.parameters()).device
        seen = self.model(pixel_values=pixels.to(device))
        size = resizing.detector_size(*picture.shape[:2])
        return objects(
            seen.class_queries_logits[0].float(),
            seen.masks_queries_logits[0].float(),
            (int(pixels.shape[2]), int(pixels.shape[3])),
            size,
            (picture.shape[0], picture.shape[1]),
            at_least,
        )


def objects(
    logits: Tensor,
    masks: Tensor,
    padded: tuple[int, int],
    resized: tuple[int, int],
    size: tuple[int, int],
    at_least: float = 0.0,
) -> Objects:
    """Turn class logits (Q, 81) and mask logits (Q, h, w) into objects, as mmdetection does.

    The 100 best pairs of query and class are kept: a query may appear with several classes. A score
    is the class's probability times the mean probability of its mask. Sizes are (height, width).
    """
    chances = logits.softmax(-1)[:, :-1]
    best = chances.flatten().topk(min(MOST_OBJECTS, chances.numel()))
    places = best.indices.div(chances.shape[1], rounding_mode="floor")
    classes = best.indices % chances.shape[1]
    queries, row = places.unique(return_inverse=True)  # a mask is resized once
    scaled = interpolate(masks[queries][None], padded, mode="bilinear", align_corners=False)
    scaled = scaled[..., : resized[0], : resized[1]]
    scaled = interpolate(scaled, size, mode="bilinear", align_corners=False)[0]
    inside = scaled > 0
    area = inside.flatten(1).sum(1)
    sure = (scaled.sigmoid() * inside).flatten(1).sum(1) / (area + 1e-6)
    scores = best.values * sure[row]
    kept = scores >= at_least
    boxes = torch.stack([_box(mask) for mask in inside])[row[kept]]
    return Objects(
        classes[kept].cpu().numpy(),
        scores[kept].cpu().numpy(),
        boxes.cpu().numpy(),
        inside[row[kept]].cpu().numpy(),
    )


def _box(mask: Tensor) -> Tensor:
    """Return the tight box of a mask (H, W), its ends exclusive; zeros for an empty one."""
    ys, xs = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
    if not len(ys):
        return mask.new_zeros(4, dtype=torch.float32)
    ends = torch.stack((xs[0], ys[0], xs[-1] + 1, ys[-1] + 1))
    return ends.float()
