"""Captured generations: the operations of the scale loop, replayed without running its Python.

On a GPU every scale step becomes a CUDA graph. On a CPU the operations of the steps are recorded
and called again: the same fixed inputs, outputs and decisions, without a capture. What a generation
reads from outside of the loop stays at one place, and is held as long as the capture: the blank
latent and the state that the backbone begins with are copied there, and noise is drawn there before
the step that reads it.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from fastvar_lab.draws import Buffered
from fastvar_lab.errors import short
from fastvar_lab.seam import Grid, Method, Rows, Runner, Wrapper

KEPT = 4
"""The number of captured generations that a model keeps: the latest ones."""

DRAWN = ("rand", "uniform", "normal", "exponential", "multinomial", "bernoulli", "geometric")


class CannotCapture(ValueError):
    """A generation does what a captured graph cannot repeat."""


class Watched(TorchDispatchMode):
    """Raises CannotCapture for operations that a captured graph cannot repeat.

    Those are values that the host reads, shapes that follow from values, draws, and numbers sent
    from the host. Of what the host reads on a CPU, `any` is a check and no decision.
    """

    def __init__(self, method: Method, buffers: Buffered) -> None:
        super().__init__()
        self.method, self.buffers, self.grid, self.last = method, buffers, Grid(0, 1, 1), ""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.buffers.drawing:
            return func(*args, **kwargs)
        name = func._schema.name.removeprefix("aten::")
        reason = self._reason(func, name, args, kwargs)
        if reason:
            raise CannotCapture(
                f"{short(self.method)} {reason} at step {self.grid.index} ({self.grid.name}), "
                "which a captured graph cannot repeat: generate without graphs"
            )
        self.last = name
        out = func(*args, **kwargs)
        self.note(func, args, kwargs, out)
        return out

    def note(self, func: Any, args: Any, kwargs: dict[str, Any], out: Any) -> None:
        """Receive an operation that was called, and what it returned."""

    def _reason(self, func: Any, name: str, args: Any, kwargs: Mapping[str, Any]) -> str:
        """Say what cannot be repeated, as the rest of a sentence; nothing if all can."""
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        kinds = [t.dtype for t in tensors[1:]]
        if name == "_local_scalar_dense":
            check = self.last == "any" and tensors[0].device.type == "cpu"
            return "" if check else "reads a value on the host"
        indexed = name == "index" and torch.bool not in kinds and torch.uint8 not in kinds
        if torch.Tag.dynamic_output_shape in func.tags and not indexed:
            return "computes tokens whose number follows from the data"
        if name.startswith(DRAWN):
            return "draws numbers of its own"
        target = kwargs.get("device")
        if name == "_to_copy" and target is not None and torch.device(target).type == "cuda":
            sent = tensors[0].device.type == "cpu"
        else:
            sent = name == "copy_" and [t.device.type for t in tensors[:2]] == ["cuda", "cpu"]
        return "sends numbers from the host" if sent else ""


class Slot(NamedTuple):
    """The place of a tensor that the recorded operations make."""

    number: int


@dataclass
class Call:
    """A recorded operation: its arguments, where its outputs go, and the slots it uses last."""

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[int, ...]
    dead: tuple[int, ...] = ()


class Recording(Watched):
    """Records the sections of a generation, and holds the tensors that they read and did not make.

    Those were made before the capture. One that nothing holds would be freed after it, and a replay
    would read whatever lies there then.
    """

    def __init__(self, method: Method, buffers: Buffered) -> None:
        super().__init__(method, buffers)
        self.sections: list[Any] = []
        self.slots = WeakTensorKeyDictionary()  # numbers of the tensors that sections make
        self.count = 0
        self.outside: dict[int, tuple[Tensor, int]] = {}  # by id, with versions before the sections

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if self.sections:
            for leaf in tree_leaves((args, kwargs)):
                if isinstance(leaf, Tensor) and leaf not in self.slots:
                    self.outside.setdefault(id(leaf), (leaf, _version(leaf)))
        return super().__torch_dispatch__(func, types, args, kwargs)

    def note(self, func: Any, args: Any, kwargs: dict[str, Any], out: Any) -> None:
        self.made(out)

    def made(self, out: Any) -> tuple[int, ...]:
        """Return the numbers of the tensors that an operation returned."""
        return tuple(self._slot(t) for t in tree_leaves(out) if isinstance(t, Tensor))

    def _slot(self, tensor: Tensor) -> int:
        if tensor not in self.slots:
            self.slots[tensor] = self.count
            self.count += 1
        number: int = self.slots[tensor]
        return number

    def check(self, filled: Sequence[Tensor]) -> None:
        """Raise CannotCapture if sections write into what they did not make.

        A replay would begin with what the one before has left there. They may do so with the
        `filled` tensors, which every replay gets afresh.
        """
        known = {t.untyped_storage().data_ptr() for t in filled}
        for tensor, version in self.outside.values():
            if _version(tensor) != version and tensor.untyped_storage().data_ptr() not in known:
                raise CannotCapture(
                    f"{short(self.method)} writes into a tensor {tuple(tensor.shape)} that was "
                    "made before the first step, which a captured graph cannot repeat: generate "
                    "without graphs"
                )


def _version(tensor: Tensor) -> int:
    """Return a number that grows when a tensor or a view of it is written to."""
    return 0 if tensor.is_inference() else tensor._version


class Tape(Recording):
    """Records the operations of a generation in sections, and calls them again."""

    def __init__(self, method: Method, buffers: Buffered) -> None:
        super().__init__(method, buffers)
        self.sections: list[list[Call]] = []
        self.tensors: dict[int, Tensor] = {}

    def note(self, func: Any, args: Any, kwargs: dict[str, Any], out: Any) -> None:
        if self.sections:  # else it is called before the first step that runs, and no more
            call = Call(func, self._placed(args), self._placed(kwargs), ())
            call.outputs = self.made(out)
            self.sections[-1].append(call)

    def _placed(self, value: Any) -> Any:
        """Put slots in the place of recorded tensors."""
        if isinstance(value, Tensor):
            return Slot(self.slots[value]) if value in self.slots else value
        if isinstance(value, list | tuple):
            return type(value)(self._placed(v) for v in value)
        if isinstance(value, dict):
            return {k: self._placed(v) for k, v in value.items()}
        return value

    def close(self, kept: Sequence[Tensor]) -> Callable[[], list[Tensor]]:
        """Finish recording; return a function that gives `kept` tensors after a replay."""
        numbers = [self._placed(t) for t in kept]
        used = {n.number for n in numbers if isinstance(n, Slot)}
        for section in reversed(self.sections):
            lasting = list[Call]()
            for call in reversed(section):
                if not call.func._schema.is_mutable and used.isdisjoint(call.outputs):
                    continue  # such as a check
                slots = {*_slots((call.args, call.kwargs)), *call.outputs}
                call.dead = tuple(slots - used)
                used |= slots
                lasting.append(call)
            section[:] = reversed(lasting)
        self.slots = WeakTensorKeyDictionary()
        return lambda: [self._filled(n) for n in numbers]

    def _filled(self, value: Any) -> Any:
        """Put tensors in the place of slots."""
        kind = type(value)
        if kind is Slot:
            return self.tensors[value.number]
        if kind is list or kind is tuple:
            return kind([self._filled(v) for v in value])
        return value

    def replay(self, section: int) -> None:
        """Call the operations of a section again."""
        tensors, filled = self.tensors, self._filled
        with torch.autocast("cpu", enabled=False):  # its casts are recorded
            for call in self.sections[section]:
                kwargs = {k: filled(v) for k, v in call.kwargs.items()}
                out = call.func(*map(filled, call.args), **kwargs)
                outputs = (out,) if isinstance(out, Tensor) else tree_leaves(out)
                tensors.update(zip(call.outputs, outputs))
                for number in call.dead:
                    tensors.pop(number, None)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record what is called inside."""
        with self:
            yield

    def enter(self) -> None:
        """Begin a section."""
        self.sections.append([])


