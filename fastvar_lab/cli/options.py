"""Options that several commands share, and functions that turn them into objects."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # imported when a command runs, to keep help and errors fast
    from concurrent.futures import Executor

    from fastvar_lab.evaluators.benchmark_plans import BenchmarkPlan
    from fastvar_lab.models.model import Model
    from fastvar_lab.models.spec import ModelSpec
    from fastvar_lab.prompts import PromptSet
    from fastvar_lab.sampling import Sampling
    from fastvar_lab.scales import Sizes
    from fastvar_lab.seam import Method
    from fastvar_lab.store import Store

RATIOS = "share of tokens pruned at each scale, such as -2:0.5,-1:0.75 or 24:0.5,32:0.75"

FOLDERS = {
    **dict.fromkeys(("out", "execute", "html", "copy"), "output"),
    "store": "store",
    "features": "features",
}
"""Options that name a folder to write to, and what messages call it."""


def path(text: str) -> Path:
    """Read a path of the command line; a leading `~` is the home folder, in `--out=~/x` too."""
    from fastvar_lab.files import expanded

    return expanded(text)


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add --device."""
    parser.add_argument("--device", default="cpu", help="cpu or cuda")


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add --model, --weights, --device, --dtype, --lora and --lora-scale."""
    parser.add_argument(
        "--model", default="tiny", help="name of a model; the models command lists them"
    )
    parser.add_argument("--weights", help="folder of weights, or random; default: shipped weights")
    add_device(parser)
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16", "int8"),
        help="precision of the weights; int8 computes in float32",
    )
    parser.add_argument("--lora", help="file or folder of a LoRA that is put on the model")
    parser.add_argument(
        "--lora-scale", type=float, default=1.0, help="factor of the LoRA, 1 as trained"
    )


def add_seed(parser: argparse.ArgumentParser) -> None:
    """Add --seed."""
    parser.add_argument("--seed", type=int, default=0, help="seed of all random draws")


def add_method(parser: argparse.ArgumentParser, default: str) -> None:
    """Add --ratios and --method; `default` describes the method without them."""
    parser.add_argument("--ratios", help=f"{RATIOS}; default: {default}")
    parser.add_argument(
        "--method",
        help="a method as Python, such as 'Merge({-1: 0.5})', the file of a plan, or planned-2x "
        "for a planned schedule that ships",
    )


def add_cells(parser: argparse.ArgumentParser) -> None:
    """Add --store and --known, and --workers and --scheduler for what is missing there."""
    parser.add_argument("--store", type=path, help="folder of known results")
    parser.add_argument(
        "--known", type=path, metavar="DIR", help="folder of figures whose data are known, too"
    )
    parser.add_argument("--workers", type=int, default=0, help="processes beside this one")
    parser.add_argument("--scheduler", help="address of a running dask cluster")


def add_prompts(parser: argparse.ArgumentParser) -> None:
    """Add --prompts."""
    parser.add_argument(
        "--prompts", help="text file of prompts, geneval or closed-world; default: the model's"
    )


def add_benchmark(parser: argparse.ArgumentParser, named: bool = False) -> None:
    """Add the name of a benchmark, as an option if `named`, and what its prompts are read from."""
    names = "geneval, mjhq, imagenet, hps, imagereward, closed-world or prompts"
    if named:
        parser.add_argument("--benchmark", help=f"of pictures made elsewhere: {names}")
    else:
        parser.add_argument("benchmark", help=names)
    parser.add_argument("--data", type=path, help="folder or file of the benchmark's prompts")
    parser.add_argument("--category", help="category of MJHQ-30K")
    parser.add_argument("--n", type=int, help="number of prompts; default: all")
    parser.add_argument("--images", type=int, help="pictures for each prompt; default: the paper's")
    parser.add_argument("--format", help="png or jpg; default: the benchmark's")


def add_metrics(parser: argparse.ArgumentParser) -> None:
    """Add --metrics."""
    parser.add_argument("--metrics", help="names of more metrics, with commas between")


def alone(
    args: argparse.Namespace,
    add_arguments: Callable[[argparse.ArgumentParser], None],
    option: str,
    beside: Sequence[str] = (),
) -> None:
    """Raise ValueError for options of a command that are given beside one that would drop them.

    `beside` are the names, in `args`, of that option and of those that it reads.
    """
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    for name, default in vars(parser.parse_args([])).items():
        if name not in beside and getattr(args, name) != default:
            raise ValueError(f"{option} takes no --{name.replace('_', '-')}")


def check(args: argparse.Namespace, argv: Sequence[str]) -> None:
    """Raise ValueError for options that can be refused before a command does anything.

    Nothing that this needs imports torch, which takes seconds.
    """
    from fastvar_lab.methods.ratios import parse_ratios
    from fastvar_lab.models.names import check_name
    from fastvar_lab.scales import parse_size

    for argument in argv:
        option, _, value = argument.partition("=")
        if option.startswith("--") and value == "--":  # argparse would read an empty list
            raise ValueError(f"{option} takes a value; not '--'")
    if getattr(args, "workers", 0) < 0:
        raise ValueError(f"--workers must be 0 or more; not {args.workers}")
    if "model" in args and "weights" in args:  # of `add_model`
        check_name(args.model)
    if getattr(args, "ratios", None) is not None:
        parse_ratios(args.ratios)
    sizes = getattr(args, "size", None)
    for size in [sizes] if isinstance(sizes, str) else sizes or ():
        parse_size(size)
    for name, label in FOLDERS.items():
        path = getattr(args, name, None)
        if path is not None:
            nearest = next(p for p in (path, *path.absolute().parents) if p.exists())
            if not nearest.is_dir():
                reason = f"{nearest} is not a folder"
                raise ValueError(f"cannot make the {label} folder {path}: {reason}")


def prompts(args: argparse.Namespace) -> PromptSet | None:
    """Return the prompt set of --prompts, by name or from a file; None without it."""
    from fastvar_lab.prompts import ClosedWorld, PromptFile

    if args.prompts == "geneval":
        from fastvar_lab.evaluators.geneval_pictures import GenEvalPrompts

        return GenEvalPrompts(device=getattr(args, "device", "cpu"))
    if args.prompts == ClosedWorld.name:
        return ClosedWorld()
    return None if args.prompts is None else PromptFile(path(args.prompts))


def metrics(args: argparse.Namespace) -> list[str] | None:
    """Return the names of --metrics; raises ValueError for one that is not known."""
    from fastvar_lab.measure import quality

    chosen = names(args.metrics) if args.metrics else None
    quality.chosen(chosen)
    return chosen


def names(text: str) -> list[str]:
    """Split names at commas, with or without spaces."""
    return [name.strip() for name in text.split(",")]


def plan(args: argparse.Namespace, **more: Any) -> BenchmarkPlan:
    """Return the plan of a benchmark; raises ValueError for options that do not fit it."""
    from fastvar_lab.evaluators.benchmark_plans import BenchmarkPlan
    from fastvar_lab.evaluators.benchmarks import find

    mark = find(args.benchmark)
    return BenchmarkPlan(mark, args.data, args.category, args.n, args.images, args.format, **more)


def spec(args: argparse.Namespace) -> ModelSpec:
    """Return how to open the model of the options of `add_model`."""
    from fastvar_lab.models.spec import ModelSpec

    dtype = args.dtype or "float32"
    return ModelSpec(args.model, args.weights, args.device, dtype, args.lora, args.lora_scale)


def open_model(args: argparse.Namespace) -> Model:
    """Open the model of the options of `add_model`, once a process."""
    return spec(args).open()


def method(args: argparse.Namespace) -> Method | None:
    """Return the method of --ratios or --method, None without them.

    Raises ValueError for both, for invalid ratios, and for what is no method.
    """
    if args.method is not None and args.ratios is not None:
        raise ValueError("--ratios and --method exclude each other; give at most one")
    if args.method is not None:
        from fastvar_lab.methods.parse import read_method, read_method_file

        from_file = args.method.endswith(".json")
        if args.method.startswith("planned-") and not from_file:
            from fastvar_lab.planning.plans import named

            # the command that counts memory names its model otherwise
            name = args.model if "model" in args else args.memory
            scale = getattr(args, "guidance", None)
            if isinstance(scale, str):  # of `generate`: maybe one for each step
                scales = numbers("--guidance", scale)
                scale = max(scales) if isinstance(scales, tuple) else scales
            return named(args.method, name, scale)
        read = read_method_file if from_file else read_method
        return read(args.method)
    if args.ratios is None:
        return None
    from fastvar_lab.methods.prune import Prune
    from fastvar_lab.methods.ratios import parse_ratios

    return Prune(parse_ratios(args.ratios))


def numbers(option: str, text: str) -> float | tuple[float, ...]:
    """Read a number, or numbers with commas between."""
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{option} takes numbers such as 3 or 1,2,3; not {text!r}") from None
    return numbers if "," in text else numbers[0]


def sizes_to(model: Model, size: str | None) -> Sizes | None:
    """Return the model's schedule up to the map `size`; None if `size` is None."""
    from fastvar_lab import scales

    return None if size is None else model.sizes_to(*scales.parse_size(size))


