"""What each command does; what it needs is imported when it runs, so that errors come at once."""

from __future__ import annotations

import argparse
import json


def demo(args: argparse.Namespace) -> None:
    """Generate one prompt in full and with FastVAR; write and print the comparison."""
    from fastvar_lab.experiments import demo
    from fastvar_lab.methods.presets import parse_ratios
    from fastvar_lab.methods.prune import Prune
    from fastvar_lab.models import loading
    from fastvar_lab.world.grammar import parse

    method = Prune(parse_ratios(args.ratios))
    prompt = demo.PROMPT if args.prompt is None else args.prompt
    parse(prompt)
    model = loading.load(weights=args.weights, device=args.device)
    report = demo.demo(model, prompt, method, args.seed, args.out)
    print(demo.table(report))
    print(f"pictures and numbers are in {args.out}/")


def generate(args: argparse.Namespace) -> None:
    """Write a picture for every prompt."""
    import torch

    from fastvar_lab import scales
    from fastvar_lab.files import folder
    from fastvar_lab.generation import generate
    from fastvar_lab.methods.presets import paper_preset, parse_ratios
    from fastvar_lab.methods.prune import Dense, Prune
    from fastvar_lab.models import loading
    from fastvar_lab.pictures import file_name, to_uint8, write_image
    from fastvar_lab.world.grammar import parse

    if args.ratios is not None and args.paper:
        raise ValueError("--ratios and --paper both say what to prune; give one")
    method = Dense() if args.ratios is None else Prune(parse_ratios(args.ratios))
    sizes, size = None, None if args.size is None else scales.parse_size(args.size)
    if args.model == "tiny":
        for prompt in args.prompt:
            parse(prompt)
    if args.model.startswith("infinity"):
        aspect = args.aspect
        if aspect is None:
            aspect = size[0] / size[1] if size else 1.0
        elif not aspect > 0:
            raise ValueError(f"--aspect must be above 0; not {aspect}")
        found = scales.templates(aspect)
        if args.aspect is not None and len(found) > 1:
            raise ValueError(
                f"--aspect must be one of {', '.join(map(str, scales.ASPECTS))}; not {aspect} "
                f"(nearest: {found[0]} and {found[1]})"
            )
        if args.pn or args.aspect is not None or size:
            sizes = scales.infinity(aspect, args.pn or "1M")
    elif args.pn or args.aspect is not None:
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
        model.sizes = model.sizes_to(*size)
    if args.paper:
        method = paper_preset(args.model, len(model.sizes), model.depth)
    folder(args.out)
    made = generate(model, args.prompt, method, seed=args.seed, progress=True)
    for i, image in enumerate(to_uint8(model.decode(made.canvas))):
        pruned = not isinstance(method, Dense)
        path = args.out / file_name(args.prompt[i], made.request.seeds[i], pruned)
        write_image(path, image)
        print(path)


def models(args: argparse.Namespace) -> None:
    """List every model."""
    from fastvar_lab.models import catalog

    if args.weights is not None and not args.weights.is_dir():
        raise ValueError(f"the folder {args.weights} is not there")
    rows = catalog.catalog(args.weights)
    print(json.dumps(rows, indent=1) if args.json else catalog.table(rows))


def evaluate(args: argparse.Namespace) -> None:
    """Score the embedded model, or the judge itself."""
    from fastvar_lab import scales
    from fastvar_lab.evaluators.closed_world import evaluate, judge_accuracy, table
    from fastvar_lab.methods.presets import parse_ratios
    from fastvar_lab.methods.prune import Dense, Prune
    from fastvar_lab.models import loading

    if args.n < 7:
        raise ValueError(f"--n must be at least 7, one picture for each task; not {args.n}")
    if args.judge and (args.ratios, args.size, args.given) != (None, None, 0):
        raise ValueError("--judge draws nothing: --ratios, --size and --given do not go with it")
    method = Dense() if args.ratios is None else Prune(parse_ratios(args.ratios))
    size = None if args.size is None else scales.parse_size(args.size)
    model = loading.load(weights=args.weights, device=args.device)
    if args.judge:
        print(json.dumps(judge_accuracy(model, args.n, args.seed), indent=1))
        return
    sizes = model.sizes_to(*size) if size else None
    result = evaluate(model, method, args.n, args.seed, sizes, given=args.given)
    print(json.dumps(result, indent=1) if args.json else table(result))


