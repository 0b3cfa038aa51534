"""The paper's claims against this lab's measurements: the number here, theirs, and a verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fastvar_lab.files import write
from fastvar_lab.measure.statistics import bootstrap, bootstrap_of, paired
from fastvar_lab.plotting.charts import exponent, exponents

HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot tell"
FEWEST = 8  # pictures, or turns, below which an interval decides nothing
LINEAR = 1.15  # greatest exponent that is called about linear
NOTHING = 0.1  # share that is next to nothing below


@dataclass(frozen=True)
class Answer:
    """A measured number with its interval, and the verdict."""

    text: str
    verdict: str


@dataclass(frozen=True)
class Claim:
    """What the paper says, where, its own number, and the experiment that tests it."""

    statement: str
    paper: str
    experiment: str
    answer: Callable[[pd.DataFrame], Answer]


def above(gap: Mapping[str, float], unit: str, what: str, least: float = 0.0) -> Answer:
    """Judge a difference that the claim says is more than `least`, by its paired interval."""
    asked = f", to be above {least}" if least else ""
    text = (
        f"{what}: {gap['difference']:+.2f}{unit} "
        f"({gap['low']:+.2f} to {gap['high']:+.2f}, n = {gap['n']}{asked})"
    )
    return Answer(text, _verdict(gap["low"] > least, gap["high"] <= least, gap["n"]))


def _verdict(yes: bool, no: bool, n: float) -> str:
    return OPEN if n < FEWEST else HOLDS if yes else FAILS if no else OPEN


def _mean(values: np.ndarray) -> dict[str, float]:
    low, high = bootstrap(values)
    return {"difference": float(np.mean(values)), "low": low, "high": high, "n": len(values)}


def _quality(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame.kind == "quality"]


def late_steps_take_the_time(frame: pd.DataFrame) -> Answer:
    """Share of the last two steps in a full generation's time, turn by turn."""
    rows = frame[(frame.method == "full") & (frame.step >= frame.step.max() - 1)]
    shares = rows.groupby("turn").share.sum().to_numpy()
    return above(_mean(shares), "", "share of the last two steps", 0.5)


def large_steps_are_robust(frame: pd.DataFrame) -> Answer:
    """PSNR of half of the last scale pruned over half of the smallest scale tried."""
    made = _quality(frame)
    half = [m for m in made.method.unique() if m.endswith(" 50%")]
    return above(
        paired(made, half[0], half[-1], "psnr"), " dB", f"{half[0]} pruned over {half[-1]}"
    )


def late_steps_add_high_frequencies(frame: pd.DataFrame) -> Answer:
    """How much more of the spectrum is missing at high than at low frequencies, two steps early."""
    rows = frame[(frame.what == "spectrum") & (frame.domain == "image")]
    rows = rows[rows.step == sorted(rows.step.unique())[-3]]
    edge = rows.frequency.quantile([0.25, 0.75])
    high = rows[rows.frequency >= edge[0.75]].groupby("picture").to_last.mean().abs()
    low = rows[rows.frequency <= edge[0.25]].groupby("picture").to_last.mean().abs()
    gap = _mean((high - low).to_numpy())
    return above(gap, " in log10", "missing at high over low frequencies")


def neighbours_are_related(frame: pd.DataFrame) -> Answer:
    """Likeness of sublayer outputs to the step before over that to three steps before."""
    rows = frame[(frame.what == "similarity") & (frame.step == frame.step.max())]
    back = rows.step - rows.source
    near = rows[back == 1].groupby("first").cosine.mean()
    far = rows[back == 3].groupby("first").cosine.mean()
    return above(_mean((near - far).to_numpy()), "", "cosine one step back over three")


def pts_keeps_what_matters(frame: pd.DataFrame) -> Answer:
    """PSNR of pivotal token selection over random tokens."""
    return above(
        paired(_quality(frame), "far from mean (PTS)", "random", "psnr"), " dB", "PTS over random"
    )


def last_step_is_the_best_cache(frame: pd.DataFrame) -> Answer:
    """PSNR of the latest cache step over the best of the earlier ones."""
    made = _quality(frame)
    latest, *others = [m for m in made.method.unique() if m != "full"]
    means = made.groupby("method").psnr.mean()
    best = str(means[others].idxmax())
    return above(paired(made, latest, best, "psnr"), " dB", f"{latest} over {best}")


