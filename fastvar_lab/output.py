"""JSON, pictures and figures on disk; figures are the same bytes each time."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from skimage.io import imsave

from fastvar_lab.files import write


def write_json(path: Path, content: Any) -> None:
    """Write readable JSON."""
    write(path, lambda p: p.write_text(json.dumps(content, indent=1) + "\n"))


def write_image(path: Path, image: np.ndarray) -> None:
    """Write (H, W, 3) uint8 as PNG."""
    write(path, lambda p: imsave(p, image, check_contrast=False))


def write_figure(path: str | Path, figure: Figure, dpi: int = 200) -> None:
    """Write a figure by its ending (png, pdf, svg) without dates or versions inside."""
    path = Path(path)
    drop = {".png": ["Software"], ".pdf": ["CreationDate", "Creator", "Producer"], ".svg": ["Date"]}
    metadata = dict.fromkeys(drop.get(path.suffix, []))
    with mpl.rc_context({"svg.hashsalt": "fastvar_lab"}):
        write(path, lambda p: figure.savefig(p, dpi=dpi, metadata=metadata))


def file_name(prompt: str, seed: int, pruned: bool = False) -> str:
    """Name a picture's file after its prompt, cut to what file systems take, seed and method.

    >>> file_name("a red ring", 1, pruned=True)
    'a-red-ring-1-pruned.png'
    """
    words = "-".join("".join(c if c.isalnum() else " " for c in prompt).split())
    cut = words.encode()[:100].decode(errors="ignore")
    return f"{cut}-{seed}{'-pruned' if pruned else ''}.png"


def machine(device: torch.device | str = "cpu") -> dict[str, str | int]:
    """Say what times were measured on: processor, system, threads, and the GPU of a device."""
    cpu = platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), cpu)
    except OSError:
        pass  # not Linux
    system = f"{platform.machine()} {platform.system()}"
    found: dict[str, str | int] = {"machine": system, "cpu": cpu}
    if torch.device(device).type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    return {**found, "threads": torch.get_num_threads()}


def versions() -> dict[str, str]:
    """Versions that numbers depend on."""
    return {name: version(name) for name in ("torch", "numpy", "scikit-image")}
