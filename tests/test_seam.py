"""Who may import whom, and what the seam promises."""

import ast
from pathlib import Path

import pytest

import fastvar_lab

ROOT = Path(fastvar_lab.__file__).parent

# rooms, lowest first: each imports those before it alone
ROOMS = (
    *("errors", "values", "files", "encoding", "frames", "tensors", "provenance", "pictures"),
    *("seam", "tokens", "cache", "scales", "draws", "sampling", "progress"),
    *("world", "class_names", "prompts", "audit", "graphs", "backbones", "methods", "models"),
    *("request", "snapshots", "live", "capture", "generation", "branching", "editing"),
    *("instruments", "draft_and_refine"),
    *(
        "networks",
        "measure",
        "store",
        "plotting",
        "speed",
        "verification",
        "parity",
        "planning",
        "first_contact",
        "evaluators",
        "experiments",
        "widgets",
    ),
    *("training", "cli", "__main__"),
)


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fastvar_lab"):
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {a.name for a in node.names}
    return found


def test_imports_point_downwards_only():
    rank = {name: place for place, name in enumerate(ROOMS)}
    for path in ROOT.rglob("*.py"):
        own = room(path)
        if own == "__init__":
            continue
        for other in imports(path) - {own}:
            assert rank[other] < rank[own], f"{path.name} ({own}) imports {other}"


def test_optional_packages_are_not_imported_with_the_library():
    for name in ("torchvision", "timm", "transformers", "flash_attn"):
        for path in ROOT.rglob("*.py"):
            if (name, path.name) == ("transformers", "encoders.py"):
                continue  # imported by `load` when a text encoder is opened, and not before
            tree = ast.parse(path.read_text())
            for node in ast.walk(tree):
                if isinstance(node, ast.Import):
                    assert all(a.name.split(".")[0] != name for a in node.names), path
                if isinstance(node, ast.ImportFrom):
                    assert (node.module or "").split(".")[0] != name, path


# modules of a room, lowest first, where the order is more than a matter of taste
INSIDE = {
    "models": (
        *("names", "shipped", "absent", "precision", "families", "releases", "hub", "wrappers"),
        "states",
        *("checkpoints", "stamps", "features", "seeding", "model", "converted"),
        *("lora_files", "lora", "build", "tiny"),
        *("loading", "spec", "staging", "standin", "requirements", "catalog"),
        *("live_object", "live_functions", "recognition", "attached", "attach"),
    ),
    "networks": (
        *("resizing", "exact", "inception", "lpips", "renaming", "pretrained", "conversion"),
        *("published", "collection", "random_networks", "throughput"),
    ),
    "first_contact": (
        *("finding", "configuration", "effort", "likelihood", "probes", "examination"),
    ),
    "cli": (
        "options",
        "generate_options",
        "release_options",
        "notebook_copies",
        "notebook_pages",
        "notebook_runner",
        "cmd_",
        "main",
    ),
}


@pytest.mark.parametrize("folder", INSIDE)
def test_imports_point_downwards_inside_a_room(folder):
    def place(module):
        return INSIDE[folder].index("cmd_" if module.startswith("cmd_") else module)

    prefix = f"fastvar_lab.{folder}"
    for path in sorted((ROOT / folder).glob("*.py")):
        if path.stem == "__init__":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith(prefix):
                continue
            rest = node.module.removeprefix(prefix).removeprefix(".")
            for module in [rest] if rest else [alias.name for alias in node.names]:
                assert place(module) < place(path.stem), f"{path.stem} imports {module}"
