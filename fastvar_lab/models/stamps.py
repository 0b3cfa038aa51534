"""Stamps: what changes when a model computes something else, cheap enough to ask every time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

HOOKS = ("_forward_hooks", "_forward_pre_hooks")
SMALL = 2**18  # bytes, below which tensors are summed up together
COLUMNS = 4093  # a prime: tensors that are laid out otherwise do not fall onto their old places


@torch.no_grad()
def checksums(parts: Iterable[nn.Module]) -> tuple[int, ...]:
    """Sum up the bits of all parameters and buffers, weighted by place, on their device.

    Notices writes that raise no version counter, such as those through `.data`. Reads all weights
    once: 4 GB a second on one CPU core, at memory's speed on a GPU.
    """
    tensors = [t for part in parts for t in (*part.parameters(), *part.buffers()) if not t.is_meta]
    sums, small = dict[torch.device, list[Tensor]](), dict[torch.device, list[Tensor]]()
    for tensor in tensors:
        octets = _octets(tensor)
        if octets.numel() < SMALL:
            small.setdefault(tensor.device, []).append(octets)
        else:
            sums.setdefault(tensor.device, []).append(_sum(octets))
    for device, many in small.items():
        sums.setdefault(device, []).append(_sum(torch.cat(many)))
    return tuple(int(n) for each in sums.values() for n in torch.stack(each).tolist())


def _octets(tensor: Tensor) -> Tensor:
    """View a tensor's values as bytes, in the order in which they lie."""
    dense = tensor.detach()
    if dense.is_quantized:
        dense = dense.int_repr()
    elif dense.layout != torch.strided:
        dense = dense.to_dense()
    dense = dense.t() if dense.dim() == 2 and dense.t().is_contiguous() else dense.contiguous()
    return dense.reshape(-1).view(torch.uint8)


def _sum(octets: Tensor) -> Tensor:
    """Sum up bytes as the columns of a matrix of words, each column with a weight of its own."""
    whole = octets.numel() // 8 * 8 if octets.data_ptr() % 8 == 0 else 0
    integers = octets[:whole].view(torch.int64)
    rows = integers.numel() // COLUMNS
    columns = integers[: rows * COLUMNS].view(rows, COLUMNS).sum(0)
    parts = torch.cat((columns, integers[rows * COLUMNS :], octets[whole:].to(torch.int64)))
    mixed = parts ^ (parts >> 31)  # otherwise a change of high bits alone may cancel out
    places = torch.arange(1, len(parts) + 1, device=octets.device) * 2 + 1
    return (mixed * places).sum()


def hooks(parts: Iterable[nn.Module]) -> dict[str, dict[int, Any]]:
    """Return the forward hooks of modules, which decide what is computed.

    By the module's name and the number of the hook's handle, which no other hook gets.
    """
    return {
        f"{part._get_name()}.{name}{table}": dict(getattr(module, table))
        for part in parts
        for name, module in part.named_modules()
        for table in HOOKS
        if getattr(module, table)
    }
