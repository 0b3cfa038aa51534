"""Released sizes as data: one configuration per model, with the tokenizer it was trained for."""

from __future__ import annotations

from fastvar_lab.backbones.autoencoder import AutoEncoderConfig
from fastvar_lab.backbones.infinity import InfinityConfig
from fastvar_lab.backbones.var import VARConfig

VAR_TOKENIZER = AutoEncoderConfig(32, (160, 160, 320, 320, 640), attention=True)
VAR_256, VAR_512 = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16), (1, 2, 3, 4, 6, 9, 13, 18, 24, 32)
VAR = {
    f"var-d{d}": VARConfig(d, 64 * d, d, VAR_512 if d == 36 else VAR_256, shared_aln=d == 36)
    for d in (16, 20, 24, 30, 36)
}


def _infinity(depth: int, width: int, heads: int, bits: int, patch: int = 1) -> InfinityConfig:
    return InfinityConfig(
        depth=depth,
        width=width,
        heads=heads,
        ffn=round(4 * width / 256) * 256,
        bits=bits,
        patch=patch,
        text_width=2048,
        text_length=512,
        reference=(64, 64),
    )


INFINITY = {
    "infinity-125m": _infinity(12, 768, 8, 16),
    "infinity-layer16": _infinity(16, 1152, 12, 32),
    "infinity-layer24": _infinity(24, 1536, 16, 32),
    "infinity-layer32": _infinity(32, 2080, 20, 32),
    "infinity-layer40": _infinity(40, 2688, 24, 32),
    "infinity-layer48": _infinity(48, 3360, 28, 32),
    "infinity-2b": _infinity(32, 2048, 16, 32),
    "infinity-8b": _infinity(40, 3584, 28, 14, patch=2),
}
INFINITY_BUDGET = {"infinity-125m": "0.25M"}  # the others draw 1M


def infinity_tokenizer(config: InfinityConfig) -> AutoEncoderConfig:
    """Return the tokenizer of an Infinity: stride 16, or 8 under patchified tokens."""
    widths = (128, 256, 512, 512, 512) if config.patch == 1 else (128, 256, 512, 512)
    return AutoEncoderConfig(config.bits, widths)
