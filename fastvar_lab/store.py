"""Results on disk, addressed by all that decides them: pictures, values of metrics, rows of cells.

A store is a folder, `MODEL/pictures/KEY.npz`, `MODEL/values/KEY.json` and `MODEL/rows/KEY.json`,
where KEY hashes the address that the file holds. The files are standard JSON, in which
`{"$float": "nan"}` stands for nan.
"""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import pandas as pd
from PIL import Image

from fastvar_lab.encoding import floats, json_values, packed, plain, unpacked
from fastvar_lab.files import (
    DAMAGED,
    cache_folder,
    digest,
    expanded,
    folder_name,
    read_json,
    write,
    write_utf8,
)
from fastvar_lab.files import folder as writable

if TYPE_CHECKING:  # imported where tokens are read or written, to list a store without torch
    from torch import Tensor

Rows = list[dict[str, Any]]
Address = Mapping[str, Any]
KINDS = ("pictures", "values", "rows")
DAY = 24 * 60 * 60  # seconds
DIGITS = 16  # of keys in frames


class Drawn(NamedTuple):
    """What one generation drew: the picture (H, W, 3) uint8, and each step's tokens (L, ...).

    The tokens of a skipped step are None.
    """

    picture: np.ndarray
    tokens: list[Tensor | None]


def default_folder() -> Path:
    """Return the folder of results: one in the user's cache."""
    return cache_folder("store")


