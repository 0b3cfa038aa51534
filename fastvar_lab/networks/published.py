"""The networks as they were published: files, licences, sizes, and how each is converted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import nn

from fastvar_lab.errors import unknown
from fastvar_lab.networks import conversion, pretrained, resizing
from fastvar_lab.networks.conversion import CONFIG, WEIGHTS
from fastvar_lab.networks.inception import Inception
from fastvar_lab.networks.lpips import LPIPS


@dataclass(frozen=True)
class File:
    """A file to fetch: from a repository of the Hugging Face Hub, or the whole address.

    `begins` is the start of its SHA-256, where the publisher says it in the file's name.
    """

    name: str
    repo: str = ""
    url: str = ""
    begins: str = ""

    @property
    def address(self) -> str:
        return self.url or f"https://huggingface.co/{self.repo}/blob/main/{self.name}"


@dataclass(frozen=True)
class Network:
    """One network: what it is for, where its files are, how they are converted and opened.

    `convert(paths, folder)` writes the folder from the files by name.
    """

    name: str
    use: str
    files: tuple[File, ...]
    megabytes: int
    licence: str
    convert: Callable[[Mapping[str, Path], Path], None]
    read: Callable[[Path], nn.Module]


def find(name: str) -> Network:
    """Return a network by name; raise ValueError for an unknown one."""
    if name not in NETWORKS:
        raise unknown("network", name, NETWORKS, "`fastvar-lab networks`")
    return NETWORKS[name]


_CLIP = "openai/clip-vit-large-patch14"
_BERT, _BERT_TOKENS = "google-bert/bert-base-uncased", ("tokenizer.json", "vocab.txt")
_MMDET = "mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco"
_TOKENS = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt",
           "special_tokens_map.json")  # fmt: skip
NETWORKS: dict[str, Network] = {
    network.name: network
    for network in (
        Network(
            "inception",
            "FID, sFID, IS, precision and recall",
            (
                File(
                    "pt_inception-2015-12-05-6726825d.pth",
                    url="https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
                    "pt_inception-2015-12-05-6726825d.pth",
                    begins="6726825d",
                ),
            ),
            95,
            "Apache-2.0",
            conversion.inception,
            partial(conversion.filled, Inception),
        ),
        Network(
            "clip",
            "CLIP score, GenEval's colors, CLIP-I",
            tuple(File(name, _CLIP) for name in (WEIGHTS, CONFIG, *_TOKENS)),
            1710,
            "MIT",
            conversion.as_it_is,
            pretrained.Clip.read,
        ),
        Network(
            "hps",
            "HPSv2.1",
            (
                File("HPS_v2.1_compressed.pt", "xswu/HPSv2"),
                *(File(name, _CLIP) for name in _TOKENS),
            ),
            1970,
            "Apache-2.0",
            conversion.hps,
            partial(pretrained.Clip.read, preprocess=resizing.float_crop),
        ),
        Network(
            "imagereward",
            "ImageReward",
            (
                File("ImageReward.pt", "THUDM/ImageReward"),
                *(File(name, _BERT) for name in (CONFIG, *_BERT_TOKENS)),
            ),
            1790,
            "Apache-2.0",
            conversion.image_reward,
            conversion.open_image_reward,
        ),
        Network(
            "detector",
            "GenEval's objects",
            (
                File(
                    f"{_MMDET}_20220504_001756-743b7d99.pth",
                    url=f"https://download.openmmlab.com/mmdetection/v2.0/mask2former/{_MMDET}/"
                    f"{_MMDET}_20220504_001756-743b7d99.pth",
                    begins="743b7d99",
                ),
            ),
            275,
            "Apache-2.0",
            conversion.detector,
            pretrained.Detector.read,
        ),
        Network(
            "lpips",
            "LPIPS",
            (
                File(
                    "alexnet-owt-7be5be79.pth",
                    url="https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
                    begins="7be5be79",
                ),
            ),
            244,
            "BSD-3-Clause; its heads, from torchmetrics, Apache-2.0",
            conversion.lpips,
            partial(conversion.filled, LPIPS),
        ),
        Network(
            "dino",
            "DINO",
            tuple(File(name, "facebook/dino-vits16") for name in (CONFIG, "pytorch_model.bin")),
            87,
            "Apache-2.0",
            conversion.dino,
            pretrained.Dino.read,
        ),
    )
}
"""Every network, by name."""