def _slots(value: Any) -> Iterator[int]:
    if isinstance(value, Slot):
        yield value.number
    elif isinstance(value, list | tuple):
        for v in value:
            yield from _slots(v)
    elif isinstance(value, dict):
        yield from _slots(list(value.values()))


class CudaGraphs(Recording):
    """Captures the kernels of a generation in sections, as CUDA graphs with one memory pool."""

    def __init__(self, method: Method, buffers: Buffered) -> None:
        super().__init__(method, buffers)
        self.device, self.pool = buffers.device, torch.cuda.graph_pool_handle()

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Capture what is launched inside, on a stream of its own."""
        stream = torch.cuda.Stream(self.device)
        torch.cuda.synchronize(self.device)
        gc.collect()
        torch.cuda.empty_cache()  # the pool of graphs cannot use what the allocator keeps
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.device(self.device), torch.cuda.stream(stream), self:
            try:
                yield
                self.sections[-1].capture_end()
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                raise CannotCapture(
                    f"CUDA cannot capture this generation ({short(error)}): generate without graphs"
                ) from error
            finally:
                if torch.cuda.is_current_stream_capturing():  # after an error
                    with suppress(RuntimeError):
                        self.sections[-1].capture_end()
        torch.cuda.current_stream(self.device).wait_stream(stream)

    def enter(self) -> None:
        """Begin a section."""
        if self.sections:
            self.sections[-1].capture_end()
        self.sections.append(torch.cuda.CUDAGraph())
        self.sections[-1].capture_begin(pool=self.pool, capture_error_mode="thread_local")

    def close(self, kept: Sequence[Tensor]) -> Callable[[], list[Tensor]]:
        """Return a function that gives `kept` tensors, which stay where they are."""
        return lambda: list(kept)

    def replay(self, section: int) -> None:
        """Launch the kernels of a section."""
        with torch.cuda.device(self.device):
            self.sections[section].replay()


class Boundary(Wrapper):
    """Tells when a scale step begins that runs."""

    def __init__(self, inner: Runner, enter: Callable[[Grid], None], skipped: set[int]) -> None:
        super().__init__(inner)
        self.enter, self.skipped = enter, skipped

    def rows(self, grid: Grid, canvas: Tensor) -> Rows | None:
        if grid.index not in self.skipped:
            self.enter(grid)
        return self.inner.rows(grid, canvas)


class Recorder:
    """Runs a generation once to warm up, and once to capture it.

    `wrap` wraps the runner of both, whose stream is `buffers`.
    """

    def __init__(self, method: Method, skipped: set[int], buffers: Buffered) -> None:
        self.method, self.skipped, self.buffers = method, skipped, buffers
        self.watched = Watched(method, buffers)
        on_gpu = buffers.device.type == "cuda"
        self.recording: Tape | CudaGraphs | None = None
        self._new = partial(CudaGraphs if on_gpu else Tape, method, buffers)

    def wrap(self, runner: Runner) -> Runner:
        """Wrap a runner, to learn when its steps begin."""
        return Boundary(runner, self._enter, self.skipped)

    def _enter(self, grid: Grid) -> None:
        self.buffers.section += 1
        self.watched.grid = grid
        if self.recording is not None:
            self.recording.grid = grid
            self.recording.enter()

    @contextmanager
    def warming(self) -> Iterator[None]:
        """Run a generation inside, whose operations are checked."""
        self.buffers.section = -1
        with self.watched:
            yield

    @contextmanager
    def capturing(self) -> Iterator[Tape | CudaGraphs]:
        """Run the same generation inside, which is captured."""
        self.buffers.restart()
        self.recording = self._new()
        torch.clear_autocast_cache()  # casts from before the capture follow no later weights
        with self.recording.recording():
            yield self.recording


class Output(NamedTuple):
    """What a generation leaves: the latent, the tokens of its steps, and where numbers are none."""

    canvas: Tensor
    tokens: list[Tensor | None]
    noted: list[tuple[int, Tensor]]


class Captured:
    """A captured generation: `inputs` and noise are written, and its sections replayed."""

    def __init__(
        self,
        recording: Tape | CudaGraphs,
        buffers: Buffered,
        inputs: Sequence[Tensor],
        output: Output,
        holds: object,
    ) -> None:
        recording.check([*inputs, *(noise.buffer for noise in buffers.held.values())])
        self.recording, self.buffers, self.inputs = recording, buffers, list(inputs)
        self.holds = holds  # what the sections write to, such as the cache
        self.steps, self.drawn = [step for step, _ in output.noted], output.tokens
        kept = [output.canvas, *(t for t in output.tokens if t is not None)]
        self.kept = recording.close([*kept, *(wrong for _, wrong in output.noted)])

    def replay(self, inputs: Sequence[Tensor], seeds: Sequence[int]) -> Output:
        """Generate from other inputs of the same shapes, with other noise."""
        for held, fresh in zip(storages(self.inputs), storages(inputs), strict=True):
            held.copy_(fresh)
        self.buffers.seeds = tuple(seeds)
        for section in range(self.buffers.section + 1):
            self.buffers.refill(section)
            self.recording.replay(section)
        canvas, *rest = self.kept()
        tokens = [None if t is None else rest.pop(0).clone() for t in self.drawn]
        return Output(canvas.clone(), tokens, list(zip(self.steps, rest, strict=True)))


class Graphs:
    """The captured generations of a model, the latest first; `clear` releases their memory."""

    def __init__(self) -> None:
        self._held: list[tuple[tuple[Any, ...], Captured]] = []

    def __len__(self) -> int:
        return len(self._held)

    def __reduce__(self) -> tuple[type[Graphs], tuple[()]]:
        return Graphs, ()  # a copy of a model has captured nothing

    def clear(self) -> None:
        """Release all captured generations, and the memory that they hold."""
        self._held.clear()
        gc.collect()  # a runner and its generation refer to each other

    def find(self, key: tuple[Any, ...]) -> Captured | None:
        """Return the captured generation of a key, if there is one."""
        for place, (known, captured) in enumerate(self._held):
            if _same(known, key):
                self._held.insert(0, self._held.pop(place))
                return captured
        return None

    def keep(self, key: tuple[Any, ...], captured: Captured) -> None:
        """Keep a captured generation; the one that was used least lately goes if there are many."""
        self._held.insert(0, (key, captured))
        del self._held[KEPT:]


def _same(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    """Return whether two keys are equal; False if they hold arrays, which cannot be compared."""
    try:
        return bool(one == other)
    except (RuntimeError, ValueError):  # comparing arrays gives no single answer
        return False


def storages(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the bytes that tensors lie in, each once, whatever part of them they show."""
    held = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in tensors}
    return [torch.empty(0, dtype=torch.uint8, device=s.device).set_(s) for s in held.values()]


def tensors_of(state: Any, apart: str = "cache") -> list[Tensor]:
    """Return the tensors of a backbone's state in a fixed order, but for the field `apart`."""
    if isinstance(state, Tensor):
        return [state]
    if is_dataclass(state):
        parts = [getattr(state, f.name) for f in fields(state) if f.name != apart]
    elif isinstance(state, Mapping):
        parts = list(state.values())
    elif isinstance(state, list | tuple):
        parts = list(state)
    else:
        return []
    return [tensor for part in parts for tensor in tensors_of(part)]