def whole_ratios_break_small_models(frame: pd.DataFrame) -> Answer:
    """Task score lost when the last step is skipped, its neighbour half pruned; told: last three.

    A tenth lost is what counts as broken.
    """
    made = _quality(frame)
    last, three = (
        above(paired(made, "full", method, "right"), "", f"task score lost by skipping {what}", 0.1)
        for method, what in (
            ("-2: 50%, -1: 100%", "the last step"),
            ("-3: 100%, -2: 100%, -1: 100%", "the last three"),
        )
    )
    return Answer(f"{last.text}; {three.text}", last.verdict)


def overhead_is_negligible(frame: pd.DataFrame) -> Answer:
    """Divide selection and restoration of one sublayer by its full attention."""

    def share(pts: float, ctr: float, attention: float) -> float:
        return (pts + ctr) / attention

    ms = [frame.ms[frame.kind == kind].to_numpy() for kind in ("pts", "ctr", "attention")]
    n, (low, high) = min(map(len, ms)), bootstrap_of(share, ms)
    text = (
        f"PTS and CTR take {share(*map(np.median, ms)):.1%} of attention "
        f"({low:.1%} to {high:.1%}, n = {n}, to be below {NOTHING:.0%})"
    )
    return Answer(text, _verdict(high < NOTHING, low >= NOTHING, n))


def cost_grows_linearly(frame: pd.DataFrame) -> Answer:
    """Exponents of time over tokens, pruned and full: over all sizes, and over the last two."""
    rows = frame[frame.what == "time"]
    n = int(rows.groupby(["method", "side"]).size().min())
    pruned, full = (_growth(rows[rows.method == method]) for method in ("fast", "full"))
    text = (
        f"time over tokens of the final map: exponent {pruned['told']} pruned, n = {n}, to be at "
        f"most {LINEAR}; {full['told']} full; between the two largest maps "
        f"{pruned['end']:.2f} and {full['end']:.2f}"
    )
    yes = pruned["high"] <= LINEAR and pruned["high"] < full["low"]
    no = pruned["low"] > LINEAR or pruned["low"] >= full["high"]
    return Answer(text, _verdict(yes, no, n))


def _growth(timed: pd.DataFrame) -> dict[str, Any]:
    ms = timed.groupby("tokens").ms
    tokens, turns = list(ms.groups), [turn.to_numpy() for _, turn in ms]
    (whole, end), (low, high) = exponents(timed), bootstrap_of(partial(_slope, tokens), turns)
    return {"told": f"{whole:.2f} ({low:.2f} to {high:.2f})", "end": end, "low": low, "high": high}


def _slope(tokens: Sequence[float], *ms: float) -> float:
    return exponent(tokens, ms)


def combines_with_fused_attention(frame: pd.DataFrame) -> Answer:
    """Speedup of fusing and pruning over that of the better one alone, turn by turn."""
    ms = frame.pivot_table(index="turn", columns=["kernel", "method"], values="ms")
    speedup = (1 / ms).mul(ms["unfused", "full"], axis=0)
    names = {"fused": ("fused", "full"), "pruned": ("unfused", "fast"), "both": ("fused", "fast")}
    means = {name: float(speedup[cell].mean()) for name, cell in names.items()}
    better = max(("fused", "pruned"), key=lambda name: means[name])
    gap = (speedup[names["both"]] - speedup[names[better]]).to_numpy()
    told = ", ".join(f"{name} {times:.2f}x" for name, times in means.items())
    answer = above(_mean(gap), "x", f"both over {better} alone")
    return Answer(f"{told}; {answer.text}", answer.verdict)


def saves_memory(frame: pd.DataFrame) -> Answer:
    """KV cache and restore cache of the largest map, pruned over full."""
    side = frame.side.max()
    rows = frame[frame.side == side].set_index("method")
    share = float(
        (rows.kv_measured["fast"] + rows.held_measured["fast"]) / rows.kv_measured["full"]
    )
    text = f"at {side}x{side} the preset's caches take {share:.0%} of the full ones"
    return Answer(text, HOLDS if share < 1 else FAILS)


