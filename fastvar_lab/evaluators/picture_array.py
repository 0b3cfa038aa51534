"""Pictures in an npz file, as guided-diffusion and VAR keep samples and references."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fastvar_lab.errors import short
from fastvar_lab.evaluators.benchmark_plans import BenchmarkPlan, Sample
from fastvar_lab.evaluators.picture_folder import Pictures, Sampled
from fastvar_lab.evaluators.row_files import rows_folder
from fastvar_lab.files import DAMAGED, expanded


class PictureArray(Pictures):
    """The pictures `arr_0` (N, H, W, 3) uint8 of an npz file, as guided-diffusion keeps them."""

    def __init__(self, path: str | Path) -> None:
        self.path = expanded(path)
        try:
            with np.load(self.path) as held:
                self.array = held["arr_0"]
        except DAMAGED as error:
            raise ValueError(f"{path} is no npz file of pictures: {short(error, 100)}") from None
        if self.array.ndim != 4 or self.array.shape[3] != 3 or self.array.dtype != np.uint8:
            raise ValueError(
                f"{path} must hold pictures (N, H, W, 3) uint8; not {self.array.shape} "
                f"{self.array.dtype}"
            )
        names = [str(i) for i in range(len(self.array))]
        super().__init__(self.path, names, rows_folder(self.path))

    def read(self, i: int) -> np.ndarray:
        return self.array[i]

    def stamp(self, i: int) -> tuple[int, int]:
        status = self.path.stat()
        return status.st_size, status.st_mtime_ns


class SampleArray(PictureArray, Sampled):
    """The pictures of an npz file as those of a benchmark; its order tells no classes.

    Without a `plan` any number of pictures is scored.
    """

    def __init__(self, path: str | Path, benchmark: str, plan: BenchmarkPlan | None = None) -> None:
        super().__init__(path)
        self.benchmark, self.plan = benchmark, plan
        self.samples = [Sample(name, "", 0, "", "") for name in self.names]

    def check(self) -> None:
        """Raise ValueError for another number of pictures than planned."""
        planned = len(self) if self.plan is None else len(self.plan.samples())
        if len(self) != planned:
            raise ValueError(f"{self.root} holds {len(self)} pictures; {planned} are to be scored")
