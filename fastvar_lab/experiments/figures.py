"""Figures that regenerate from one command, each with the exact data it shows and where it is from.

`NAME.png` and `NAME.pdf` are drawn from `NAME.csv` (a frame) or `NAME.npz` (pictures and masks) and
`NAME.json` alone, so that a check can redraw them without a model.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from skimage.io import imread

from fastvar_lab.errors import unknown
from fastvar_lab.experiments import demo, run
from fastvar_lab.files import folder, write, write_json
from fastvar_lab.generation import generate, resume
from fastvar_lab.instruments.observe import observe
from fastvar_lab.measure.spectra import images
from fastvar_lab.methods.presets import PRESETS
from fastvar_lab.methods.prune import Dense
from fastvar_lab.models.model import Model
from fastvar_lab.pictures import to_uint8
from fastvar_lab.plotting import panels
from fastvar_lab.plotting.charts import CHARTS, POINTS
from fastvar_lab.plotting.style import write_figure
from fastvar_lab.plotting.tables import latex, markdown, tabulate
from fastvar_lab.provenance import machine
from fastvar_lab.store import Store
from fastvar_lab.world.tasks import TASKS, questions

STEPS_PROMPTS = (demo.PROMPT, "three yellow stars")
DRAWN_WITH = ("matplotlib", "numpy", "pillow")  # same versions, same bytes
TOLERANCE = 1.0  # mean absolute difference of pixel values under other versions, of 255

Report = dict[str, Any]
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Pictures:
    """A figure of pictures: `make` generates report and arrays, `draw` needs nothing else."""

    make: Callable[[Model, int], tuple[Report, Arrays]]
    draw: Callable[[Report, Arrays], Figure]


def _steps(model: Model, seed: int) -> tuple[Report, Arrays]:
    """Decode after every scale step of unpruned generations (paper, Fig. A.2)."""
    arrays = {}
    for prompt in STEPS_PROMPTS:
        _, trace = observe(model, prompt, Dense(), seed=seed)
        arrays[prompt] = (images(trace, model.decode)[:, 0] * 255).round().astype(np.uint8)
    return {"scales": [g.name for g in model.grids()]}, arrays


def _draw_steps(report: Report, arrays: Arrays) -> Figure:
    rows = {prompt: list(pictures / 255) for prompt, pictures in arrays.items()}
    return panels.steps(rows, report["scales"])


def _demo(model: Model, seed: int) -> tuple[Report, Arrays]:
    """Compare full and FastVAR generation of the demo's prompt."""
    report, pictures, shares = demo.compare(model, demo.PROMPT, PRESETS["tiny"], seed)
    return report, {**pictures, **shares}


def _draw_demo(report: Report, arrays: Arrays) -> Figure:
    shares = {k: v for k, v in arrays.items() if k not in ("full", "fast")}
    return demo.draw(report, {k: arrays[k] for k in ("full", "fast")}, shares)


def _side_by_side(model: Model, seed: int) -> tuple[Report, Arrays]:
    """Generate prompts of every task in full and with FastVAR (paper, Figs A.3 and A.4)."""
    prompts = [q.prompt.text for q in questions(len(TASKS), seed=5)]
    full = generate(model, prompts, Dense(), seed=seed, snapshot=True)
    fast = resume(model, full, PRESETS["tiny"])
    pairs = zip(*(to_uint8(model.decode(made.canvas)) for made in (full, fast)), strict=True)
    arrays = {prompt: np.stack(pair) for prompt, pair in zip(prompts, pairs, strict=True)}
    return {"method": repr(PRESETS["tiny"])}, arrays


def _draw_side_by_side(report: Report, arrays: Arrays) -> Figure:
    return panels.pairs({prompt: (full, fast) for prompt, (full, fast) in arrays.items()})


