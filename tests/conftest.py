import math

import pytest
import torch

from fastvar_lab.models import tiny
from fastvar_lab.scales import square

SIZES = square(1, 2, 4, 6, 8)


def small_config():
    """A narrow, shallow Infinity's configuration."""
    config = tiny.tiny_config()
    config["transformer"] |= {"depth": 3, "width": 64, "heads": 2, "ffn": 128, "text_width": 64}
    config["text"] |= {"width": 64}
    return config


@pytest.fixture(scope="session")
def small():
    """A small random Infinity in float64, with branches large enough to matter."""
    torch.manual_seed(0)
    model = tiny.build_tiny(small_config(), name="small")
    model.sizes = SIZES
    for part in model.parts:
        part.eval()
    for parameter in model.transformer.parameters():
        parameter.requires_grad_(False)
    model.transformer.head.weight.mul_(8)
    model.transformer.places.weight.normal_(std=0.3)
    for block in model.transformer.blocks:
        block.sa.scale_mul_1H11.fill_(math.log(40))
        block.sa.proj.weight.mul_(8)
        block.ada_gss[:, :, :2] = 1.0
    return model.to("cpu", torch.float64)


@pytest.fixture(scope="session")
def tiny_networks(tmp_path_factory):
    """Tiny random networks of the evaluators, of every kind."""
    pytest.importorskip("transformers")
    from fastvar_lab.networks.random_networks import write_collection

    return write_collection(tmp_path_factory.mktemp("networks"))
