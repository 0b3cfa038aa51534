"""The training loop: seeded by step, with checkpoints, resumable after it was killed."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
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


def train(
    model: nn.Module,
    loss: Callable[[int], tuple[Tensor, dict[str, float]]],
    *,
    steps: int,
    peak: float,
    betas: tuple[float, float],
    weight_decay: float,
    checkpoint: Path,
    resume: bool = False,
    warmup: int = 100,
    log_every: int = 50,
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
    first, spent = 0, 0.0
    if resume and checkpoint.exists():
        try:
            state = torch.load(checkpoint, map_location="cpu", weights_only=True)
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            first, spent = state["step"], state["seconds"]
        except Exception as error:  # a damaged pickle raises whatever its bytes happen to ask for
            raise ValueError(
                f"cannot resume from {checkpoint}: it is damaged or of another model"
            ) from error

    def save(step: int) -> None:
        state: dict[str, Any] = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        state |= {"step": step, "seconds": spent + time.monotonic() - begin}
        write(checkpoint, lambda partial: torch.save(state, partial))

    stopped = list[int]()

    def stop(number: int, _: object) -> None:
        stopped.append(number)  # handled between two steps, so that no half step is saved

    # Python handles signals in the main thread alone
    main = threading.current_thread() is threading.main_thread()
    signals = (signal.SIGTERM, signal.SIGINT) if main else ()
    previous = dict[int, Any]()
    begin = saved = time.monotonic()
    bar = tqdm(range(first, steps), initial=first, total=steps, desc=checkpoint.stem, mininterval=2)
    done = first
    try:
        for number in signals:
            previous[number] = signal.signal(number, stop)
        for step in bar:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, steps, warmup, peak)
            value, logs = loss(step)
            if not torch.isfinite(value):
                raise ValueError(f"the loss of step {step} is {float(value)}; lower the peak rate")
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            done = step + 1
            if step % log_every == 0:
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
    return spent + time.monotonic() - begin
