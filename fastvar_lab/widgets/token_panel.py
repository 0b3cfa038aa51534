"""TokenPanel: the life of the token at the marked place, beside pictures and masks."""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import ipywidgets as widgets
import numpy as np
from einops import rearrange

from fastvar_lab.errors import short
from fastvar_lab.experiments.explore import Stopped
from fastvar_lab.generation import Generation
from fastvar_lab.instruments.attention import Attention, attention_at
from fastvar_lab.instruments.trace import Trace
from fastvar_lab.measure import token_life
from fastvar_lab.measure.scale_steps import images
from fastvar_lab.methods.select import FarFromMean
from fastvar_lab.models.model import Model
from fastvar_lab.seam import Grid
from fastvar_lab.snapshots import Held
from fastvar_lab.widgets.fields import Choice
from fastvar_lab.widgets.page import Strip, Viewer, box, heading
from fastvar_lab.widgets.panel import Live
from fastvar_lab.widgets.token_page import (
    Maps,
    Matrix,
    attention_maps,
    code_table,
    patch_cells,
    rank_legend,
    rank_tables,
    summary,
    word_bars,
)

PAUSE = 0.03  # seconds in which another click takes the place of one
HELD = 4  # attentions that are kept, the newest
PTS = repr(FarFromMean())


MAPS = (
    "The share of each map, as a mean over heads; bright is the most within a map. Grey tokens "
    "were pruned and have no key."
)
PATCHES = (
    "Off: the mean difference to the final patch, of 255. New: the share of the code that differs "
    "from the step before; such bits are underlined."
)


def _note(text: str) -> widgets.HTML:
    note = widgets.HTML(text)
    note.add_class("fv-quiet")
    return note


class Subject(NamedTuple):
    """What a token belongs to: a record, the index of its picture, and its generation, if any.

    `name` says what it is; `note` why its generation is not there. `outputs` are those of the
    generation's sublayers, by step and site, if they are known.
    """

    trace: Trace
    picture: int = 0
    generation: Generation | None = None
    name: str = ""
    note: str = ""
    outputs: Held | None = None


class Sight(NamedTuple):
    """The sublayer in view."""

    step: int
    layer: int
    kind: str


