"""Figures that regenerate from one command, each with the exact data it shows and where it is from.

`NAME.png` and `NAME.pdf` are drawn from `NAME.csv.bz2` (a frame) or `NAME.npz` (pictures and masks)
and `NAME.json` alone, so that a check can redraw them without a model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from skimage.io import imread
from tqdm.auto import tqdm

from fastvar_lab.errors import short
from fastvar_lab.experiments import agenda, listing, output, run
from fastvar_lab.experiments.base import Experiment, Scope, has_random_weights
from fastvar_lab.experiments.figure_index import INDEX, index_differs, write_index
from fastvar_lab.experiments.galleries import GALLERIES, make
from fastvar_lab.experiments.output import DRAWN_WITH, Report
from fastvar_lab.files import expanded, folder, read_json, write, write_json, write_utf8
from fastvar_lab.frames import GUIDANCE, by_guidance
from fastvar_lab.measure import quality
from fastvar_lab.models.model import Model
from fastvar_lab.models.spec import ModelSpec
from fastvar_lab.plotting.style import write_figure
from fastvar_lab.prompts import PromptSet
from fastvar_lab.store import Store

TOLERANCE = 1.0  # mean absolute difference of pixel values under other versions, of 255
CHARTED = listing.charted()
NAMES = listing.figures()


def draw(
    model: Model,
    names: Sequence[str | Experiment],
    out: str | Path,
    seed: int = 0,
    *,
    scope: str | Scope = "paper",
    spec: ModelSpec | None = None,
    prompts: PromptSet | None = None,
    metrics: quality.Chosen | None = None,
    store: Store | None = None,
    executor: Executor | None = None,
    endings: Sequence[str] = ("png", "pdf"),
    note: Callable[[str], object] = print,
) -> Iterator[Path]:
    """Draw figures of any model into `out`, complete for a paper, yielding each file.

    `names` are figures that ship here, or experiments of your own. Each leaves its data, tables,
    caption and provenance beside it. What the model cannot answer is left out, and `note` is told
    why in one sentence, unless it is the only figure: then ValueError. `spec` says how the model
    was opened, which an executor needs. All else as in `run.run`.
    """
    out = folder(out)
    for name in names:
        label = name if isinstance(name, str) else name.name
        try:
            reason = meaningless(model, name)
            if reason:
                raise ValueError(reason)
            if isinstance(name, str) and name in GALLERIES:
                frame, report = None, _gallery(name, model, prompts, seed, out)
            else:
                frame = run.run(
                    CHARTED[name] if isinstance(name, str) else name,
                    scope,
                    model=spec if executor is not None else model,
                    prompts=prompts,
                    metrics=metrics,
                    store=store,
                    executor=executor,
                    note=note,
                )
                report, frame = _frame(name, frame, out, scope)
        except ValueError as error:
            if len(names) == 1:
                raise
            note(f"{label} is left out: {error}")
            continue
        command = _command(name, model, seed, report.get("scope", "paper"))
        report |= output.provenance(model, command, spec, prompts, _added(name, metrics))
        report["caption"] = _caption(name, report)
        figure = figure_of(name, out, report)
        texts = _texts(out / label, name, report, frame)
        yield from _finish(out / label, name, report, texts, [("", figure)], endings)
        write_index(out)


def _command(name: str | Experiment, model: Model, seed: int, scope: str) -> str:
    """Write the command that draws a figure, without options; empty if none does."""
    if not isinstance(name, str) or scope not in ("quick", "default", "paper"):
        return ""
    option = f" --seed {seed}" if name in GALLERIES else ""
    option += f" --{scope}" if scope != "paper" else ""
    return f"figures {name}{output.model_option(model)}{option}"


def _gallery(name: str, model: Model, prompts: PromptSet | None, seed: int, out: Path) -> Report:
    """Generate and write what a gallery shows."""
    report, arrays = make(name, model, prompts, seed)
    output.disown_data(out / name)
    write(out / f"{name}.npz", lambda partial: np.savez_compressed(partial, **arrays))  # type: ignore[arg-type]
    return {"figure": name, "seed": seed, **report}


def _frame(
    name: str | Experiment, frame: pd.DataFrame, out: Path, scope: str | Scope
) -> tuple[Report, pd.DataFrame]:
    """Write an experiment's frame, and what is drawn if that is less; return what tables sum up."""
    record = _record(name)
    label = name if isinstance(name, str) else name.name
    kept = record.points(frame) if record.points else frame
    output.write_frame(out / label, kept)
    if record.points:
        output.write_frame(output.rows_path(out / label), frame)
    tabulated = output.read_tabulated(out / label)
    assert tabulated is not None
    scope = scope if isinstance(scope, str) else scope.name
    report = {"figure": label, **output.measured(scope, frame, len(kept))}
    return report, tabulated


