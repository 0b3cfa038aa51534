"""Reads the family and the sizes of a live object off its modules."""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt
from typing import Any, cast

from fastvar_lab.backbones.autoencoder import AutoEncoderConfig
from fastvar_lab.backbones.hart import HARTConfig
from fastvar_lab.backbones.infinity import InfinityConfig
from fastvar_lab.backbones.positions import ROTARY_MODES
from fastvar_lab.backbones.var import VARConfig
from fastvar_lab.errors import WeightsError, short
from fastvar_lab.models import states
from fastvar_lab.models.families import HART_NEEDS, Config
from fastvar_lab.models.live_object import LiveObject

# attributes that change what is computed, but no parameter: the values that are implemented
_NEEDS: dict[str, dict[str, Any]] = {
    "var": {"norm_eps": 1e-6},
    "infinity": {
        "norm_eps": 1e-6,
        "use_bit_label": True,
        "rope2d_each_sa_layer": True,
    },
    "hart": {"norm_eps": 1e-6, "attn_l2_norm": False, **HART_NEEDS},
}


def family_name(live: LiveObject) -> str:
    """Return "var", "infinity" or "hart"; raise ValueError that says what was looked for."""
    for mark, (name, _) in states.MARKS.items():
        if live.layer(mark.removesuffix(".weight")) is not None:
            return name
    for mark, (_, family) in states.MARKS.items():
        tail = f".{mark.removesuffix('.weight')}"
        part = next((path for path in live.modules if path.endswith(tail)), "").removesuffix(tail)
        if part:
            raise ValueError(f"{live.noun} is {family} only in its part {part}; attach that part")
    looks = states.looks_like(live.tensors)
    held = ", ".join(map(short, [*live.tensors][:3])) or "no parameters"
    raise ValueError(
        f"{live.noun} is no VAR (class_emb), Infinity (text_proj_for_ca) or HART (context_embed): "
        f"it holds {held}{f', as {looks} does' if looks else ''}"
    )


def config_of(live: LiveObject, family: str, channels: int | None) -> Config:
    """Read a transformer's configuration; `channels` are those of its tokenizer, if it is here.

    Raises WeightsError for a part that is missing, ValueError for settings that contradict the
    shapes or that are not implemented.
    """
    for name, needed in _NEEDS[family].items():
        value = live.setting(name)
        if value is not None and value != needed:
            raise ValueError(f"{live.noun} has {name} {value!r}; only {needed!r} is implemented")
    config = _READERS[family](live, channels)
    stated = {"depth": config.depth, "num_heads": config.heads, "C": config.width}
    for name, size in stated.items():
        value = live.setting(name)
        if isinstance(value, int) and value != size:
            raise ValueError(f"{live.noun} has {name} {value}; its modules have {size}")
    code = getattr(config, "code", channels)  # Infinity's tokenizer says how it is patchified
    if channels not in (None, code):
        raise ValueError(
            f"{live.noun} has codes of {code} values, its tokenizer {channels} channels; they "
            "belong to different models"
        )
    return config


def _var(live: LiveObject, channels: int | None) -> VARConfig:
    width, code = live.shape("word_embed")
    scale = live.tensors.get("blocks.0.attn.scale_mul_1H11")
    heads = live.setting("num_heads") if scale is None else scale.numel()
    if not isinstance(heads, int):
        raise WeightsError(f"{live.noun} has neither scale_mul_1H11 nor num_heads, for its heads")
    return VARConfig(
        depth=live.count("blocks"),
        width=width,
        heads=heads,
        attn_l2_norm=scale is not None,
        sides=live.sides(),
        shared_aln="blocks.0.ada_gss" in live.tensors,
        classes=live.shape("class_emb")[0] - 1,
        vocabulary=live.shape("head")[0],
        code=code,
    )