class TokenPanel(Live):
    """Shows what happened at the place that `viewer` marks: ranks, attention, words, code, patch.

    `subject(stopped)` returns what is shown, None while there is nothing; it may generate, in the
    worker thread, and raises Stopped when `stopped()` is true. It may go by `whose`, a choice that
    stands in the panel. `sight()` returns the step and sublayer in view, and `go` shows another.
    `seconds` are those from the last click until ranks and attention, and until the patches, were
    there.
    """

    def __init__(
        self,
        model: Model,
        grids: Sequence[Grid],
        viewer: Viewer,
        subject: Callable[[Callable[[], bool]], Subject | None],
        sight: Callable[[], Sight],
        go: Callable[[Sight], None],
        whose: Choice | None = None,
    ) -> None:
        super().__init__()
        self.worker.pause = PAUSE
        self.model, self.viewer, self.subject = model, viewer, subject
        self.grids = tuple(grids)
        self.sight, self.go = sight, go
        self.seconds: tuple[float, float] = (0.0, 0.0)
        self.life: dict[str, Any] = {}
        self.recorded: dict[tuple[int, int, int], tuple[Generation, dict[str, Attention]]] = {}
        self.drawn: dict[int, tuple[Any, np.ndarray]] = {}
        self.about, self.text, self.code = (widgets.HTML() for _ in range(3))
        self.matrix = Matrix()
        self.maps = Maps(label="attention on earlier scale steps", group=viewer.group)
        self.patches = Strip(label="the patch after each scale step", width=64)
        self.run_stop.add_class("fv-hidden")
        ranks = box("fv-part-inner", heading("Rank in every sublayer"), self.matrix,
                    widgets.HTML(rank_legend()))  # fmt: skip
        gaze = box(
            "fv-part-inner", heading("Where its attention goes"), self.maps, _note(MAPS), self.text
        )
        life = box("fv-part-inner", heading("Its patch and its code"), self.patches, _note(PATCHES),
                   self.code)  # fmt: skip
        self.body = box("fv-part-inner fv-hidden", self.about, ranks, gaze, life)
        self.results = [self.body]
        choice = [] if whose is None else [box("fv-fields", whose)]
        head = [heading("A token's life"), *choice]
        self.children = (*head, self.status, self.run_stop, self.body)
        if whose is not None:
            whose.observe(lambda _: self.guarded(self.update), "value")
        self.add_class("fv-part")
        self.add_class("fastvar-token")
        self.status.say("Click a place of a picture, or mark one with the arrow keys.")
        viewer.observe(lambda _: self.guarded(self.update), "place")
        self.matrix.observe(lambda change: self.guarded(lambda: self._square(change.new)), "picked")
        self.maps.observe(lambda change: self.guarded(lambda: self._token(change.new)), "picked")
        self.quiet = False

    @property
    def token(self) -> tuple[int, int]:
        """The marked token of the step in view: (row, column)."""
        grid = self.grids[self.sight().step]
        x, y = self.viewer.place
        return min(int(y * grid.h), grid.h - 1), min(int(x * grid.w), grid.w - 1)

    def update(self) -> None:
        """Look at the token at the marked place; returns at once."""
        if self.closed or self.quiet or len(self.viewer.place) != 2:
            return
        (row, column), sight, begin = self.token, self.sight(), time.perf_counter()

        def work(stopped: Callable[[], bool]) -> Callable[[], None]:
            subject = self.subject(stopped)
            if subject is None:
                raise ValueError("there is no picture yet")
            trace, picture = subject.trace, subject.picture
            cells = token_life.places(trace, sight.step, (row, column))
            scores = token_life.token_scores(trace, cells, picture)
            codes = token_life.token_codes(trace, cells, picture)
            gazes, note = self._gazes(subject, sight, (row, column))
            pieces = tuple(self._pieces(subject))
            if stopped():
                raise Stopped
            life = {"cells": cells, "scores": scores, "codes": codes, "gazes": gazes}
            with self.worker.lock:
                if stopped():
                    raise Stopped
                self._show(subject, sight, life, pieces, note)
                shown = time.perf_counter() - begin
            pictures = self._pictures(trace, picture, stopped)
            steps, last = tuple(sorted(trace.canvases)), trace.grids[-1]
            patch = token_life.patch_of(pictures, steps, last, cells)

            def show() -> None:
                self.life["patch"] = patch
                self.patches.cells = patch_cells(patch, codes)
                self.seconds = shown, time.perf_counter() - begin
                size = trace.grids[patch.settled].name
                self.status.say(
                    f"token in row {row}, column {column} of {trace.grids[sight.step].name}"
                    f"{subject.name}; the patch stopped changing with {size} "
                    f"({self.seconds[0]:.2f} s, pictures {self.seconds[1]:.2f} s)"
                )

            return show

        self.ask(work)
        self.status.say("looking at the token")

    def _show(
        self, subject: Subject, sight: Sight, life: dict[str, Any], pieces: tuple[str, ...],
        note: str,
    ) -> None:  # fmt: skip
        """Show all but the patches."""
        self.life = {**life, "sight": sight}
        self.body.remove_class("fv-hidden")
        rule = str(subject.trace.provenance.get("scores", PTS))
        said = summary(life["scores"], *sight, "PTS" if rule == PTS else short(rule, 40))
        self.about.value = html.escape(f"{said} {note}".strip())
        tables = rank_tables(life["scores"])
        kinds = [table["kind"] for table in tables]
        row = sorted(subject.trace.canvases).index(sight.step)
        self.quiet = True
        try:
            self.matrix.tables = tables
            self.matrix.picked = [kinds.index(sight.kind), row, sight.layer]
        finally:
            self.quiet = False
        attention = life["gazes"].get("attn")
        self.maps.maps = (
            attention_maps(subject.trace, attention, life["cells"]) if attention else []
        )
        over = life["gazes"].get("cross") or attention
        bars = word_bars(over, pieces)
        self.text.value = f"<div>over the words</div>{bars}" if bars else ""
        self.code.value = code_table(life["codes"])
        self.stale(False)

    def _pieces(self, subject: Subject) -> tuple[str, ...]:
        prompts = subject.trace.provenance.get("prompts", ())
        return token_life.pieces(self.model, tuple(prompts), subject.picture)

    def _gazes(
        self, subject: Subject, sight: Sight, token: tuple[int, int]
    ) -> tuple[dict[str, token_life.Gaze], str]:
        """Return where a token's attention goes, and a sentence where there is none."""
        generation = subject.generation
        if generation is None:
            return {}, f"No attention: {short(subject.note or 'the generation is gone', 160)}."
        key = (id(generation), sight.step, sight.layer)
        if key not in self.recorded:
            try:
                seen = attention_at(
                    self.model, generation, subject.trace, sight.step, sight.layer, subject.outputs
                )
            except ValueError as error:
                return {}, f"No attention: {short(error, 160)}."
            self.recorded[key] = generation, seen
            while len(self.recorded) > HELD:
                del self.recorded[next(iter(self.recorded))]
        gazes = token_life.gazes(self.recorded[key][1], token, subject.picture)
        if not self.recorded[key][1]:
            return {}, ""
        if "attn" in gazes:
            return gazes, ""
        cache = generation.method.cache_index(subject.trace.grids)
        source = "" if cache is None else f", from {subject.trace.grids[cache].name}"
        return gazes, (
            f"In attention of layer {sight.layer} it is restored{source}, and asks for nothing."
        )

    def _pictures(self, trace: Trace, picture: int, stopped: Callable[[], bool]) -> np.ndarray:
        """Return the picture after every step, (S, H, W, 3); equal latents are decoded once."""
        if ("images", self.model.decode) in trace.derived:
            return images(trace, self.model.decode)[:, picture]
        held: dict[int, tuple[Any, np.ndarray]] = {}
        out = []
        for step in sorted(trace.canvases):
            canvas = trace.canvases[step]
            if id(canvas) in held or id(canvas) in self.drawn:
                held[id(canvas)] = held.get(id(canvas)) or self.drawn[id(canvas)]
            else:
                if stopped():
                    self.drawn |= held
                    raise Stopped
                decoded = self.model.decode(canvas)
                held[id(canvas)] = canvas, rearrange(decoded, "n c h w -> n h w c").cpu().numpy()
            out.append(held[id(canvas)][1][picture])
        self.drawn = held
        return np.stack(out)

    def _square(self, picked: list[int]) -> None:
        """Show the sublayer of a picked square."""
        if self.quiet or not self.matrix.tables:
            return
        table, row, column = picked
        kind = self.matrix.tables[table]["kind"]
        steps = sorted(set(self.life["scores"].step))
        self._look(Sight(int(steps[row]), column, kind))

    def _token(self, picked: list[int]) -> None:
        """Show a token that was picked on one of the maps."""
        step, row, column, _ = picked
        grid = self.grids[step]
        place = [(column + 0.5) / grid.w, (row + 0.5) / grid.h]
        self._look(self.sight()._replace(step=step), place)

    def _look(self, sight: Sight, place: list[float] | None = None) -> None:
        """Go to a sublayer, and to a place, and look there once."""
        self.quiet = True
        try:
            self.go(sight)
            self.viewer.place = place or self.viewer.place
        finally:
            self.quiet = False
        self.update()

    def forget(self) -> None:
        """Drop what was computed of generations."""
        self.recorded = {}

    def release(self) -> None:
        super().release()
        self.worker.wait(5)
        self.recorded, self.drawn = {}, {}