def draw_frame(
    model: Model,
    experiment: str | Experiment,
    frame: pd.DataFrame,
    out: str | Path,
    scope: str,
    spec: ModelSpec | None = None,
    prompts: PromptSet | None = None,
    metrics: quality.Chosen | None = None,
) -> Iterator[Path]:
    """Leave all of an experiment's frame in `out`, its tables and figure, and where it is from.

    `scope`, `prompts` and `metrics` are those of the run that returned the frame. Of several
    guidance scales that the experiment is not asked at by itself, each has a figure of its own:
    NAME_guidance_2.
    """
    record, out = _record(experiment), folder(out)
    written = output.write_frame(out / record.name, frame)
    report = _report(model, record, frame, scope, spec, prompts, metrics)
    report["caption"] = _caption(record, report)
    parts = by_guidance(written)
    if record.guidances or len(parts) == 1:
        each = {"": written}
    else:
        each = {f"_guidance_{scale:g}": part for scale, part in parts}
    figures = ((after, record.chart(part)) for after, part in each.items())
    texts = _texts(out / record.name, record, report, written)
    yield from _finish(out / record.name, record, report, texts, figures, ("png", "pdf"))


def keep_untimed(
    model: Model,
    name: str,
    frame: pd.DataFrame,
    out: str | Path,
    scope: str,
    spec: ModelSpec | None = None,
    prompts: PromptSet | None = None,
    metrics: quality.Chosen | None = None,
) -> Path:
    """Leave the frame of an untimed run in `out`, as NAME_untimed, and return the file of its rows.

    `Committed` reads it, so that a run on another machine times the rest. All else as in
    `draw_frame`.
    """
    path = folder(out) / f"{name}_untimed"
    output.write_frame(path, frame)
    report = _report(model, _record(name), frame, scope, spec, prompts, metrics, " --untimed")
    write_json(Path(f"{path}.json"), report)
    return Path(f"{path}{output.DATA}")


def _report(
    model: Model,
    record: Experiment,
    frame: pd.DataFrame,
    scope: str,
    spec: ModelSpec | None,
    prompts: PromptSet | None,
    metrics: quality.Chosen | None,
    option: str = "",
) -> Report:
    """Return what an experiment's frame was measured on, and the command that repeats it."""
    option += f" --{scope}" if scope != "default" else ""
    scales = tuple(frame[GUIDANCE].unique()) if GUIDANCE in frame else ()
    if scales != record.guidances:
        option += f" --guidance {' '.join(f'{scale:g}' for scale in scales)}"
    command = f"experiment {record.name} --model {output.model_name(model)}{option}"
    shipped = agenda.REGISTRY.get(record.name) is record
    return {
        **output.measured(scope, frame, len(frame)),
        **output.provenance(
            model, command if shipped else "", spec, prompts, _added(record, metrics)
        ),
    }