def bench(args: argparse.Namespace) -> None:
    """Time full and pruned generation."""
    import torch

    from fastvar_lab.models import loading
    from fastvar_lab.speed import bench, suite

    if args.repeats < 1:
        raise ValueError(f"--repeats must be at least 1; not {args.repeats}")
    loading.require(args.device)
    name = args.dtype or ("bfloat16" if torch.device(args.device).type == "cuda" else "float32")
    dtype = getattr(torch, name)
    if args.suite:
        if args.model != "tiny" or args.weights not in (None, "random"):
            raise ValueError("--suite names its models, with random weights; use --case to choose")
        how = {"device": args.device, "dtype": dtype, "depth": args.depth, "out": args.out}
        found = suite.run(repeats=args.repeats, only=args.case, **how)
        print(json.dumps(found, indent=1) if args.json else suite.table(found))
        if args.out is not None:
            suite.write(found, args.out)
        return
    if args.out is not None:
        raise ValueError("--out goes with --suite")
    model = loading.load(args.model, args.weights, args.device, dtype, depth=args.depth)
    result = bench.bench(model, args.repeats, args.case)
    print(json.dumps(result, indent=1) if args.json else bench.table(result))


def experiment(args: argparse.Namespace) -> None:
    """Run experiments, or list them."""
    from fastvar_lab.experiments import run
    from fastvar_lab.experiments.figures import draw_frame
    from fastvar_lab.files import folder
    from fastvar_lab.store import Store

    if not args.names:
        for name, experiment in sorted(run.REGISTRY.items()):
            slow = " Slow." if experiment.slow else ""
            print(f"{name:<20} {experiment.question} ({experiment.source}){slow}")
        return
    if args.quick and args.paper:
        raise ValueError("--quick and --paper say how much to run; give one")
    scope = "quick" if args.quick else "paper" if args.paper else "default"
    for name in args.names:
        run.find(name)
    if args.out is not None:
        folder(args.out)
    how = run.Opened(args.model, args.weights, args.device, args.dtype or "float32")
    with run.executor(args.workers, args.scheduler) as executor:
        for name in args.names:
            frame = run.run(name, scope, how=how, store=Store(args.store), executor=executor)
            print(run.table(name, frame))
            if args.out is not None:
                model = run.open_model(how)
                for path in draw_frame(model, name, frame, args.out, scope, how):
                    print(path)


def figures(args: argparse.Namespace) -> None:
    """Draw figures, list them, or check or draw again those of a folder from their data."""
    from fastvar_lab.experiments import figures, run
    from fastvar_lab.store import Store

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
    if args.redraw:
        for path in figures.again(args.out, args.names, endings):
            print(path)
        return
    how = run.Opened(weights=args.weights, device=args.device)
    scope = "quick" if args.quick else "paper"
    options = {"scope": scope, "how": how, "store": Store(args.store), "endings": endings}
    with run.executor(args.workers, args.scheduler) as executor:
        model = run.open_model(how)
        for path in figures.draw(model, names, args.out, args.seed, executor=executor, **options):
            print(path)


def notebooks(args: argparse.Namespace) -> None:
    """Run the notebooks, or strip them."""
    from fastvar_lab.cli import notebooks

    paths = notebooks.find(args.folder, args.names)
    if args.strip:
        stripped = [str(path) for path in paths if notebooks.strip(path)]
        print("\n".join(stripped) or "nothing to strip")
        return
    wrong = notebooks.run(paths, args.execute, args.html)
    for line in wrong:
        print(line)
    if wrong:
        raise ValueError(f"{len(wrong)} things are wrong in {len(paths)} notebooks, listed above")
    print(f"{len(paths)} notebooks ran from top to bottom")


def claims(args: argparse.Namespace) -> None:
    """Check the paper's claims; write claims.md."""
    from fastvar_lab.experiments import claims, run
    from fastvar_lab.files import folder
    from fastvar_lab.store import Store

    folder(args.out)
    how, scope = (
        run.Opened(weights=args.weights, device=args.device),
        "quick" if args.quick else "paper",
    )
    names = dict.fromkeys(claim.experiment for claim in claims.CLAIMS)
    with run.executor(args.workers, args.scheduler) as executor:
        store = Store(args.store)
        frames = {
            name: run.run(name, scope, how=how, store=store, executor=executor) for name in names
        }
    model = run.open_model(how)
    where = "Written by `python -m fastvar_lab claims`. "
    where += f"Model `{model.name}`, weights `{model.fingerprint}`, on {model.device}, --{scope}."
    text = claims.table(frames, where)
    claims.save(args.out / "claims.md", text)
    print(text)


def train(args: argparse.Namespace) -> None:
    """Train a part of the embedded model."""
    from fastvar_lab.cli.cmd_train import train

    train(args)
