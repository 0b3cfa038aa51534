"""The commands: `python -m fastvar_lab COMMAND`, also installed as `fastvar-lab`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RATIOS_HELP = "share pruned by scale: -2:0.5,-1:0.75 or 24:0.5,32:0.75"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fastvar-lab",
        description="Visual autoregressive generation with cached token pruning, seen from inside.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="one prompt in full and with FastVAR, measured")
    demo.add_argument("--prompt", help="default: a red striped circle left of a blue square")
    demo.add_argument("--ratios", default="-2:0.5,-1:0.75", help=RATIOS_HELP)
    demo.add_argument("--out", type=Path, default=Path("demo"), help="folder for the results")
    demo.set_defaults(run=_demo)

    generate = commands.add_parser("generate", help="write a picture for every prompt")
    generate.add_argument("prompt", nargs="+")
    generate.add_argument("--ratios", help=f"{RATIOS_HELP}; default: no pruning")
    generate.add_argument("--out", type=Path, default=Path("."), help="folder for the pictures")
    generate.add_argument("--size", help="final token map, 32 or 32x48 (height x width)")
    generate.add_argument("--paper", action="store_true", help="prune as the paper does this model")
    generate.add_argument("--pn", help="pixel budget of an Infinity: 0.06M, 0.25M, 0.60M or 1M")
    generate.add_argument("--aspect", type=float, help="height over width of an Infinity, e.g. 1.5")
    generate.add_argument("--features", type=Path, help="folder that keeps prompts once encoded")
    generate.add_argument("--download", action="store_true", help="fetch weights from the hub")
    generate.add_argument("--precision", default="float32", help="float32, or official: released")
    generate.add_argument("--instruction", type=Path, help="file of HART's instruction text")
    generate.set_defaults(run=_generate)

    listing = commands.add_parser("models", help="list every model, its files, what it needs")
    listing.add_argument("--weights", type=Path, help="folder to look for files in")
    listing.add_argument("--json", action="store_true", help="print JSON")
    listing.set_defaults(run=_models)

    evaluate = commands.add_parser("evaluate", help="score the embedded model on its tasks")
    evaluate.add_argument("--n", type=int, default=200, help="pictures")
    evaluate.add_argument("--ratios", help=f"{RATIOS_HELP}; default: no pruning")
    evaluate.add_argument("--json", action="store_true", help="print JSON")
    evaluate.add_argument(
        "--judge", action="store_true", help="score the judge on N scenes instead"
    )
    evaluate.set_defaults(run=_evaluate)

    bench = commands.add_parser("bench", help="time full and pruned generation")
    bench.add_argument("--repeats", type=int, default=5, help="timed runs of each, after a warm-up")
    bench.add_argument("--case", default="", help="only cases whose name contains this")
    bench.add_argument("--json", action="store_true", help="print JSON")
    bench.set_defaults(run=_bench)

    experiment = commands.add_parser("experiment", help="answer a question with measurements")
    experiment.add_argument("names", nargs="*", help="which; without any, they are listed")
    experiment.add_argument("--quick", action="store_true", help="a smoke run")
    experiment.add_argument("--paper", action="store_true", help="as many prompts as claims need")
    experiment.add_argument("--workers", type=int, default=0, help="processes beside this one")
    experiment.add_argument("--scheduler", help="address of a running dask cluster")
    experiment.add_argument("--store", type=Path, help="folder of known cells")
    experiment.add_argument("--out", type=Path, help="folder for NAME.csv and NAME.png")
    experiment.set_defaults(run=_experiment)

    figures = commands.add_parser("figures", help="draw figures again, with their data")
    figures.add_argument("names", nargs="*", help="which; default: those of pictures")
    figures.add_argument("--all", action="store_true", help="all, experiments included")
    figures.add_argument("--list", action="store_true", help="list the names")
    figures.add_argument("--check", action="store_true", help="redraw from the data; compare")
    figures.add_argument("--quick", action="store_true", help="few prompts: never for committing")
    figures.add_argument("--format", default="png,pdf", help="endings, of png, pdf and svg")
    figures.add_argument("--store", type=Path, help="folder of known cells")
    figures.add_argument("--out", type=Path, default=Path("figures"))
    figures.set_defaults(run=_figures)

    claims = commands.add_parser("claims", help="the paper's claims against measurements here")
    claims.add_argument("--quick", action="store_true", help="few prompts: never for committing")
    claims.add_argument("--store", type=Path, help="folder of known cells")
    claims.add_argument("--out", type=Path, default=Path("figures"), help="folder of claims.md")
    claims.set_defaults(run=_claims)

    train = commands.add_parser("train", help="train the embedded model's tokenizer or transformer")
    train.add_argument("part", choices=("tokenizer", "transformer"))
    train.add_argument("--out", type=Path, default=Path("runs"), help="folder for weights")
    train.add_argument("--steps", type=int, help="optimiser steps")
    train.add_argument("--batch", type=int, help="pictures per step")
    train.add_argument("--peak", type=float, help="highest learning rate")
    train.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    train.add_argument("--from", dest="start", type=Path, help="start from a folder of weights")
    train.add_argument("--grown", type=float, default=0.0, help="share of the growth to skip")
    train.add_argument("--reading", type=int, help="steps that teach a new text encoder to read")
    train.add_argument("--decoder-only", action="store_true", help="leave the encoder as it is")
    train.set_defaults(run=_train)

    for command in (demo, generate, evaluate, experiment, figures, claims, train, bench):
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--device", default="cpu", help="cpu or cuda")
    for command in (demo, generate, evaluate, bench, experiment, figures, claims):
        command.add_argument("--weights", help="folder of weights, or random; default: shipped")
    for command in (generate, bench, experiment):
        command.add_argument("--model", default="tiny", help="see the models command")
    for command in (generate, bench):
        command.add_argument("--dtype", choices=("float32", "bfloat16", "float16"))
    bench.add_argument("--depth", type=int, help="only so many layers of the model")
    return parser


def _demo(args: argparse.Namespace) -> None:
    from fastvar_lab import demo, loading
    from fastvar_lab.methods.presets import parse_ratios
    from fastvar_lab.methods.prune import Prune
    from fastvar_lab.world.grammar import parse

    method = Prune(parse_ratios(args.ratios))
    prompt = demo.PROMPT if args.prompt is None else args.prompt
    parse(prompt)
    model = loading.load(weights=args.weights, device=args.device)
    report = demo.demo(model, prompt, method, args.seed, args.out)
    print(demo.table(report))
    print(f"pictures and numbers are in {args.out}/")


def _generate(args: argparse.Namespace) -> None:
    import torch

    from fastvar_lab import loading, scales
    from fastvar_lab.files import folder
    from fastvar_lab.generate import generate
    from fastvar_lab.methods.presets import paper_preset, parse_ratios
    from fastvar_lab.methods.prune import Dense, Prune
    from fastvar_lab.output import file_name, write_image
    from fastvar_lab.pictures import to_uint8
    from fastvar_lab.world.grammar import parse

    if args.ratios and args.paper:
        raise ValueError("--ratios and --paper both say what to prune; give one")
    method = Prune(parse_ratios(args.ratios)) if args.ratios else Dense()
    sizes, size = None, scales.parse_size(args.size) if args.size else None
    if args.model == "tiny":
        for prompt in args.prompt:
            parse(prompt)
    if args.model.startswith("infinity"):
        aspect = args.aspect or (size[0] / size[1] if size else 1.0)
        found = scales.templates(aspect)
        if args.aspect and len(found) > 1:
            raise ValueError(
                f"--aspect must be one of {', '.join(map(str, scales.ASPECTS))}; not {aspect} "
                f"(nearest: {found[0]} and {found[1]})"
            )
        if args.pn or args.aspect or size:
            sizes = scales.infinity(aspect, args.pn or "1M")
    elif args.pn or args.aspect:
        raise ValueError(f"--pn and --aspect go with an Infinity; not with {args.model}")
    model = loading.load(
        args.model,
        args.weights,
        args.device,
        getattr(torch, args.dtype or "float32"),
        args.seed,
        download=args.download,
        precision=args.precision,
        features=args.features,
        instruction=args.instruction,
        sizes=sizes,
    )
    if size:
        model.sizes = scales.stretch(model.sizes, *size)
    if args.paper:
        method = paper_preset(args.model, len(model.sizes), model.depth)
    folder(args.out)
    made = generate(model, args.prompt, method, seed=args.seed, progress=True)
    for i, image in enumerate(to_uint8(model.decode(made.canvas))):
        path = args.out / file_name(args.prompt[i], made.request.seeds[i])
        write_image(path, image)
        print(path)


def _models(args: argparse.Namespace) -> None:
    from fastvar_lab import catalog

    rows = catalog.catalog(args.weights)
    print(json.dumps(rows, indent=1) if args.json else catalog.table(rows))


def _evaluate(args: argparse.Namespace) -> None:
    from fastvar_lab import loading
    from fastvar_lab.evaluate import evaluate, judge_accuracy, table
    from fastvar_lab.methods.presets import parse_ratios
    from fastvar_lab.methods.prune import Dense, Prune

    if args.n < 7:
        raise ValueError(f"--n must be at least 7, one picture for each task; not {args.n}")
    method = Prune(parse_ratios(args.ratios)) if args.ratios else Dense()
    model = loading.load(weights=args.weights, device=args.device)
    if args.judge:
        print(json.dumps(judge_accuracy(model, args.n, args.seed), indent=1))
        return
    result = evaluate(model, method, args.n, args.seed)
    print(json.dumps(result, indent=1) if args.json else table(result))


def _bench(args: argparse.Namespace) -> None:
    import torch

    from fastvar_lab import bench, loading

    if args.repeats < 1:
        raise ValueError(f"--repeats must be at least 1; not {args.repeats}")
    loading.require(args.device)
    name = args.dtype or ("bfloat16" if torch.device(args.device).type == "cuda" else "float32")
    dtype = getattr(torch, name)
    model = loading.load(args.model, args.weights, args.device, dtype, depth=args.depth)
    result = bench.bench(model, args.repeats, args.case)
    print(json.dumps(result, indent=1) if args.json else bench.table(result))


def _experiment(args: argparse.Namespace) -> None:
    from fastvar_lab.experiments import run
    from fastvar_lab.experiments.store import Store
    from fastvar_lab.files import folder

    if not args.names:
        for name, experiment in sorted(run.REGISTRY.items()):
            print(f"{name:<20} {experiment.question} ({experiment.source})")
        return
    if args.quick and args.paper:
        raise ValueError("--quick and --paper say how much to run; give one")
    scope = "quick" if args.quick else "paper" if args.paper else "default"
    for name in args.names:
        run.find(name)
    if args.out is not None:
        folder(args.out)
    how = run.Opened(args.model, args.weights, args.device)
    with run.executor(args.workers, args.scheduler) as executor:
        for name in args.names:
            frame = run.run(name, scope, how=how, store=Store(args.store), executor=executor)
            print(run.table(name, frame))
            if args.out is not None:
                _write_frame(name, frame, args.out)


def _write_frame(name: str, frame: Any, out: Path) -> None:
    from fastvar_lab.charts import CHARTS
    from fastvar_lab.files import write
    from fastvar_lab.output import write_figure

    write(out / f"{name}.csv", lambda partial: frame.to_csv(partial, index=False))
    write_figure(out / f"{name}.png", CHARTS[name](frame))
    print(f"{out / name}.csv and .png")


def _figures(args: argparse.Namespace) -> None:
    from fastvar_lab import figures
    from fastvar_lab.experiments import run
    from fastvar_lab.experiments.store import Store

    names = figures.chosen(args.names, args.all)
    endings = args.format.split(",")
    for ending in endings:
        if ending not in ("png", "pdf", "svg"):
            raise ValueError(f"--format takes png, pdf and svg; not {ending!r}")
    if args.list:
        print("\n".join(figures.NAMES))
        return
    if args.check:
        wrong = figures.check(args.out, args.names)
        if wrong:
            raise ValueError("; ".join(wrong))
        print(f"every figure in {args.out} is what its data draw")
        return
    how = run.Opened(weights=args.weights, device=args.device)
    scope = "quick" if args.quick else "paper"
    options = {"scope": scope, "how": how, "store": Store(args.store), "endings": endings}
    for path in figures.draw(run.open_model(how), names, args.out, args.seed, **options):
        print(path)


def _claims(args: argparse.Namespace) -> None:
    from fastvar_lab import claims
    from fastvar_lab.experiments import run
    from fastvar_lab.experiments.store import Store
    from fastvar_lab.files import folder

    folder(args.out)
    how, scope = (
        run.Opened(weights=args.weights, device=args.device),
        "quick" if args.quick else "paper",
    )
    names = dict.fromkeys(claim.experiment for claim in claims.CLAIMS)
    frames = {name: run.run(name, scope, how=how, store=Store(args.store)) for name in names}
    model = run.open_model(how)
    where = f"Model `{model.name}`, weights `{model.fingerprint}`, on {model.device}, --{scope}."
    text = claims.table(frames, where)
    claims.save(args.out / "claims.md", text)
    print(text)


def _train(args: argparse.Namespace) -> None:
    from fastvar_lab.training.commands import train

    train(args)


def _ratios_as_values(argv: Sequence[str]) -> list[str]:
    """Join `--ratios -2:0.5` to one word: argparse takes a leading minus for an option."""
    words = list(argv)
    for i, word in enumerate(words[:-1]):
        if word == "--ratios":
            words[i : i + 2] = [f"--ratios={words[i + 1]}"]
            break
    return words


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; bad input ends with one line on stderr and status 2."""
    args = _parser().parse_args(_ratios_as_values(sys.argv[1:] if argv is None else argv))
    try:
        args.run(args)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"fastvar-lab: {str(error).splitlines()[0]}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("fastvar-lab: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