def _added(name: str | Experiment, metrics: quality.Chosen | None) -> quality.Chosen | None:
    """Return the metrics that a figure was asked for beside its own, if it measures by any."""
    pictures = isinstance(name, str) and name in GALLERIES
    return None if pictures or not _record(name).has_metrics else metrics


def meaningless(model: Model, name: str | Experiment) -> str:
    """Say in one sentence why an answer would mean nothing for a model; empty if it means much."""
    pictures = isinstance(name, str) and name in GALLERIES
    if (not pictures and _record(name).speed) or not has_random_weights(model):
        return ""
    return f"{model.name} has random weights: only its speed means something, not its pictures"


def _record(name: str | Experiment) -> Experiment:
    """Return the experiment that a figure shows; raise ValueError for one without a name."""
    if isinstance(name, Experiment):
        if not name.name:
            raise ValueError("files take the name of their experiment; give it one: name='mine'")
        return name
    return agenda.find(CHARTED.get(name, name))


def _caption(name: str | Experiment, report: Report) -> str:
    """Write the caption of a figure."""
    if isinstance(name, str) and name in GALLERIES:
        seed, place = f"Seed {report['seed']}.", output.measured_on(report)
        return f"{GALLERIES[name].caption} {seed} {place}"
    return output.caption(_record(name), report)


def _texts(
    path: Path, name: str | Experiment, report: Report, frame: pd.DataFrame | None
) -> Iterator[tuple[Path, str]]:
    """Yield the texts beside a figure, `path` without ending: its caption, tables of a frame."""
    yield Path(f"{path}.txt"), report["caption"] + "\n"
    if frame is not None:
        yield from output.tables(path, frame, report["caption"])
        yield from output.more_tables(path, _record(name), frame)


def _finish(
    path: Path,
    name: str | Experiment,
    report: Report,
    texts: Iterable[tuple[Path, str]],
    figures: Iterable[tuple[str, Figure]],
    endings: Sequence[str],
) -> Iterator[Path]:
    """Write texts and provenance, then figures; yield the files of the data and of these.

    `figures` come with what stands after the name, and may be drawn as they are asked for.
    """
    gallery = isinstance(name, str) and name in GALLERIES
    yield Path(f"{path}.npz" if gallery else f"{path}{output.DATA}")
    for place, text in texts:
        write_utf8(place, text)
    write_json(Path(f"{path}.json"), report)
    for after, figure in figures:
        for ending in endings:
            write_figure(f"{path}{after}.{ending}", figure)
            yield Path(f"{path}{after}.{ending}")


def redraw(out: str | Path, names: Sequence[str], endings: Sequence[str]) -> Iterator[Path]:
    """Draw figures of a folder again from their data, and write tables that show all of it."""
    out = expanded(out)
    for name in names or figures_in(out):
        if name not in figures_in(out):
            raise ValueError(f"{out / name}.json is not there: nothing says what {name} shows")
        report = read_report(out / f"{name}.json")
        figure, texts = _from_data(name, out, report)
        report["versions"] |= {p: version(p) for p in DRAWN_WITH}
        yield from _finish(out / name, name, report, texts, [("", figure)], endings)
    write_index(out)


def figures_in(out: Path) -> list[str]:
    """Name the figures whose data are in a folder; raise ValueError if there is none."""
    there = [n for n in NAMES if (out / f"{n}.json").exists()]
    if not there:
        raise ValueError(f"there is no figure with its data in {out}")
    return there


def read_report(path: Path) -> Report:
    """Read where a figure is from; raise ValueError if it does not say so."""
    try:
        report = read_json(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"cannot read {path}: {error}") from None
    versions = report.get("versions")
    if not isinstance(versions, dict) or not {*DRAWN_WITH} <= {*versions}:
        raise ValueError(f"{path} does not say which versions drew the figure")
    return report


