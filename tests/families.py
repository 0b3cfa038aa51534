"""A small random model of every family, for promises that all of them keep."""

import torch

from fastvar_lab.models import build, tiny
from tests.conftest import SIZES, small_config
from tests.test_hart import CONFIG as HART
from tests.test_var import SMALL as AUTOENCODER
from tests.test_var import config as var_config

FAMILIES = {
    "infinity": "a cyan star left of a ring",
    "var": "7",
    "hart": "a cyan star",
}


def small_model(family, device="cpu", dtype=torch.float32):
    torch.manual_seed(0)
    if family == "infinity":
        model = tiny.build_tiny(small_config())
        model.sizes = SIZES
    else:
        config = HART if family == "hart" else var_config(shared=False)
        model = build.build(config, tokenizer=AUTOENCODER)
    return model.freeze().to(device, dtype)


def prompt(model):
    return FAMILIES[type(model.transformer).__name__.lower()]