PICTURES = {
    "demo": Pictures(_demo, _draw_demo),
    "intermediate_outputs": Pictures(_steps, _draw_steps),
    "side_by_side": Pictures(_side_by_side, _draw_side_by_side),
}
CHARTED = {f"{n}_scores" if n in PICTURES else n: n for n in CHARTS}  # figure to experiment
NAMES = (*PICTURES, *CHARTED)


def chosen(names: Sequence[str], everything: bool = False) -> list[str]:
    """Return the figures asked for, those of pictures by default; ValueError for unknown ones."""
    for name in names:
        if name not in NAMES:
            raise unknown("figure", name, NAMES)
    return list(NAMES) if everything else list(names) or list(PICTURES)


def draw(
    model: Model,
    names: Sequence[str],
    out: Path,
    seed: int = 0,
    *,
    scope: str = "paper",
    how: run.Opened | None = None,
    store: Store | None = None,
    executor: Executor | None = None,
    endings: Sequence[str] = ("png", "pdf"),
) -> Iterator[Path]:
    """Draw figures into `out` with their data, yielding each file when it is there."""
    folder(out)
    for name in names:
        report: Report = {"figure": name}
        if name in PICTURES:
            made, arrays = PICTURES[name].make(model, seed)
            data = out / f"{name}.npz"
            _disown_data(out / name)
            write(data, lambda partial, a=arrays: np.savez_compressed(partial, **a))  # type: ignore[misc]
            report |= {"seed": seed, **made}
            figure = PICTURES[name].draw(report, arrays)
        else:
            asked = CHARTED[name]
            frame = run.run(asked, scope, how=how, store=store, executor=executor)
            kept = POINTS[asked](frame) if asked in POINTS else frame
            data, figure = write_frame(out / name, asked, frame, kept)
            report |= measured(scope, frame, len(kept))
        told = f" --seed {seed}" if name in PICTURES else " --quick" if scope == "quick" else ""
        report |= provenance(model, f"figures {name}{told}", how)
        yield data
        yield from _write(out / name, report, figure, endings)


def draw_frame(
    model: Model, name: str, frame: pd.DataFrame, out: Path, scope: str, how: run.Opened
) -> Iterator[Path]:
    """Leave all of an experiment's frame in `out`, its tables and figure, and where it is from."""
    data, figure = write_frame(out / name, name, frame, frame)
    told = f" --{scope}" if scope != "default" else ""
    command = f"experiment {name} --model {model.name}{told}"
    report = {**measured(scope, frame, len(frame)), **provenance(model, command, how)}
    yield data
    yield from _write(out / name, report, figure, ("png", "pdf"))


def write_frame(
    path: Path, experiment: str, frame: pd.DataFrame, kept: pd.DataFrame
) -> tuple[Path, Figure]:
    """Write a frame's tables and the rows that are `kept`; return their file and its chart."""
    data = Path(f"{path}.csv")
    _disown_data(path)
    write(data, lambda partial: kept.to_csv(partial, index=False))
    write_tables(path, frame)
    return data, CHARTS[experiment](pd.read_csv(data))


def _disown_data(path: Path) -> None:
    """Take away what says where the old data are from: it would be wrong of new ones."""
    Path(f"{path}.json").unlink(missing_ok=True)


def _write(path: Path, report: Report, figure: Figure, endings: Sequence[str]) -> Iterator[Path]:
    """Write where a figure is from, then the figure."""
    write_json(Path(f"{path}.json"), report)
    for ending in endings:
        write_figure(f"{path}.{ending}", figure)
        yield Path(f"{path}.{ending}")


def write_tables(path: str | Path, frame: pd.DataFrame) -> None:
    """Write what a frame says as Markdown and LaTeX (booktabs), `path` without its ending."""
    table = tabulate(frame)
    for ending, text in ((".md", markdown(table)), (".tex", latex(table))):
        write(Path(f"{path}{ending}"), lambda partial, t=text: partial.write_text(t))  # type: ignore[misc]


