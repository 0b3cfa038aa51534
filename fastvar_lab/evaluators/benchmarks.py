"""The papers' benchmarks as values: prompts, pictures for each, file layout, scores, counts.

A layout is the one that the official scripts read, so that either side can score the other's
pictures. To add a benchmark, write a function that returns its prompts, and a line in `BENCHMARKS`.
"""

from __future__ import annotations

from fastvar_lab.errors import short, unknown
from fastvar_lab.evaluators import geneval
from fastvar_lab.evaluators.benchmark_plans import Benchmark, BenchmarkPlan, Prompt, read_data
from fastvar_lab.files import expanded
from fastvar_lab.prompts import ClosedWorld, PromptFile

STYLES = ("anime", "concept-art", "paintings", "photo")  # of HPSv2
CATEGORIES = ("animals", "art", "fashion", "food", "indoor", "landscape", "logo", "people",
              "plants", "vehicles")  # fmt: skip


def find(name: str) -> Benchmark:
    """Return a benchmark by name; raise ValueError for an unknown one.

    >>> find("geneval").pictures
    2212
    """
    if name not in BENCHMARKS:
        raise unknown("benchmark", name, BENCHMARKS)
    return BENCHMARKS[name]


def _geneval(plan: BenchmarkPlan) -> list[Prompt]:
    return [
        Prompt(item["prompt"], item["tag"], f"{i:05d}", item)
        for i, item in enumerate(geneval.metadata())
    ]


def _mjhq(plan: BenchmarkPlan) -> list[Prompt]:
    data = plan.data
    assert data is not None
    table = read_data(data / "meta_data.json" if data.is_dir() else data, dict)
    try:
        return [
            Prompt(entry["prompt"], entry["category"], f"{entry['category']}/{name}")
            for name, entry in table.items()
            if entry["category"] == plan.category
        ]
    except (KeyError, TypeError):
        raise ValueError(f"{data} is not MJHQ-30K's meta_data.json") from None


def _imagenet(plan: BenchmarkPlan) -> list[Prompt]:
    return [Prompt(str(label), "class", str(label)) for label in range(1000)]


def _hps(plan: BenchmarkPlan) -> list[Prompt]:
    data = plan.data
    assert data is not None
    return [
        Prompt(text, style, f"{style}/{i:05d}")
        for style in STYLES
        for i, text in enumerate(read_data(data / f"{style}.json", list))
    ]


def _image_reward(plan: BenchmarkPlan) -> list[Prompt]:
    data = plan.data
    assert data is not None
    try:
        entries = [(entry["prompt"], str(entry["id"])) for entry in read_data(data, list)]
    except (KeyError, TypeError):
        raise ValueError(f"{data} is not ImageReward's benchmark-prompts.json") from None
    return [Prompt(text, "prompt", name) for text, name in entries]


def _closed_world(plan: BenchmarkPlan) -> list[Prompt]:
    items = ClosedWorld(plan.seed).take(max(WORLD, plan.n or 0))
    return [
        Prompt(item.prompt, item.group, f"{i:05d}", seed=item.seed) for i, item in enumerate(items)
    ]


def _texts(plan: BenchmarkPlan) -> list[Prompt]:
    data = plan.data
    assert data is not None
    try:
        lines = expanded(data).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {data}: {short(error, 100)}") from None
    items = PromptFile(data).take(sum(bool(line.strip()) for line in lines))
    return [Prompt(item.prompt, "prompt", f"{i:05d}") for i, item in enumerate(items)]


WORLD = 700  # prompts of the closed world, 100 a task

BENCHMARKS: dict[str, Benchmark] = {
    mark.name: mark
    for mark in (
        Benchmark("geneval", "Tables 1, A.3, A.4", _geneval, "{name}/samples/{j:04d}",
                  geneval.IMAGES, 2212, ("geneval",), ("png", "jpg")),
        Benchmark("mjhq", "Tables 2, A.3, A.4", _mjhq, "{name}", 1, 3000, ("fid", "kid", "clip"),
                  data="--data, the folder of MJHQ-30K with meta_data.json",
                  categories=CATEGORIES),
        Benchmark("imagenet", "Table A.1", _imagenet, "{name}_{j}", 50, 50_000,
                  ("is", "fid", "sfid", "precision", "recall"), resize="tensorflow"),
        Benchmark("hps", "Table A.2", _hps, "{name}", 1, 3200, ("hps",), ("jpg", "png"),
                  data="--data, the folder of HPDv2's benchmark: anime.json and three more"),
        Benchmark("imagereward", "Table A.2", _image_reward, "{name}/{j}", 10, 1000,
                  ("imagereward",), ("jpg", "png"),
                  data="--data, ImageReward's benchmark-prompts.json"),
        Benchmark("closed-world", "this library", _closed_world, "{name}_{j}", 1, WORLD,
                  ("closed-world",)),
        Benchmark("prompts", "yours", _texts, "{name}_{j}", 1, 0, ("clip",), ("png", "jpg"),
                  data="--data, a text file with one prompt on each line"),
    )
}  # fmt: skip
"""Every benchmark, by name."""
