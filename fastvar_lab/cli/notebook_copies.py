"""Copies of the notebooks that come with the package, for those who installed it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from fastvar_lab.errors import unknown
from fastvar_lab.files import folder, write

REPOSITORY = Path(__file__).parents[2]
SHOWN = re.compile(r"\]\(\.\./(figures/[^)]+)\)")


def shipped() -> dict[str, Path]:
    """Return the notebooks by name: those of the repository, or of the installed package.

    Raises ValueError if neither has any.
    """
    places = (REPOSITORY, REPOSITORY / "share" / "fastvar-lab")  # the second: pip's --target
    paths = next((p for p in ([*(x / "notebooks").glob("*.ipynb")] for x in places) if p), [])
    if not paths:
        try:
            installed = files("fastvar-lab") or []
        except PackageNotFoundError:
            installed = []
        paths = [Path(str(path.locate())) for path in installed if path.suffix == ".ipynb"]
    if not paths:
        raise ValueError("this installation has no notebooks; install the package from its wheel")
    return {path.stem: path.resolve() for path in sorted(paths)}


def copy(place: Path, names: Sequence[str] = ()) -> list[Path]:
    """Copy notebooks, default all, and the pictures that their text shows; return the notebooks.

    Pictures go to the folder `figures` beside them. Raises ValueError for an unknown name, and
    OSError, before anything is copied, if a file is there already.
    """
    known = shipped()
    for name in names:
        if name not in known:
            raise unknown("notebook", name, known)
    contents = dict[Path, bytes]()
    for path in [known[name] for name in names] or known.values():
        text = path.read_text(encoding="utf-8")
        contents[place / path.name] = SHOWN.sub(r"](\1)", text).encode()
        for picture in SHOWN.findall(text):
            contents[place / picture] = (path.parent.parent / picture).read_bytes()
    for target in contents:
        if target.exists():
            raise OSError(f"{target} exists; copy to another folder, or remove it")
    for target, content in contents.items():
        folder(target.parent)
        write(target, lambda partial, data=content: partial.write_bytes(data))  # type: ignore[misc]
    return [target for target in contents if target.suffix == ".ipynb"]