def beats_tome(frame: pd.DataFrame) -> Answer:
    """PSNR over token merging, of a FastVAR that is measured at least as fast."""
    speed = frame[frame.kind == "time"].set_index("method").speedup
    made, answers = _quality(frame), list[Answer]()
    for rival in [m for m in speed.index if m.startswith("ToMe")]:
        faster = [m for m in speed.index if m.startswith("FastVAR") and speed[m] >= speed[rival]]
        if faster:
            ours = min(faster, key=lambda m: speed[m])
            what = f"{ours} ({speed[ours]:.2f}x) over {rival} ({speed[rival]:.2f}x)"
            answers.append(above(paired(made, ours, rival, "psnr"), " dB", what))
    if not answers:
        return Answer("no FastVAR here is as fast as a ToMe", OPEN)
    verdicts = {a.verdict for a in answers}
    verdict = verdicts.pop() if len(verdicts) == 1 else FAILS if FAILS in verdicts else OPEN
    return Answer("; ".join(a.text for a in answers), verdict)


CLAIMS = (
    Claim("Large steps dominate the time", "last two steps 60 % (Fig. 2a, digitised)",
          "latency_by_scale", late_steps_take_the_time),
    Claim("Large steps are the robust ones",
          "HART: 48+64 at 50 % faster than 16+21 at 75 %, FID 5.71 lower (Table 4)",
          "scale_sensitivity", large_steps_are_robust),
    Claim("Late steps add high frequencies", "Fig. 3b, no number", "spectra",
          late_steps_add_high_frequencies),
    Claim("Neighbouring scales are related", "Fig. 3c, no number", "cross_scale",
          neighbours_are_related),
    Claim("PTS keeps what matters", "no table was printed", "selectors", pts_keeps_what_matters),
    Claim("The last unpruned step is the best cache", "best on all metrics (Table A.4)",
          "caching_step", last_step_is_the_best_cache),
    Claim("Skipping steps breaks small models", "HART destroyed, Infinity-2B fine (Table A.3)",
          "extreme_ratios", whole_ratios_break_small_models),
    Claim("PTS and CTR cost next to nothing", "0.83 ms of 10.97 ms, 7.6 % (Fig. A.1)",
          "sublayer_overhead", overhead_is_negligible),
    Claim("Cost grows about linearly", "abstract, no exponent", "resolution_scaling",
          cost_grows_linearly),
    Claim("Pruning combines with fused attention",
          "pruned 2.1x with slow attention, 2.7x with both (Table 5)",
          "attention_kernels", combines_with_fused_attention),
    Claim("It saves memory", "18.9 to 14.7 GB, all told (section 4.2)", "memory", saves_memory),
    Claim("It beats ToMe at equal speed", "GenEval 0.51 at 1.51x against 0.46 at 1.36x (Table 3)",
          "rivals", beats_tome),
)  # fmt: skip


def table(frames: Mapping[str, pd.DataFrame], where: str) -> str:
    """Write the claims whose experiments are there as Markdown; `where` says what was run.

    >>> from fastvar_lab.experiments.run import run
    >>> frames = {"memory": run("memory", "quick", progress=False)}
    >>> print(table(frames, "A smoke run.").splitlines()[-1][:19])
    | It saves memory |
    """
    lines = [
        "# The paper's claims, checked",
        "",
        f"{where} Intervals are of 95 %: bootstraps of paired differences or of timed "
        "turns, score intervals of right and wrong pictures; "
        "a claim whose interval holds both answers cannot be told.",
        "",
        "| claim | the paper | here | verdict | from |",
        "|---|---|---|---|---|",
    ]
    for claim in CLAIMS:
        if claim.experiment in frames:
            answer = claim.answer(frames[claim.experiment])
            lines.append(
                f"| {claim.statement} | {claim.paper} | {answer.text} | **{answer.verdict}** | "
                f"[`{claim.experiment}`]({claim.experiment}.png) |"
            )
    return "\n".join(lines) + "\n"


def save(path: Path, text: str) -> None:
    """Write the claims."""
    write(path, lambda partial: partial.write_text(text))
