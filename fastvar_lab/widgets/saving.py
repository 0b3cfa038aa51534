"""What is taken away from an Explorer: its method as Python, a figure, a trace."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from pathlib import Path

import ipywidgets as widgets

from fastvar_lab.experiments.explore import Duel
from fastvar_lab.files import expanded, file_stem, unused
from fastvar_lab.frames import FULL
from fastvar_lab.methods.columns import family
from fastvar_lab.plotting import panels
from fastvar_lab.plotting.style import write_figure
from fastvar_lab.widgets.fields import Field
from fastvar_lab.widgets.page import CopyButton, box, button, heading
from fastvar_lab.widgets.panel import Status

ENDINGS = ("pdf", "png", "safetensors", "html")


def free_path(name: Field, folder: Path, endings: Sequence[str]) -> Path:
    """Return a path in a folder, without its suffix, at which no file is overwritten.

    An error of the name stands under its field. Raises ValueError for it, and without the folder.
    """
    name.error = ""
    try:
        stem = file_stem(name.value, endings)
    except ValueError as error:
        name.error = str(error)
        raise ValueError("nothing was saved") from None
    folder = folder.absolute()
    if not folder.is_dir():
        raise ValueError(f"the folder {folder} does not exist")
    return unused(folder / stem, endings)


class SavingPanel(widgets.Box):
    """Shows Python that draws the picture, and writes files into `folder`."""

    def __init__(self, shown: Callable[[], Duel | None], folder: str | Path) -> None:
        self.shown, self.folder = shown, expanded(folder)
        self.python = ""
        self.code = widgets.HTML()
        self.code.add_class("fv-code")
        self.copy = CopyButton(label="Copy the Python")
        self.status = Status()
        self.name = Field("save as", "exploration", f"The name of the files, in {folder}.")
        self.figure = button(
            "Save figure", "PDF and PNG of A beside B: their difference, masks and cost",
            lambda: self._saved(self._figure),
        )  # fmt: skip
        self.trace = button(
            "Save trace", "All that was recorded of method A, as one safetensors file",
            lambda: self._saved(self._trace),
        )  # fmt: skip
        row = box("fv-row", self.copy, self.figure, self.trace, self.status)
        super().__init__([heading("As Python, and as files"), self.code, self.name, row])
        self.add_class("fv-part")

    def say(self, python: str) -> None:
        """Show the code."""
        self.python = self.copy.text = python
        self.code.value = f'<pre aria-label="as Python" tabindex="0">{html.escape(python)}</pre>'

    def _saved(self, save: Callable[[Duel, Path], str]) -> None:
        """Write files of what is shown; errors of the name stand under it."""
        try:
            duel = self.shown()
            if duel is None:
                raise ValueError("there is no picture to save yet")
            path = free_path(self.name, self.folder, ENDINGS)
            self.status.say(f"saved {save(duel, path)}")
        except (ValueError, OSError) as error:
            self.status.fail(error)

    def _figure(self, duel: Duel, path: Path) -> str:
        """Write the figure that compares A with B as PDF and PNG."""
        a, b, trace = duel.a, duel.b, duel.a.trace
        pruned = [s for s, act in enumerate(a.method.acts(trace.grids)) if act.key]
        shares = {
            f"kept at {trace.size(s)}": trace.kept_share(s, "attn").cpu().numpy()
            for s in pruned[-2:]
        }
        name, base = family(a.method), family(b.method)
        note = f"{a.speedup_flop_bound:.2f} times fewer operations"
        if base != FULL:
            name, base = f"A: {name}", f"B: {base}"
            note += f" than full generation, A; {b.speedup_flop_bound:.2f}, B"
        figure = panels.comparison(
            b.fast / 255,
            a.fast / 255,
            shares,
            [trace.size(g.index) for g in trace.grids],
            b.gflop_fast,
            a.gflop_fast,
            f"{a.caption}, seed {a.seed}: PSNR {duel.psnr:.1f} dB",
            note,
            unit="GFLOP",
            name=name,
            base=base,
        )
        for ending in ("pdf", "png"):
            write_figure(path.with_name(f"{path.name}.{ending}"), figure)
        return f"{path}.pdf and .png"

    def _trace(self, duel: Duel, path: Path) -> str:
        """Write the trace of A's generation as safetensors."""
        duel.a.trace.save(path.with_name(f"{path.name}.safetensors"))
        return f"{path}.safetensors"
