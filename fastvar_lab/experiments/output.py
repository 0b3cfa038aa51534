"""What an experiment leaves in a folder: data, tables, caption, and where they are from."""

from __future__ import annotations

import bz2
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from fastvar_lab.errors import short
from fastvar_lab.experiments.base import OURS, Experiment
from fastvar_lab.files import write
from fastvar_lab.frames import METRICS, NOTE
from fastvar_lab.measure import quality
from fastvar_lab.models.model import Model
from fastvar_lab.models.spec import ModelSpec
from fastvar_lab.plotting.tables import escaped, latex, markdown, tabulate
from fastvar_lab.prompts import PromptFile, PromptSet
from fastvar_lab.provenance import provenance as where_from

DRAWN_WITH = ("matplotlib", "numpy", "pillow")  # same versions, same bytes
DIGITS = 6  # of every number in a table of data
DATA = ".csv.bz2"  # of a frame: less than a tenth of its text, and pandas reads it as it is

Report = dict[str, Any]


def write_frame(path: Path, frame: pd.DataFrame) -> pd.DataFrame:
    """Write rows as compressed csv, the same bytes for the same rows; return them as written."""
    disown_data(path)
    write(
        Path(f"{path}{DATA}"),
        lambda partial: rounded(frame).to_csv(partial, index=False, compression="bz2"),
    )
    return read_frame(path)


def rows_path(path: str | Path) -> Path:
    """Return where all rows stand, without ending, where a figure shows only sums of them."""
    return Path(f"{path}_rows")


def read_frame(path: str | Path) -> pd.DataFrame:
    """Read the rows that a figure shows, `path` without its ending; ValueError if damaged."""
    packed = Path(f"{path}{DATA}").read_bytes()
    try:
        text = io.BytesIO(bz2.decompress(packed))
        return pd.read_csv(text, keep_default_na=False, na_values=[""])  # "None" may be a label
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}{DATA} is damaged: {short(error, 100)}") from None


def rounded(frame: pd.DataFrame) -> pd.DataFrame:
    """Round numbers to six digits, write whole ones whole, and drop columns that hold nothing.

    >>> frame = pd.DataFrame({"seed": [758651974.0, None], "ms": [1377.5614510013, 0.00012345678]})
    >>> print(rounded(frame.assign(none=None)).to_csv(index=False))
    seed,ms
    758651974,1377.56
    ,0.000123457
    <BLANKLINE>
    """
    out = frame.dropna(axis=1, how="all")
    for column in out.select_dtypes("float"):
        values = out[column]
        if (values.dropna() % 1 == 0).all() and values.abs().max() < 2**53:
            out = out.assign(**{column: values.astype("Int64")})
        else:
            short = [float(f"{value:.{DIGITS}g}") for value in values]
            out = out.assign(**{column: short})
    return out


def read_rows(path: str | Path) -> pd.DataFrame | None:
    """Read all rows behind a figure, `path` without its ending; None if there are no data."""
    for data in (rows_path(path), path):
        if Path(f"{data}{DATA}").exists():
            return read_frame(data)
    return None


def read_tabulated(path: str | Path) -> pd.DataFrame | None:
    """Read what tables sum up: all rows if they are of methods, else what the figure shows.

    `path` is without its ending; None if there are no data.
    """
    rows = read_rows(path)
    return rows if rows is None or "method" in rows else read_frame(path)


def tables(path: str | Path, frame: pd.DataFrame, caption: str = "") -> Iterator[tuple[Path, str]]:
    """Yield what a frame says as Markdown and LaTeX (booktabs): each file and its text.

    `path` is without its ending.
    """
    table = tabulate(frame)
    said = " ".join(filter(None, (caption, _note(table))))
    yield Path(f"{path}.md"), _noted(table)
    yield Path(f"{path}.tex"), latex(table, said, label=f"tab:{Path(path).name}")


def more_tables(
    path: Path, experiment: Experiment, frame: pd.DataFrame
) -> Iterator[tuple[Path, str]]:
    """Yield an experiment's other tables, NAME_TITLE.csv, .md and .tex each, with their notes."""
    for title, make in experiment.tables.items():
        table, place = make(frame), Path(f"{path}_{title}")
        yield Path(f"{place}.csv"), table.to_csv(index=False)
        yield Path(f"{place}.md"), _noted(table)
        yield Path(f"{place}.tex"), latex(table, _note(table), label=f"tab:{place.name}")


def _note(table: pd.DataFrame) -> str:
    return str(table.attrs.get(NOTE, ""))


def _noted(table: pd.DataFrame) -> str:
    """Write a table as Markdown with its note under it."""
    note = _note(table)
    return markdown(table) + (f"\n{escaped(note)}\n" if note else "")