def _infinity(live: LiveObject, channels: int | None) -> InfinityConfig:
    width, bits = live.shape("word_embed")
    rotary = live.setting("rope2d_normalized_by_hw")
    if rotary not in (None, 0, 1, 2):
        raise ValueError(
            f"{live.noun} has rope2d_normalized_by_hw {rotary!r}; only 0, 1 and 2 are implemented"
        )
    first = live.setting("add_lvl_embeding_only_first_block")  # spelled so in the released code
    chunks = live.chunk_size
    if first is not None and not first and chunks is None:
        raise ValueError(
            f"{live.noun} adds level embeddings at every chunk of layers; its layers are in no "
            "chunks"
        )
    places = live.tensors.get("places.weight")
    patch = 2 if live.setting("apply_spatial_patchify") else 1
    if channels is not None:
        patch = isqrt(bits // channels)
        if channels * patch**2 != bits:
            raise ValueError(
                f"{live.noun} has tokens of {bits} bits, its tokenizer {channels} channels; "
                "they belong to different models"
            )
    return InfinityConfig(
        depth=live.count("blocks"),
        width=width,
        heads=live.tensor("blocks.0.sa.scale_mul_1H11").numel(),
        ffn=live.shape("blocks.0.ffn.fc1")[0],
        bits=bits // patch**2,
        patch=patch,
        text_width=live.shape("text_proj_for_ca.0")[1],
        text_length=len(live.tensor("cfg_uncond")),
        levels=live.shape("lvl_embed")[0],
        pool_heads=live.tensor("text_proj_for_sos.ca.mat_q").shape[1],
        waves=0 if places is None else places.shape[1] // 4,
        rotary_mode=ROTARY_MODES[2 if rotary is None else rotary],
        level_every=0 if first is None or first else cast(int, chunks),
    )


def _hart(live: LiveObject, channels: int | None) -> HARTConfig:
    width, code = live.shape("word_embed")
    heads = live.setting("num_heads", "config.num_heads")
    if not isinstance(heads, int):
        raise ValueError(f"{live.noun} has no num_heads, which its shapes do not tell")
    counts = live.counts()
    context = counts[0] if counts else live.setting("context_token")
    if not isinstance(context, int):
        raise WeightsError(
            f"{live.noun} has neither a buffer lvl_1L nor context_token, the length of its text"
        )
    steps = live.setting("diffloss.gen_diffusion.num_timesteps")
    return HARTConfig(
        depth=live.count("blocks"),
        width=width,
        heads=heads,
        hidden=live.shape("blocks.0.ffn.gate_proj")[0],
        sides=live.sides(prefix=True),
        context=context,
        context_width=live.shape("context_embed")[1],
        vocabulary=live.shape("head")[0],
        code=code,
        diffusion_width=live.shape("diffloss.net.input_proj")[0],
        diffusion_depth=live.count("diffloss.net.res_blocks"),
        diffusion_steps=steps if isinstance(steps, int) else HARTConfig.diffusion_steps,
    )


_READERS: dict[str, Callable[[LiveObject, int | None], Config]] = {
    "var": _var,
    "infinity": _infinity,
    "hart": _hart,
}


def shared_convs(live: LiveObject) -> int:
    """Return how many convolutions the scales of a codebook share; 0 for one of each scale.

    Raises ValueError for shares of them in the sum that are not implemented.
    """
    for path, module in live.modules.items():
        ratio = getattr(module, "resi_ratio", 0.5)
        if path.startswith("quantize.quant_resi.") and ratio != 0.5:
            raise ValueError(
                f"{live.noun} has resi_ratio {ratio!r} in {path}; only 0.5 is implemented"
            )
    if live.layer("quantize.quant_resi.qresi") is not None:
        return 1
    return live.count("quantize.quant_resi.qresi_ls")


def tokenizer_of(live: LiveObject) -> AutoEncoderConfig:
    """Read the sizes of an autoencoder; raise WeightsError for a part that is missing."""
    levels = live.count("decoder.up")
    shapes = [live.shape(f"decoder.up.{i}.block.0.conv1") for i in range(levels)]
    channels = live.shape("decoder.conv_in")[1]
    pixels = live.shape("decoder.conv_out")[0]
    return AutoEncoderConfig(
        channels,
        tuple(shape[0] for shape in shapes),
        encoder_blocks=live.count("encoder.down.0.block"),
        decoder_blocks=live.count("decoder.up.0.block"),
        patch=isqrt(pixels // 3),
        attention=live.layer("decoder.mid.attn_1.qkv") is not None,
    )