@contextmanager
def cells(args: argparse.Namespace) -> Iterator[tuple[Store, Executor | None]]:
    """Give the store of --store and --known, and the executor of --workers or --scheduler."""
    from fastvar_lab.experiments.committed import Committed
    from fastvar_lab.experiments.workers import executor as workers
    from fastvar_lab.store import Store

    store = Store(args.store, None if args.known is None else Committed(args.known))
    with workers(args.workers, args.scheduler) as executor:
        if not store.folder.exists():  # a store with all that is needed may be read-only
            store.prepare()
        yield store, executor


def say_what_random_weights_mean(args: argparse.Namespace) -> None:
    """Print one line on stderr if the weights are random: pictures then mean nothing."""
    if args.weights == "random":
        print("fastvar-lab: random weights: pictures and scores mean nothing", file=sys.stderr)


def say_where_planned(
    method: Method, model: Model, sizes: Sizes | None = None, sampling: Sampling | None = None
) -> None:
    """Print one line on stderr if a plan was made for other weights, maps or guidance."""
    from fastvar_lab.planning.planner import planned_on

    origin = getattr(method, "origin", "")
    here = planned_on(model, model.grids(sizes), sampling or model.sampling)
    if origin and not origin.startswith(f"{here},"):
        print(f"fastvar-lab: the schedule was planned on {origin}; this is {here}", file=sys.stderr)
