"""What methods do to pictures: squared errors against full generation, over calibration prompts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from fastvar_lab.branching import Branches, branching
from fastvar_lab.generation import Generation, generate
from fastvar_lab.methods.prune import Dense
from fastvar_lab.models.model import Model
from fastvar_lab.prompts import ClosedWorld, Item, PromptSet, seeded
from fastvar_lab.sampling import Sampling
from fastvar_lab.seam import Grid, Method
from fastvar_lab.store import Store

SEED, BATCH = 101, 4  # of the calibration's own prompt set; pictures generated at once
FAR = 1_000_003  # noise seeds from those of pictures that are judged: lists count theirs up
LEAST = 1e-10  # squared error of pictures that count as equal: 100 dB


@dataclass
class Calibration:
    """The pictures on which a schedule is planned, and what is known of them.

    `items` are those of `calibration_items`: nothing is judged on them. Errors are kept in `store`;
    a stopped plan goes on.
    """

    model: Model
    items: Sequence[Item]
    sampling: Sampling | None = None
    sizes: Sequence[tuple[int, int]] | None = None
    store: Store | None = None
    progress: bool = True
    _full: dict[int, Generation] = field(default_factory=dict, repr=False)
    _pictures: dict[int, torch.Tensor] = field(default_factory=dict, repr=False)
    _known: dict[tuple[str, int], np.ndarray] = field(default_factory=dict, repr=False)

    @property
    def grids(self) -> tuple[Grid, ...]:
        return self.model.grids(self.sizes)

    @property
    def sampled(self) -> Sampling:
        """How its pictures are sampled: as the model does unless said otherwise."""
        return self.sampling or self.model.sampling

    @property
    def guided(self) -> bool:
        """Whether null rows run."""
        return self.model.transformer.guided(self.sampled)

    @property
    def text_tokens(self) -> int:
        """The mean number of words of its prompts."""
        return round(float(np.mean([len(item.prompt.split()) for item in self.items])))

    def errors(
        self, methods: Iterable[Method], title: str = "effects", n: int | None = None
    ) -> np.ndarray:
        """Return the squared error (methods, pictures) of each method to full generation.

        Errors are means over the pixels of the first `n` pictures in [0, 1], at least 1e-10.
        """
        methods, n = list(methods), min(n or len(self.items), len(self.items))
        with self.model.unchanged():
            return self._errors(methods, title, range(0, n, BATCH))[:, :n]

    def _errors(self, methods: Sequence[Method], title: str, batches: range) -> np.ndarray:
        grids = self.grids
        missing = {
            first: branching([m for m in dict.fromkeys(methods) if not self._read(m, first)], grids)
            for first in batches
        }
        total = sum(map(len, missing.values()))
        silent = not self.progress or not total
        with tqdm(total=total, desc=title, unit="run", disable=silent) as bar:
            for first, lacking in missing.items():  # a batch's snapshots serve all methods
                if not lacking:
                    continue
                branches = Branches(self.model, self.batch(first)[0])
                for method in lacking:
                    self._keep(method, first, self._measured(method, first, branches))
                    bar.update()
        known = [
            np.concatenate([self._known[repr(method), first] for first in batches])
            for method in methods
        ]
        return np.stack(known)

    def _part(self, first: int) -> Sequence[Item]:
        return self.items[first : first + BATCH]

    def _measured(self, method: Method, first: int, branches: Branches) -> np.ndarray:
        """Measure one batch of pictures, resumed where others before had the same steps."""
        return squared_errors(self.model, branches.run(method), self.batch(first)[1])

    def batch(self, first: int) -> tuple[Generation, torch.Tensor]:
        """Return full generation of the batch that begins at a picture, and its pictures."""
        if first not in self._full:
            part = self._part(first)
            self._full[first] = generate(
                self.model, [i.prompt for i in part], Dense(), seed=[i.seed for i in part],
                sizes=self.sizes, sampling=self.sampling, snapshot=True,
            )  # fmt: skip
            self._pictures[first] = self.model.decode(self._full[first].canvas)
        return self._full[first], self._pictures[first]

    def _address(self, method: Method, first: int) -> dict[str, Any]:
        return {
            **self.model.context,
            "sampling": repr(self.sampled),
            "sizes": [[g.h, g.w] for g in self.grids],
            "experiment": "plan",
            "items": [list(item) for item in self._part(first)],
            "method": repr(method),
        }

    def _read(self, method: Method, first: int) -> bool:
        if (repr(method), first) not in self._known and self.store is not None:
            rows = self.store.get(self._address(method, first))
            if rows is not None:
                self._known[repr(method), first] = np.array([row["error"] for row in rows])
        return (repr(method), first) in self._known

    def _keep(self, method: Method, first: int, errors: np.ndarray) -> None:
        self._known[repr(method), first] = errors
        if self.store is not None:
            rows = [{"error": float(error)} for error in errors]
            self.store.put(self._address(method, first), rows, experiment="plan")


def squared_errors(model: Model, run: Generation, pictures: torch.Tensor) -> np.ndarray:
    """Return the squared error (n,) of each picture of a run to those of full generation."""
    gap = model.decode(run.canvas) - pictures
    return np.maximum(gap.double().square().mean((1, 2, 3)).cpu().numpy(), LEAST)


def calibration_items(
    model: Model, n: int, prompts: PromptSet | None = None, seed: int = SEED
) -> tuple[Item, ...]:
    """Return `n` items of a prompt set, default the model's, such that nothing is judged on them.

    Of the closed world they are prompts that are not held out, none of which is judged; of another
    set those under `seed`, or, if it has no seed, its first ones; noise is far from what is judged.

    >>> import fastvar_lab as fv
    >>> model, texts = fv.load("tiny"), fv.PromptList(["a red ring"])
    >>> calibration_items(model, 1, texts)[0].seed > texts.take(1000)[-1].seed
    True
    """
    prompts = model.prompts if prompts is None else prompts
    fresh = seeded(prompts, seed)
    if isinstance(fresh, ClosedWorld):
        return replace(fresh, held_out=False).take(n)
    shift = FAR + (seed if fresh == prompts else 0)
    return tuple(item._replace(seed=item.seed + shift) for item in fresh.take(n))


def psnr(errors: np.ndarray) -> np.ndarray:
    """Return PSNR in dB of squared errors of pictures in [0, 1].

    >>> psnr(np.array([1e-3])).round(6).tolist()
    [30.0]
    """
    return -10 * np.log10(errors)
