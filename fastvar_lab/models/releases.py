"""Released models as data: configuration, tokenizer, schedule, and the files they come in."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from fastvar_lab.backbones.autoencoder import AutoEncoderConfig
from fastvar_lab.backbones.hart import HARTConfig
from fastvar_lab.backbones.infinity import InfinityConfig
from fastvar_lab.backbones.var import VARConfig
from fastvar_lab.sampling import Sampling
from fastvar_lab.scales import Sizes, infinity, square

Config = VARConfig | InfinityConfig | HARTConfig


@dataclass(frozen=True)
class TextRelease:
    """A text encoder: its family in transformers, its hub repository, the width it gives."""

    kind: str
    repo: str

    @property
    def folder(self) -> str:
        """Folder, under a model's own, that it is looked for in."""
        return self.repo.split("/")[-1]


@dataclass(frozen=True)
class Release:
    """One released model.

    `transformer` and `tokenizer_file` are paths in the hub's `repo`, and in the folder of weights
    that a user names; None where nothing was released.
    """

    config: Config
    tokenizer: AutoEncoderConfig
    sizes: Sizes
    sampling: Sampling
    repo: str | None = None
    transformer: str | None = None
    tokenizer_file: str | None = None
    text: TextRelease | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """The model's own files or folders; empty where none were released."""
        return tuple(f for f in (self.transformer, self.tokenizer_file) if f)


F16 = (160, 160, 320, 320, 640)
VAR_TOKENIZER = AutoEncoderConfig(32, F16, attention=True)
VAR_256, VAR_512 = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16), (1, 2, 3, 4, 6, 9, 13, 18, 24, 32)
VAR = {
    f"var-d{d}": VARConfig(d, 64 * d, d, VAR_512 if d == 36 else VAR_256, shared_aln=d == 36)
    for d in (16, 20, 24, 30, 36)
}
HART = {"hart-0.7b": HARTConfig()}
T5 = TextRelease("t5", "google/flan-t5-xl")
QWEN2 = TextRelease("qwen2", "mit-han-lab/Qwen2-VL-1.5B-Instruct")


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
    "infinity-8b-512": _infinity(40, 3584, 28, 14, patch=2),
}


def infinity_tokenizer(config: InfinityConfig) -> AutoEncoderConfig:
    """Return the tokenizer of an Infinity: stride 16, or 8 under patchified tokens."""
    widths = (128, 256, 512, 512, 512) if config.patch == 1 else (128, 256, 512, 512)
    return AutoEncoderConfig(config.bits, widths)


_INFINITY_FILES = {  # transformer, tokenizer, pixel budget; the rest were never released
    "infinity-125m": ("infinity_125M_256x256.pth", "infinity_vae_d16.pth", "0.06M"),
    "infinity-2b": ("infinity_2b_reg.pth", "infinity_vae_d32reg.pth", "1M"),
    "infinity-8b": ("infinity_8b_weights", "infinity_vae_d56_f8_14_patchify.pth", "1M"),
    "infinity-8b-512": (
        "infinity_8b_512x512_weights",
        "infinity_vae_d56_f8_14_patchify.pth",
        "0.25M",
    ),
}


def _released_infinity(name: str) -> Release:
    config = INFINITY[name]
    transformer, tokenizer, budget = _INFINITY_FILES.get(name, (None, None, "1M"))
    eight = name.startswith("infinity-8b")
    return Release(
        config,
        infinity_tokenizer(config),
        infinity(1.0, budget),
        Sampling(guidance=3.0 if eight else 4.0, temperature=1.0 if eight else 0.5),
        "FoundationVision/Infinity" if transformer else None,
        transformer,
        tokenizer,
        T5,
    )


def _released_var(name: str) -> Release:
    return Release(
        VAR[name],
        VAR_TOKENIZER,
        square(*VAR[name].sides),
        Sampling(guidance=4.0, top_k=900, top_p=0.95),
        "FoundationVision/var",
        f"{name.replace('-', '_')}.pth",
        "vae_ch160v4096z32.pth",
    )


def _released_hart(name: str) -> Release:
    return Release(
        HART[name],
        VAR_TOKENIZER,
        square(*HART[name].sides),
        Sampling(guidance=4.5, top_p=1.0, smooth=True),
        "mit-han-lab/hart-0.7b-1024px",
        "llm",
        "tokenizer",
        QWEN2,
    )


_RELEASED = {
    **{name: partial(_released_var, name) for name in VAR},
    **{name: partial(_released_infinity, name) for name in INFINITY},
    **{name: partial(_released_hart, name) for name in HART},
}
NAMES = tuple(_RELEASED)


def release(name: str) -> Release:
    """Look a released model up by name."""
    return _RELEASED[name]()
