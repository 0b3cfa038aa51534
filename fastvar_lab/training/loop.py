"""The training loop: seeded by step, with checkpoints, resumable after it was killed."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from fastvar_lab.files import write

SAVE_EVERY = 120.0  # seconds between checkpoints


def learning_rate(step: int, steps: int, warmup: int, peak: float) -> float:
    """Return the learning rate: linear warm-up to `peak`, then linear decay to 2 % of it."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * max(0.02, 1 - (step - warmup) / max(1, steps - warmup))


Loss = Callable[[int], tuple[Tensor, dict[str, float]]]


def train(
    model: nn.Module,
    loss: Loss,
    *,
    steps: int,
    peak: float,
    betas: tuple[float, float],
    weight_decay: float,
    checkpoint: Path,
    resume: bool = False,
    warmup: int = 100,
) -> float:
    """Run `steps` optimiser steps of `loss(step)`; return the seconds spent, resumed ones included.

    The loss must depend on the weights and the step alone, so that a resumed run sees the same
    data. The checkpoint is replaced atomically every two minutes and on Ctrl-C or SIGTERM. Raises
    ValueError for a damaged checkpoint, and for a loss that is not finite.
    """
    decay = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    plain = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0}]
    optimizer = torch.optim.AdamW(groups, lr=peak, betas=betas)
    state = read_checkpoint(checkpoint) if resume and checkpoint.exists() else {}
    first = 0 if state.get("phase") else _fill(model, optimizer, state, checkpoint)
    spent = state["seconds"] if first else 0.0
    rates = partial(learning_rate, steps=steps, warmup=warmup, peak=peak)
    return spent + _run(model, optimizer, loss, rates, first, steps, checkpoint, "", spent)


def pretrain(
    phase: str,
    model: nn.Module,
    loss: Loss,
    *,
    steps: int,
    peak: float,
    betas: tuple[float, float],
    weight_decay: float,
    warmup: int,
    checkpoint: Path | None,
    resume: bool,
) -> None:
    """Run the optimiser steps of a `phase` that comes before `train`, which has its checkpoint.

    Nothing runs if that is of a later phase. All else as in `train`; without a checkpoint nothing
    is saved.
    """
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=peak, betas=betas, weight_decay=weight_decay
    )
    first, spent = 0, 0.0
    if checkpoint is not None and resume and checkpoint.exists():
        state = read_checkpoint(checkpoint)
        if state.get("phase") != phase:
            return
        first, spent = _fill(model, optimizer, state, checkpoint), state["seconds"]
    rates = partial(learning_rate, steps=steps, warmup=warmup, peak=peak)
    _run(model, optimizer, loss, rates, first, steps, checkpoint, phase, spent)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint: step, steps, seconds, phase, and the states of model and optimiser.

    Raises ValueError for a damaged one.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        return {"phase": "", **state, "step": int(state["step"])}
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to ask for
        raise _unfit(path) from error


def _fill(
    model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any], checkpoint: Path
) -> int:
    """Fill model and optimiser from a checkpoint, if there is one; return the steps done."""
    if not state:
        return 0
    try:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        float(state["seconds"])
    except Exception as error:  # tensors of other shapes or names, or none
        raise _unfit(checkpoint) from error
    return int(state["step"])


def _unfit(checkpoint: Path) -> ValueError:
    return ValueError(f"cannot resume from {checkpoint}: it is damaged or of another model")


def _run(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    rate: Callable[[int], float],
    first: int,
    steps: int,
    checkpoint: Path | None,
    phase: str,
    spent: float,
    log_every: int = 50,
) -> float:
    """Run optimiser steps from `first` on, with checkpoints; return the seconds that they took."""

    def save(step: int) -> None:
        state: dict[str, Any] = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        state |= {"step": step, "seconds": spent + time.monotonic() - begin}
        state |= {"phase": phase, "steps": steps} if phase else {}
        if checkpoint is not None:
            write(checkpoint, lambda partial: torch.save(state, partial))

    stopped = list[int]()

    def stop(number: int, _: object) -> None:
        stopped.append(number)  # handled between two steps, so that no half step is saved

    # Python handles signals in the main thread alone
    main = threading.current_thread() is threading.main_thread()
    signals = (signal.SIGTERM, signal.SIGINT) if main and checkpoint is not None else ()
    previous = dict[int, Any]()
    begin = saved = time.monotonic()
    title = phase or (checkpoint.stem if checkpoint is not None else None)
    bar = tqdm(range(first, steps), initial=first, total=steps, desc=title, mininterval=2)
    done = first
    try:
        for number in signals:
            previous[number] = signal.signal(number, stop)
        for step in bar:
            for group in optimizer.param_groups:
                group["lr"] = rate(step)
            value, logs = loss(step)
            if not torch.isfinite(value):
                raise ValueError(f"the loss of step {step} is {float(value)}; lower the peak rate")
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            done = step + 1
            if logs and (phase or step % log_every == 0):
                bar.write(f"{step} " + " ".join(f"{k} {v:.4f}" for k, v in logs.items()))
            leaving = bool(stopped)  # read once: a later signal is handled after the next step
            if leaving or done == steps or time.monotonic() - saved > SAVE_EVERY:
                save(done)
                saved = time.monotonic()
            if leaving:
                break
    finally:
        for caught, handler in previous.items():
            signal.signal(caught, handler)
    if stopped:
        raise KeyboardInterrupt
    return time.monotonic() - begin
