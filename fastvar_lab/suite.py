"""Speed at the paper's sizes: released configurations with random weights, times beside floors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch

from fastvar_lab.bench import case_table, cases, prompt, rates, released
from fastvar_lab.charts import exponent
from fastvar_lab.loading import load
from fastvar_lab.output import versions
from fastvar_lab.scales import Sizes, infinity, infinity_at
from fastvar_lab.sublayers import sublayer_ms

SIDES = (512, 768, 1024, 1536, 2048)  # pixels, of the growth of cost
BATCHES = (2, 4, 8)


@dataclass(frozen=True)
class Setting:
    """One model at one size; `sizes` None is the model's own schedule."""

    group: str
    model: str
    sizes: Sizes | None = None
    pictures: int = 1

    @property
    def name(self) -> str:
        """What `only` is looked for in: group, model and last map."""
        last = "x".join(map(str, self.sizes[-1])) if self.sizes else ""
        return " ".join(filter(None, (self.group, self.model, last, f"batch {self.pictures}")))


def settings() -> list[Setting]:
    """Everything that the suite times, one model after the other."""
    two = "infinity-2b"
    return [
        *(Setting("aspects", two, infinity(aspect)) for aspect in (1.0, 1.5, 0.5)),
        *(Setting("batches", two, infinity(), n) for n in BATCHES),
        *(Setting("growth", two, infinity_at(side, side)) for side in SIDES),
        Setting("memory", two, infinity_at(960, 1920)),
        Setting("sizes", "infinity-8b"),
        Setting("sizes", "hart-0.7b"),
        *(Setting("batches", "hart-0.7b", None, n) for n in BATCHES),
        *(Setting("sizes", f"var-{size}") for size in ("d24", "d30", "d36")),
    ]


def run(
    *, repeats: int, only: str, device: str, dtype: torch.dtype, depth: int | None = None
) -> dict[str, Any]:
    """Time the settings whose name contains `only`, in full and under the paper's presets.

    `depth` cuts every model to so many layers: for a look at the command, not at the paper.
    """
    chosen = [s for s in settings() if only in s.name]
    if not chosen:
        names = ", ".join(s.name for s in settings())
        raise ValueError(f"no setting matches {only!r}; there are {names}")
    found, sublayers = list[dict[str, Any]](), dict[str, dict[str, float]]()
    measured: dict[str, float] = {}
    for name, group in groupby(chosen, key=lambda s: s.model):
        model = load(name, "random", device, dtype, depth=depth)
        best = rates(model)
        measured = {"tflop_per_s": best.flop / 1e12, "gbyte_per_s": best.byte / 1e9}
        for setting in group:
            sizes = setting.sizes or model.sizes
            methods = released(model, sizes)
            timed = cases(model, sizes, methods, repeats, setting.pictures, best)
            found += [{"group": setting.group, "model": name, **case} for case in timed]
        sublayers[name] = sublayer_ms(model, prompt(model), repeats)
        del model  # before the next one is built
    return {
        "suite": "paper",
        "cases": found,
        "sublayers": sublayers,
        "growth": growth(found),
        "rates": measured,
        "repeats": repeats,
        "depth": depth,
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else "cpu",
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }


def growth(found: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Fit the exponents of time over tokens of the last map, full and under the paper's preset."""
    rows = [c for c in found if c["group"] == "growth" and c["name"].endswith("paper preset")]
    if len(rows) < 2:
        return {}
    tokens = [int(h) * int(w) for h, w in (c["scales"][-1].split("x") for c in rows)]
    return {way: exponent(tokens, [c[f"ms_{way}"] for c in rows]) for way in ("full", "fast")}


def table(result: dict[str, Any]) -> str:
    """Format the result for a terminal."""
    best = result["rates"]
    lines = [
        f"{result['device']}: {best['tflop_per_s']:.2f} TFLOP/s in a large product, "
        f"{best['gbyte_per_s']:.0f} GB/s read; medians of {result['repeats']}",
        case_table(result["cases"]),
    ]
    for model, ms in result["sublayers"].items():
        small = (ms["pts_ms"] + ms["ctr_ms"]) / ms["attention_ms_full"]
        lines.append(
            f"{model}, one sublayer at the last step: attention {ms['attention_ms_full']:.2f} ms, "
            f"FFN {ms['ffn_ms_full']:.2f} ms, PTS {ms['pts_ms']:.3f} ms, CTR {ms['ctr_ms']:.3f} ms "
            f"({small:.1%} of attention)"
        )
    if result["growth"]:
        lines.append(
            f"time grows with tokens to the power {result['growth']['full']:.2f} in full, "
            f"{result['growth']['fast']:.2f} pruned"
        )
    return "\n".join(lines)