def disown_data(path: Path) -> None:
    """Take away what says where the old data are from, and their rows: wrong beside new ones."""
    Path(f"{path}.json").unlink(missing_ok=True)
    Path(f"{rows_path(path)}{DATA}").unlink(missing_ok=True)


def caption(experiment: Experiment, report: Report) -> str:
    """Write the caption of an experiment's figure: question, source, what was measured on what."""
    intervals = ", 95 % intervals" if experiment.intervals else ""
    parts = [
        experiment.question,
        "" if experiment.source in ("", OURS) else f"Source: {experiment.source}.",
        f"{report['n']} pictures a method{intervals}." if "n" in report else "",
        measured_on(report, experiment.subject),
    ]
    return " ".join(part for part in parts if part)


def measured_on(report: Report, subject: str = "") -> str:
    """Write what was measured, by default the model and its weights, and on what machine."""
    threads = report["threads"]
    place = report.get("gpu") or f"{report['cpu']}, {threads} thread{'s' if threads > 1 else ''}"
    subject = subject or f"Model {report['model']}, weights {report['weights']}"
    return f"{subject}; {place}."


def measured(scope: str, frame: pd.DataFrame, rows: int) -> Report:
    """Return how much an experiment measured."""
    pictures = {"n": int(frame.picture.nunique())} if "picture" in frame else {}
    metrics = {METRICS: frame.attrs[METRICS]} if frame.attrs.get(METRICS) else {}
    return {"scope": scope, "rows": rows, **pictures, **metrics}


def provenance(
    model: Model,
    command: str,
    spec: ModelSpec | None = None,
    prompts: PromptSet | None = None,
    metrics: quality.Chosen | None = None,
) -> Report:
    """Return where results are from: the command that repeats them, weights, machine.

    `command` is what follows the program's name, without the options of model, prompts and metrics;
    empty if no command repeats the run. Prompts and metrics are recorded if they are given.
    """
    names = [metric.name for metric in quality.as_metrics(metrics or ())]
    return {
        **where_from(
            model,
            command=command and repeating(model, command, spec, prompts, metrics),
            packages=("seaborn", *DRAWN_WITH),
        ),
        **({} if prompts is None else {"prompts": repr(prompts)}),
        **({"metrics": names} if names else {}),
    }


def model_name(model: Model) -> str:
    """Write what --model takes for a model: the function that opens it, or its name."""
    function = re.match(r"fv\.load\('(\w[\w.]*:\w+)'", model.source)
    return function[1] if function else model.name


def model_option(model: Model) -> str:
    """Write --model, with a space before it; nothing for the model that commands use without it."""
    name = model_name(model)
    return "" if name == ModelSpec().name else f" --model {name}"


def repeating(
    model: Model,
    command: str,
    spec: ModelSpec | None = None,
    prompts: PromptSet | None = None,
    metrics: quality.Chosen | None = None,
) -> str:
    """Write the whole command line that repeats a run; empty if its options cannot say it.

    They name files of prompts and the metrics that ship here. A model that was opened without a
    `spec` must be one that its name alone opens.

    >>> import fastvar_lab as fv
    >>> repeating(fv.load("tiny"), "claims", metrics=["vif"])
    'python -m fastvar_lab claims --metrics vif'
    >>> repeating(fv.load("tiny"), "claims", prompts=fv.PromptList("a ring"))
    ''
    >>> repeating(fv.load("tiny").with_guidance(4.0), "claims")
    ''
    """
    chosen = quality.as_metrics(metrics or ())
    named = all(quality.METRICS.get(metric.name) == metric for metric in chosen)
    listed = prompts is None or (
        isinstance(prompts, PromptFile) and prompts == PromptFile(prompts.path)
    )
    by_name = model.source == f"fv.load({model.name!r})"
    opened = model.opened, model.opened_sampling, model.opened_types
    changed = (model.sizes, model.sampling, model.types) != opened
    if not named or not listed or (spec is None and (changed or not by_name)):
        return ""
    spec, usual = spec or ModelSpec(), ModelSpec()
    values = {
        name.replace("_", "-"): str(getattr(spec, name))
        for name in ("weights", "device", "dtype", "lora", "lora_scale")
        if getattr(spec, name) != getattr(usual, name)
    }
    if isinstance(prompts, PromptFile):
        values["prompts"] = str(prompts.path)
    if chosen:
        values["metrics"] = ",".join(metric.name for metric in chosen)
    options = [f" --{name} {shlex.quote(value)}" for name, value in values.items()]
    return f"python -m fastvar_lab {command}{''.join(options)}"
