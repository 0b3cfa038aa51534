"""The demo: generates one prompt in full and with FastVAR at the same seed, and compares them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastvar_lab.audit import checked_acts
from fastvar_lab.files import folder, write_json
from fastvar_lab.frames import FASTVAR
from fastvar_lab.instruments.observe import observe
from fastvar_lab.instruments.trace import Trace
from fastvar_lab.measure.quality import psnr, ssim
from fastvar_lab.measure.scale_steps import images
from fastvar_lab.measure.speedup import DISTURBED
from fastvar_lab.methods.columns import family
from fastvar_lab.methods.prune import Dense
from fastvar_lab.models.model import Model
from fastvar_lab.pictures import to_uint8, write_image
from fastvar_lab.plotting import motion, panels
from fastvar_lab.plotting.style import Figure, write_figure
from fastvar_lab.provenance import provenance
from fastvar_lab.seam import Method
from fastvar_lab.speed.tally import StepCounts
from fastvar_lab.speed.timed import speedups, timed


class Compared(NamedTuple):
    """What the demo measured: a report (times in ms, counts, PSNR in dB, SSIM, provenance).

    The pictures are "full" and "fast", (H, W, 3) uint8; `shares` holds for each pruned step a map
    (h, w) of the share of layers that forwarded each token; `trace` is that of "fast".
    """

    report: dict[str, Any]
    pictures: dict[str, np.ndarray]
    shares: dict[str, np.ndarray]
    trace: Trace


def compare(model: Model, prompt: str, method: Method, seed: int, repeats: int = 3) -> Compared:
    """Generate and time `prompt` in full and under `method`.

    Raises ValueError for a method that does not fit the model.
    """
    dense = Dense()
    grids = model.grids()
    method.start(grids, model.depth)  # raises before anything is generated
    runs = {name: partial(timed, model, prompt, m, seed=seed)
            for name, m in (("full", dense), ("fast", method))}  # fmt: skip
    timing = speedups(runs, repeats, lambda run: run.ms, progress="generate")["fast"]
    full, fast = timing.middle  # the turn of the median ratio: its step times match the speedup
    counts = [StepCounts(model, m, grids, len(prompt.split())) for m in (dense, method)]
    _, trace = observe(model, prompt, method, seed=seed, watch=counts[1].watch)
    pictures = {
        name: to_uint8(model.decode(run.generation.canvas))[0]
        for name, run in (("full", full), ("fast", fast))
    }
    costs = [sum(each.flop()) for each in counts]
    report = {
        "prompt": prompt,
        "scales": [g.name for g in grids],
        "ms_full": full.step_ms,
        "ms_fast": fast.step_ms,
        "tokens_full": counts[0].tokens(),
        "tokens_fast": counts[1].tokens(),
        **timing.speedup.columns(),
        "speedup_flop_bound": costs[0] / costs[1],
        "gflop_full": costs[0] / 1e9,
        "gflop_fast": costs[1] / 1e9,
        "psnr": psnr(pictures["full"], pictures["fast"]),
        "ssim": ssim(pictures["full"], pictures["fast"]),
        "identical": bool(np.array_equal(pictures["full"], pictures["fast"])),
        "family": family(method),
        "seed": seed,
        **provenance(model, method, fast.generation.request),
    }
    pruned = {s for s, act in enumerate(method.acts(grids)) if act.key}
    shares = {
        f"kept at {grids[s].name}": trace.kept_share(s, "attn").cpu().numpy()
        for s in sorted(pruned)
    }
    return Compared(report, pictures, shares, trace)


def race(model: Model, compared: Compared) -> list[motion.Frame]:
    """Animate both generations by the times that were measured."""
    report = compared.report
    _, trace = observe(model, report["prompt"], Dense(), seed=report["seed"])
    runs = {
        name: motion.Run([*images(t, model.decode)[:, 0]], report["scales"], report[f"ms_{key}"])
        for name, key, t in (("full", "full", trace), (_name(report), "fast", compared.trace))
    }
    return motion.race(runs, f"“{report['prompt']}”, {motion.SLOWER:g} times slowed down")


def draw(
    report: dict[str, Any], pictures: dict[str, np.ndarray], shares: dict[str, np.ndarray]
) -> Figure:
    """Draw the comparison figure of a report."""
    return panels.comparison(
        pictures["full"] / 255,
        pictures["fast"] / 255,
        dict(list(shares.items())[-2:]),
        report["scales"],
        report["ms_full"],
        report["ms_fast"],
        f"“{report['prompt']}”, seed {report['seed']}: {_gap(report)}",
        f"{report['speedup']:.2f} times as fast (FLOP bound {report['speedup_flop_bound']:.2f})"
        f"{_note(report)}",
        name=_name(report),
    )


def _name(report: dict[str, Any]) -> str:
    """Name the method's family."""
    return str(report.get("family", FASTVAR))  # reports before there was the entry are of FastVAR


def _note(report: dict[str, Any]) -> str:
    """Return a note if the timing was disturbed, else an empty string."""
    return f", {DISTURBED}" if report.get("disturbed") else ""


def _gap(report: dict[str, Any]) -> str:
    """Write the distance between the two pictures: PSNR and SSIM, or "identical"."""
    if report.get("identical"):
        return "identical"
    return f"PSNR {report['psnr']:.1f} dB, SSIM {report['ssim']:.3f}"


def table(report: dict[str, Any]) -> str:
    """Format the report for a terminal."""
    lines = [f"{'scale':>8} {'tokens':>15} {'full ms':>9} {'fast ms':>9} {'ratio':>7}"]
    for scale, n, k, a, b in zip(
        *(report[key] for key in ("scales", "tokens_full", "tokens_fast", "ms_full", "ms_fast"))
    ):
        ratio = f"{a / b:7.2f}" if k else "skipped"
        lines.append(f"{scale:>8} {f'{k:.0f} of {n:.0f}':>15} {a:9.1f} {b:9.1f} {ratio}")
    total = sum(report["ms_full"]), sum(report["ms_fast"])
    lines.append(f"{'all':>8} {'':>15} {total[0]:9.1f} {total[1]:9.1f} {report['speedup']:7.2f}")
    lines.append(
        f"speedup {report['speedup']:.2f} (FLOP bound {report['speedup_flop_bound']:.2f})"
        f"{_note(report)}; "
        f"pictures: {_gap(report)}"
    )
    return "\n".join(lines)


def demo(model: Model, prompt: str, method: Method, seed: int, out: str | Path) -> dict[str, Any]:
    """Run the demo; write full.png, fast.png, compare.png, race.gif and demo.json into `out`."""
    method.start(model.grids(), model.depth)
    checked_acts(method, model.grids(), model.depth)
    out = folder(out)
    compared = compare(model, prompt, method, seed)
    report, pictures, shares, _ = compared
    for name, image in pictures.items():
        write_image(out / f"{name}.png", image)
    write_figure(out / "compare.png", draw(report, pictures, shares))
    motion.write_gif(out / "race.gif", race(model, compared))
    write_json(out / "demo.json", report)
    return report
