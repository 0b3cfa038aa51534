"""Measures the most memory that a GPU holds in a run, in a pass of its own beside timed turns."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch


def peak_bytes(device: torch.device, work: Callable[[], object]) -> int:
    """Call `work` on a GPU; return the most bytes of tensors held there meanwhile.

    What earlier runs have left is released before, so that no case counts another's. On a CPU,
    where nothing counts allocations, `work` is not called, and the result is 0.

    >>> peak_bytes(torch.device("cpu"), list)
    0
    """
    if device.type != "cuda":
        return 0
    gc.collect()  # a runner and its generation refer to each other
    torch.cuda.empty_cache()  # a block that is kept may be larger than the tensor that gets it
    torch.cuda.reset_peak_memory_stats(device)
    work()
    return torch.cuda.max_memory_allocated(device)


def out_of_memory(error: RuntimeError) -> bool:
    """Return whether an error says that memory does not suffice.

    cuBLAS and the CUDA driver report it as a plain RuntimeError.
    """
    signs = ("ALLOC_FAILED", "CUDA error: out of memory")
    return isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in signs)
