"""The paper's claims against this lab's measurements: the number here, theirs, and a verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path

import pandas as pd

from fastvar_lab.experiments import agenda, run
from fastvar_lab.experiments.base import Experiment, Scope
from fastvar_lab.experiments.figures import meaningless, read_report
from fastvar_lab.experiments.output import Report, model_option, read_rows, repeating
from fastvar_lab.experiments.verdicts import OPEN, Answer, Claim, together
from fastvar_lab.files import expanded
from fastvar_lab.frames import CELL, GUIDANCE, by_guidance
from fastvar_lab.measure.speedup import DISTURBED, undisturbed
from fastvar_lab.models.model import Model
from fastvar_lab.models.spec import ModelSpec
from fastvar_lab.plotting.tables import escaped, markdown
from fastvar_lab.prompts import PromptSet
from fastvar_lab.store import Store

INTERVALS = (
    "Intervals are of 95 %: bootstraps of paired differences or of timed turns, score intervals of "
    "right and wrong pictures; n counts pictures, or turns where time is measured, and times are "
    "medians over turns. “Cannot tell”: the interval allows both answers. “Depends”: each of two "
    "lines is better at some cost; the differences at the least and the greatest are given."
)


def claiming() -> dict[str, Experiment]:
    """Return the experiments that test a claim, by name.

    >>> "memory" in claiming(), "drafting" in claiming()
    (True, False)
    """
    return {name: record for name, record in agenda.REGISTRY.items() if record.claims}


def measure(
    model: Model,
    scope: str | Scope = "paper",
    *,
    spec: ModelSpec | None = None,
    prompts: PromptSet | None = None,
    store: Store | None = None,
    executor: Executor | None = None,
    note: Callable[[str], object] = print,
) -> dict[str, pd.DataFrame]:
    """Run every experiment that tests a claim, for any model; return the frames by name.

    What the model cannot answer is left out, and `note` is told why in one sentence.
    """
    frames = {}
    for name, record in claiming().items():
        reason = meaningless(model, record)
        try:
            if reason:
                raise ValueError(reason)
            frames[name] = run.run(
                name,
                scope,
                model=spec if executor is not None else model,
                prompts=prompts,
                store=store,
                executor=executor,
                note=note,
            )
        except ValueError as error:
            note(f"{name} is left out: {error}")
    return frames


def recorded(
    folder: str | Path, note: Callable[[str], object] = print
) -> tuple[dict[str, pd.DataFrame], dict[str, Report]]:
    """Read the frames of experiments that test a claim from a folder of figures, and their reports.

    `note` is told in a sentence which figures left no more than what they draw. Raises ValueError
    if the folder holds no others, or damaged ones.
    """
    folder, frames, reports = expanded(folder), dict[str, pd.DataFrame](), dict[str, Report]()
    for name, record in claiming().items():
        frame = read_rows(folder / name)
        if frame is not None and (CELL in frame or not record.points):
            frames[name], reports[name] = frame, read_report(folder / f"{name}.json")
        elif frame is not None:
            note(f"{name} is left out: its data are only what is drawn; draw it again")
    if not frames:
        raise ValueError(f"there are no data of experiments that test a claim in {folder}")
    return frames, reports


def answer(claim: Claim, frame: pd.DataFrame, guidances: Sequence[float] = ()) -> Answer:
    """Answer a claim from a frame; disturbed timings decide nothing.

    `guidances` are those that its experiment is asked at, at all of which the claim is made. A
    frame of another experiment with several answers it at each of them apart.
    """
    parts = [] if guidances else by_guidance(frame)
    if len(parts) > 1:
        answers = [(scale, _answer(claim, part.drop(columns=GUIDANCE))) for scale, part in parts]
        texts = [replace(a, text=f"at guidance {scale:g}: {a.text}") for scale, a in answers]
        return together(texts)
    return _answer(claim, frame)


def _answer(claim: Claim, frame: pd.DataFrame) -> Answer:
    clear = undisturbed(frame)
    compares = any(c in frame and (frame[c] == "quality").any() for c in ("kind", "what"))
    if len(clear) < len(frame) and not compares:
        return Answer(DISTURBED, OPEN)
    try:
        return claim.answer(clear)
    except ValueError as error:
        return Answer(f"not measured: {error}", OPEN)


def table(frames: Mapping[str, pd.DataFrame], where: str, left_out: Sequence[str] = ()) -> str:
    """Write the claims whose experiments are there as Markdown; `where` says what was run.

    `left_out` are the sentences that `measure` notes, a line each under the table.

    >>> frames = {"memory": run.run("memory", "quick", progress=False)}
    >>> print(table(frames, "A smoke run.").splitlines()[-1][:17])
    | It saves memory
    """
    rows = []
    for name, record in claiming().items():
        for claim in record.claims if name in frames else ():
            verdict = answer(claim, frames[name], record.guidances)
            rows.append({
                "claim": claim.statement, "the papers": claim.paper, "here": verdict.text,
                "verdict": f"**{verdict.verdict}**", "from": f"[`{name}`]({name}.png)",
            })  # fmt: skip
    columns = ["claim", "the papers", "here", "verdict", "from"]
    lines = ["# The papers' claims, checked", "", f"{where} {INTERVALS}", ""]
    claims = markdown(pd.DataFrame(rows, columns=columns), markup=("verdict", "from"))
    notes = "".join(f"- {escaped(note)}\n" for note in left_out)
    return "\n".join(lines) + "\n" + claims + (f"\n{notes}" if notes else "")


def where(
    model: Model, scope: str, spec: ModelSpec | None = None, prompts: PromptSet | None = None
) -> str:
    """Say what was run: command, model, weights, device, scope."""
    quick = " --quick" if scope == "quick" else ""
    command = repeating(model, f"claims{model_option(model)}{quick}", spec, prompts)
    written = f"Written by `{command}`. " if command else ""
    return (
        f"{written}Model `{model.name}`, weights `{model.fingerprint}`, on {model.device}, "
        f"scope {scope}."
    )


def where_recorded(folder: Path, reports: Mapping[str, Report]) -> str:
    """Say what was judged: the folder, models, weights and scopes of its data, and processors."""
    runs = sorted({(r["model"], r["weights"], r.get("scope", "paper")) for r in reports.values()})
    models = {(m, w): [scope for *other, scope in runs if other == [m, w]] for m, w, _ in runs}
    described = "; ".join(
        f"`{m}`, weights `{w}`, scope{'s' if len(scopes) > 1 else ''} {' and '.join(scopes)}"
        for (m, w), scopes in models.items()
    )
    command = f"python -m fastvar_lab claims --from {folder}"
    places = sorted({str(r.get("gpu") or r["cpu"]) for r in reports.values()})
    apart = "; times of one are not compared with those of another" if len(places) > 1 else ""
    return (
        f"Written by `{command}` from the data of the figures there: {described}. Measured on "
        f"{' and '.join(places)}{apart}."
    )