def key(address: Address) -> str:
    """Hash an address, which must hold plain JSON values, whatever their order."""
    text = json.dumps(json_values(address), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return digest(text)


def short_key(address: Address) -> str:
    """Return the part of a key that stands in frames, in the column `CELL`."""
    return key(address)[:DIGITS]


class Known(Protocol):
    """Results that are kept elsewhere, such as in the data of figures, by `short_key`."""

    def rows(self, cell: str) -> Rows | None:
        """Return a cell's rows; None if they are not there."""
        ...

    def values(self, cell: str) -> dict[str, dict[str, float | None]]:
        """Return what is known of a picture: columns by a metric's address."""
        ...


class Store:
    """A folder of results: read what is whole, write whole or not at all.

    Two processes may write the same file: the last rename stays, whole. Where they measured other
    metrics of a picture, those of one are computed again when they are asked for.
    `experiment` says for whom something is kept; it is no part of its address. What the folder does
    not hold is looked for in `known`.
    """

    def __init__(self, folder: str | Path | None = None, known: Known | None = None) -> None:
        self.folder = expanded(folder or default_folder()).resolve()  # workers run elsewhere
        self.known = known

    def prepare(self) -> Store:
        """Check that results can be written, before hours of work; raise OSError if not."""
        writable(self.folder)
        try:
            write(self.folder / "probe", lambda partial: partial.write_bytes(b"\0" * 2**20))
            (self.folder / "probe").unlink(missing_ok=True)
        except OSError as error:
            raise OSError(f"nothing can be kept in {self.folder}: {error.strerror}") from error
        return self

    def path(self, address: Address, kind: str = "rows") -> Path:
        """Return the file of an address."""
        model = folder_name(str(address.get("model", "any")))
        ending = "npz" if kind == "pictures" else "json"
        return self.folder / model / kind / f"{key(address)}.{ending}"

    def get(self, address: Address) -> Rows | None:
        """Return a cell's rows; None if they are not there, or damaged."""
        content = self._json(address, "rows")
        if content is not None:
            return [floats(row) for row in content["rows"]]
        return None if self.known is None else self.known.rows(short_key(address))

    def put(self, address: Address, rows: Rows, experiment: str = "") -> None:
        """Keep a cell's rows."""
        self._write_json(address, "rows", [plain(row) for row in rows], experiment)

    def values(self, address: Address) -> dict[str, dict[str, float | None]]:
        """Return what is known of a picture beside its reference: columns by a metric's address."""
        known = {} if self.known is None else self.known.values(short_key(address))
        return {**known, **self._held_values(address)}

    def _held_values(self, address: Address) -> dict[str, dict[str, float | None]]:
        """Return what the folder itself holds: what is `known` has fewer digits."""
        content = self._json(address, "values")
        held = {} if content is None else content["values"]
        return {name: floats(row) for name, row in held.items()}

    def put_values(
        self, address: Address, values: Mapping[str, Mapping[str, float]], experiment: str = ""
    ) -> None:
        """Keep values of more metrics, beside those that the folder holds."""
        held = {**self._held_values(address), **values}
        rows = {name: plain(row) for name, row in held.items()}
        self._write_json(address, "values", rows, experiment)

    def picture(self, address: Address) -> Drawn | None:
        """Return what a generation drew; None if it is not there, or damaged."""
        path = self.path(address, "pictures")
        try:
            with np.load(path) as held:  # a zip, whose checksums are compared
                if read_json(held["head"].tobytes())["address"] != json_values(address):
                    return None
                picture = np.asarray(Image.open(io.BytesIO(held["picture"].tobytes())))
                steps = range(int(held["steps"]))
                tokens = [unpacked(held, step) for step in steps]
        except DAMAGED:
            return None
        return Drawn(picture, tokens)

    def has_picture(self, address: Address) -> bool:
        """Return whether there is a picture, without reading it: it may be damaged."""
        return self.path(address, "pictures").exists()

    def put_picture(self, address: Address, drawn: Drawn, experiment: str = "") -> None:
        """Keep what a generation drew, without loss: the picture as PNG, tokens packed."""
        head = json.dumps({"address": json_values(address), "experiment": experiment}).encode()
        png = io.BytesIO()
        Image.fromarray(drawn.picture).save(png, "PNG")
        arrays = {"head": np.frombuffer(head, np.uint8), "steps": np.array(len(drawn.tokens))}
        arrays["picture"] = np.frombuffer(png.getvalue(), np.uint8)
        for step, tokens in enumerate(drawn.tokens):
            arrays |= {} if tokens is None else packed(tokens, step)
        path = self.path(address, "pictures")
        writable(path.parent)
        write(path, lambda partial: np.savez_compressed(partial, **arrays))  # type: ignore[arg-type]

    def sizes(self) -> pd.DataFrame:
        """Return files and megabytes by model, experiment and kind, the largest first.

        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     store = Store(folder)
        ...     store.put({"model": "tiny", "cell": 1}, [{"ms": 2.0}], experiment="memory")
        ...     store.sizes()[["model", "experiment", "kind", "files"]].values.tolist()
        [['tiny', 'memory', 'rows', 1]]
        """
        by = ["model", "experiment", "kind"]
        rows = [
            {"model": path.parts[-3], "experiment": _experiment(path), "kind": path.parts[-2],
             "files": 1, "megabytes": about.st_size / 1e6}
            for path, about in self._files()
        ]  # fmt: skip
        frame = pd.DataFrame(rows, columns=[*by, "files", "megabytes"])
        sums = frame.groupby(by, as_index=False)[["files", "megabytes"]].sum()
        return sums.sort_values("megabytes", ascending=False, ignore_index=True)

    def prune(
        self, model: str | None = None, days: float | None = None, everything: bool = False
    ) -> int:
        """Remove results and return their bytes: of a model, older than some days, or both.

        `everything` removes all. Raises ValueError if nothing is selected, if something is beside
        everything, or for an unknown model.
        """
        if everything and (model is not None or days is not None):
            raise ValueError("everything is removed, or what a model or an age selects; not both")
        if model is None and days is None and not everything:
            raise ValueError(
                "nothing selects what to remove: give a model, an age in days, or everything"
            )
        if days is not None and not days >= 0:
            raise ValueError(f"the age in days must be 0 or more; not {days}")
        models = sorted({path.parts[-3] for path, _ in self._files()})
        chosen = None if model is None else folder_name(model)
        if chosen is not None and chosen not in models:
            there = ", ".join(models) or "none"
            raise ValueError(
                f"{self.folder} has no results of the model {model!r}; it has those of: {there}"
            )
        freed, newest = 0, time.time() - (days or 0) * DAY
        for path, about in self._files():
            if chosen in (None, path.parts[-3]) and about.st_mtime <= newest:
                freed += about.st_size
                path.unlink(missing_ok=True)
        return freed

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        """Walk the files of results; anything else in the folder is not touched."""
        for kind in KINDS:
            for path in sorted(self.folder.glob(f"*/{kind}/*")):
                if path.name.startswith("."):
                    continue
                try:
                    about = path.stat()
                except FileNotFoundError:  # another process has just removed it
                    continue
                yield path, about

    def _json(self, address: Address, kind: str) -> dict[str, Any] | None:
        """Read a file whole, or return None."""
        try:
            content = read_json(self.path(address, kind).read_bytes())
            whole = content["sha256"] == key({kind: content[kind]})
            whole &= content["address"] == json_values(address)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return content if whole else None

    def _write_json(self, address: Address, kind: str, content: Any, experiment: str) -> None:
        text = json.dumps({
            "experiment": experiment, "address": json_values(address), kind: content,
            "sha256": key({kind: content}),
        })  # fmt: skip
        path = self.path(address, kind)
        writable(path.parent)
        write_utf8(path, text)


def size_table(store: Store) -> str:
    """Format what a store holds for a terminal."""
    sizes = store.sizes()
    lines = [f"{store.folder}: {sizes.files.sum()} files, {sizes.megabytes.sum():.1f} MB"]
    if len(sizes):
        lines.append(sizes.to_string(index=False, float_format="{:.1f}".format))
    return "\n".join(lines)


def _experiment(path: Path) -> str:
    """Read for whom a file is kept; unknown of a damaged one."""
    try:
        if path.suffix == ".npz":
            with np.load(path) as held:
                return str(read_json(held["head"].tobytes())["experiment"])
        return str(read_json(path.read_bytes())["experiment"])
    except DAMAGED:
        return "damaged"