def figure_of(name: str | Experiment, out: str | Path, report: Report | None = None) -> Figure:
    """Draw a figure from its data in a folder."""
    out = expanded(out)
    if isinstance(name, str) and name in GALLERIES:
        with np.load(out / f"{name}.npz") as held:
            report = read_report(out / f"{name}.json") if report is None else report
            return GALLERIES[name].draw(report, dict(held))
    label = name if isinstance(name, str) else name.name
    return _record(name).chart(output.read_frame(out / label))


def _from_data(name: str, out: Path, report: Report) -> tuple[Figure, Sequence[tuple[Path, str]]]:
    """Draw a figure from the data in a folder, and write the texts beside it, its caption anew.

    Raises ValueError for data that are damaged.
    """
    try:
        report["caption"] = _caption(name, report)
        frame = None if name in GALLERIES else output.read_tabulated(out / name)
        return figure_of(name, out, report), list(_texts(out / name, name, report, frame))
    except OSError:
        raise
    except Exception as error:  # NumPy, pandas and charts raise many kinds over damaged files
        reason = f"{type(error).__name__}: {short(error, 100)}"
        raise ValueError(f"cannot draw {name} from its data in {out}: {reason}") from None


def check(
    out: str | Path, names: Sequence[str] = (), executor: Executor | None = None
) -> list[str]:
    """Draw every figure of a folder and write its texts again; return a line for each that differs.

    Bytes of a figure must match under the versions it was drawn with; under others the pixels,
    closely. Captions and tables must be those that its data write. An executor checks several at
    once.
    """
    out = expanded(out)
    names = sorted(names or figures_in(out), key=partial(_size, out), reverse=True)
    checked = (map if executor is None else executor.map)(partial(_differences, out), names)
    bar = tqdm(checked, "figures", len(names), unit="figure", leave=False)
    wrong = [line for lines in bar for line in lines]
    if index_differs(out):
        wrong.append(f"{out / INDEX}: another list than that of its figures")
    return wrong


def _size(out: Path, name: str) -> int:
    """Return the bytes of a figure's data: what takes longest is begun first."""
    return sum(path.stat().st_size for path in out.glob(f"{name}*{output.DATA}"))


def _differences(out: Path, name: str) -> list[str]:
    """Return a line for each file of one figure that its data would not write again."""
    if name not in figures_in(out):
        return [f"{name}: {out / name}.json is not there"]
    try:
        report = read_report(out / f"{name}.json")
        caption = report.get("caption")
        figure, texts = _from_data(name, out, report)
    except (OSError, ValueError) as error:
        return [str(error)]
    wrong = [*_other_pictures(out / name, figure, report["versions"])]
    if caption != report["caption"]:
        wrong.append(f"{out / name}.json: another caption than its data write")
    for path, text in texts:
        if not path.exists():
            wrong.append(f"{path} is not there")
        elif path.read_text(encoding="utf-8", errors="replace") != text:
            wrong.append(f"{path}: other text than its data write")
    return wrong


def _other_pictures(path: Path, figure: Figure, drawn_with: Mapping[str, str]) -> Iterator[str]:
    """Yield a line for each file of a figure, `path` without ending, that is drawn differently."""
    here = {p: version(p) for p in DRAWN_WITH}
    other = [f"{p} {here[p]} instead of {drawn_with[p]}" for p in here if here[p] != drawn_with[p]]
    with TemporaryDirectory() as scratch:
        for ending in ("png", "pdf"):
            kept, again = Path(f"{path}.{ending}"), Path(scratch) / f"{path.name}.{ending}"
            if not kept.exists():
                continue
            write_figure(again, figure)
            if kept.read_bytes() == again.read_bytes():
                continue
            if not other:
                yield f"{kept}: other bytes from the same data and versions"
            elif ending == "png" and _gap(kept, again) > TOLERANCE:
                yield f"{kept}: other pixels, with {', '.join(other)}"


def _gap(first: Path, second: Path) -> float:
    a, b = (imread(p).astype(float) for p in (first, second))
    return float(np.abs(a - b).mean()) if a.shape == b.shape else 255.0
