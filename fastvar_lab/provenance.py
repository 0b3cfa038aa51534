"""Where numbers are from: machine and versions."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path

import torch


def machine(device: torch.device | str = "cpu") -> dict[str, str | int]:
    """Say what times were measured on: processor, system, threads, and the GPU of a device."""
    cpu = platform.processor()  # its name is what neither this nor psutil tells on Linux
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
