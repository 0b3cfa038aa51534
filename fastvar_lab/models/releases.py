"""Released models as data: configuration, schedule and files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from fastvar_lab.backbones.hart import HARTConfig
from fastvar_lab.backbones.infinity import InfinityConfig
from fastvar_lab.backbones.var import VARConfig
from fastvar_lab.models import names
from fastvar_lab.models.families import FAMILIES, Config, Family
from fastvar_lab.sampling import Sampling
from fastvar_lab.scales import Sizes, infinity


@dataclass(frozen=True)
class TextRelease:
    """A text encoder: its kind ("t5" or "qwen2") and its hub repository."""

    kind: str
    repo: str

    @property
    def folder(self) -> str:
        """The folder of the text encoder, inside the folder of the model's weights."""
        return self.repo.split("/")[-1]


@dataclass(frozen=True)
class Release:
    """One released model.

    `transformer` and `tokenizer_file` are paths in the hub's `repo` and in a local folder of
    weights; None if nothing was released. `sizes` and `sampling` default to those of the family.
    """

    family: Family
    config: Config
    sizes: Sizes | None = None
    sampling: Sampling | None = None
    repo: str | None = None
    transformer: str | None = None
    tokenizer_file: str | None = None
    text: TextRelease | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """The files or folders of the model, without its text encoder; empty if unreleased."""
        return tuple(f for f in (self.transformer, self.tokenizer_file) if f)


VAR_256, VAR_512 = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16), (1, 2, 3, 4, 6, 9, 13, 18, 24, 32)
VAR = {
    name: VARConfig(d, 64 * d, d, VAR_512 if d == 36 else VAR_256, shared_aln=d == 36)
    for name, d in names.VAR.items()
}
HART = {name: HARTConfig() for name in names.HART}
T5 = TextRelease("t5", "google/flan-t5-xl")
QWEN2 = TextRelease("qwen2", "mit-han-lab/Qwen2-VL-1.5B-Instruct")


INFINITY = {
    name: InfinityConfig(
        **sizes._asdict(),
        ffn=round(4 * sizes.width / 256) * 256,
        text_width=2048,
        text_length=512,
    )
    for name, sizes in names.INFINITY.items()
}

_2B, _8B = Sampling(guidance=4.0, temperature=0.5), Sampling(guidance=3.0, temperature=1.0)
_PATCHED = "infinity_vae_d56_f8_14_patchify.pth"
_INFINITY_FILES = {  # transformer, tokenizer, pixel budget, sampling; others were not released
    "infinity-125m": ("infinity_125M_256x256.pth", "infinity_vae_d16.pth", "0.06M", _2B),
    "infinity-2b": ("infinity_2b_reg.pth", "infinity_vae_d32reg.pth", "1M", _2B),
    "infinity-8b": ("infinity_8b_weights", _PATCHED, "1M", _8B),
    "infinity-8b-512": ("infinity_8b_512x512_weights", _PATCHED, "0.25M", _8B),
}


def _released_infinity(name: str) -> Release:
    transformer, tokenizer, budget, sampling = _INFINITY_FILES.get(name, (None, None, "1M", _2B))
    return Release(
        FAMILIES["infinity"],
        INFINITY[name],
        infinity(1.0, budget),
        sampling,
        "FoundationVision/Infinity" if transformer else None,
        transformer,
        tokenizer,
        T5,
    )


def _released_var(name: str) -> Release:
    return Release(
        FAMILIES["var"],
        VAR[name],
        repo="FoundationVision/var",
        transformer=f"{name.replace('-', '_')}.pth",
        tokenizer_file="vae_ch160v4096z32.pth",
    )


def _released_hart(name: str) -> Release:
    return Release(
        FAMILIES["hart"],
        HART[name],
        repo="mit-han-lab/hart-0.7b-1024px",
        transformer="llm",
        tokenizer_file="tokenizer",
        text=QWEN2,
    )


_RELEASED: dict[str, Callable[[], Release]] = {
    **{name: partial(_released_var, name) for name in VAR},
    **{name: partial(_released_infinity, name) for name in INFINITY},
    **{name: partial(_released_hart, name) for name in HART},
}
NAMES = tuple(_RELEASED)


def release(name: str) -> Release:
    """Return a released model by name."""
    return _RELEASED[name]()