def measured(scope: str, frame: pd.DataFrame, rows: int) -> Report:
    """Say how much an experiment measured."""
    pictures = {"n": int(frame.picture.nunique())} if "picture" in frame else {}
    return {"scope": scope, "rows": rows, **pictures}


def provenance(model: Model, command: str, how: run.Opened | None = None) -> Report:
    """Say where results are from: command, with how the model was opened, weights, machine."""
    asked, usual = how or run.Opened(), run.Opened()
    options = [
        f" --{name} {shlex.quote(str(getattr(asked, name)))}"
        for name in ("weights", "device", "dtype")
        if getattr(asked, name) != getattr(usual, name)
    ]
    return {
        "command": f"python -m fastvar_lab {command}{''.join(options)}",
        "model": model.name,
        "weights": model.fingerprint,
        "device": str(model.device),
        **machine(model.device),
        "versions": {p: version(p) for p in ("torch", "fastvar-lab", "seaborn", *DRAWN_WITH)},
    }


def again(out: Path, names: Sequence[str], endings: Sequence[str]) -> Iterator[Path]:
    """Draw figures of a folder again from their data, and write tables that show all of it."""
    for name in names or _there(out):
        if name not in _there(out):
            raise ValueError(f"{out / name}.json is not there: nothing says what {name} shows")
        if name in CHARTED and CHARTED[name] not in POINTS:
            write_tables(out / name, pd.read_csv(out / f"{name}.csv"))
        report = _report(out / f"{name}.json")
        report["versions"] |= {p: version(p) for p in DRAWN_WITH}
        yield from _write(out / name, report, redraw(name, out), endings)


def _there(out: Path) -> list[str]:
    """Name the figures whose data are in a folder; raise ValueError if there is none."""
    there = [n for n in NAMES if (out / f"{n}.json").exists()]
    if not there:
        raise ValueError(f"there is no figure with its data in {out}")
    return there


def _report(path: Path) -> Report:
    """Read where a figure is from; raise ValueError if it does not say so."""
    try:
        report = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(report, dict) or not {*DRAWN_WITH} <= {*report.get("versions", ())}:
        raise ValueError(f"{path} does not say which versions drew the figure")
    return report


def redraw(name: str, out: Path) -> Figure:
    """Draw a committed figure again from its committed data."""
    report = _report(out / f"{name}.json")
    if name in PICTURES:
        with np.load(out / f"{name}.npz") as kept:
            return PICTURES[name].draw(report, dict(kept))
    return CHARTS[CHARTED[name]](pd.read_csv(out / f"{name}.csv"))


def check(out: Path, names: Sequence[str] = ()) -> list[str]:
    """Redraw every figure of a folder from its data; return a line for each that differs.

    Bytes must match under the versions it was drawn with; under others the pixels, closely.
    """
    wrong = list[str]()
    for name in names or _there(out):
        if name not in _there(out):
            wrong.append(f"{name}: {out / name}.json is not there")
            continue
        try:
            told = _report(out / f"{name}.json")["versions"]
        except ValueError as error:
            wrong.append(str(error))
            continue
        other = [
            f"{p} {version(p)} instead of {told[p]}" for p in DRAWN_WITH if version(p) != told[p]
        ]
        with TemporaryDirectory() as scratch:
            figure = redraw(name, out)
            for ending in ("png", "pdf"):
                kept, again = out / f"{name}.{ending}", Path(scratch) / f"{name}.{ending}"
                if not kept.exists():
                    continue
                write_figure(again, figure)
                if kept.read_bytes() == again.read_bytes():
                    continue
                if not other:
                    wrong.append(f"{kept}: other bytes from the same data and versions")
                elif ending == "png" and _gap(kept, again) > TOLERANCE:
                    wrong.append(f"{kept}: other pixels, with {', '.join(other)}")
    return wrong


def _gap(first: Path, second: Path) -> float:
    a, b = (imread(p).astype(float) for p in (first, second))
    return float(np.abs(a - b).mean()) if a.shape == b.shape else 255.0
