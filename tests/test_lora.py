"""LoRA files on loaded models: every projection acts; fused and removed; wrong files refused."""

import json
import math
import re

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import fastvar_lab as fv
from fastvar_lab.cli.main import main
from fastvar_lab.errors import WeightsError
from fastvar_lab.models.spec import ModelSpec
from tests.families import FAMILIES, small_model
from tests.test_adapters import PROJECTIONS, logits_of

ENDS = ["qkv", "proj", "fc1", "fc2"]


def linear_layers(model):
    layers = {n: m for n, m in model.transformer.named_modules() if isinstance(m, nn.Linear)}
    return {n: m for n, m in layers.items() if not n.startswith("diffloss")}


def matrices(layers, rank=2, prefix="base_model.model.", names=("lora_A", "lora_B"), size=0.1):
    torch.manual_seed(5)
    tensors = {}
    for name, layer in layers.items():
        out, width = layer.weight.shape
        tensors[f"{prefix}{name}.{names[0]}.weight"] = torch.randn(rank, width) / width**0.5
        tensors[f"{prefix}{name}.{names[1]}.weight"] = torch.randn(out, rank) * size
    return tensors


def folder(path, tensors, **config):
    path.mkdir(exist_ok=True)
    save_file(tensors, path / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, **config}
    (path / "adapter_config.json").write_text(json.dumps(settings))
    return path


@pytest.fixture(params=FAMILIES)
def model(request):
    return small_model(request.param)


def test_every_projection_acts(model, tmp_path):
    """One layer at a time; another alpha gives other logits."""
    plain, layers = logits_of(model), linear_layers(model)
    tested = [n for n in PROJECTIONS[model.family] if n in layers]
    assert len(tested) >= 7
    for name in tested:
        gaps = []
        for alpha in (2, 4):
            tensors = matrices({name: layers[name]})
            fv.load_lora(model, folder(tmp_path / "a", tensors, lora_alpha=alpha))
            gaps.append(float((logits_of(model) - plain).abs().max()))
            fv.unload_lora(model)
        assert min(gaps) > 0, name
        assert gaps[0] != gaps[1], name
    assert torch.equal(logits_of(model), plain)


def test_attached_fused_and_unfused_are_the_same(model, tmp_path):
    plain, identity = logits_of(model), model.fingerprint
    fv.load_lora(model, folder(tmp_path / "a", matrices(linear_layers(model), size=0.02)))
    beside, with_lora = logits_of(model), model.fingerprint
    assert not torch.equal(beside, plain)
    fv.fuse_lora(model)
    fused = logits_of(model)
    assert (fused - beside).abs().max() < 2e-3 * beside.abs().max()
    assert len({identity, with_lora, model.fingerprint}) == 3
    assert torch.equal(logits_of(fv.unfuse_lora(model)), beside)
    assert model.fingerprint == with_lora
    fv.unload_lora(model)
    assert torch.equal(logits_of(model), plain)
    assert model.fingerprint == identity


def test_fused_for_good_leaves_no_adapter(small_random, tmp_path):
    model = small_random
    tensors = matrices(linear_layers(model), size=0.02)
    beside = logits_of(fv.load_lora(model, folder(tmp_path / "a", tensors)))
    fv.fuse_lora(model, keep=False)
    assert (logits_of(model) - beside).abs().max() < 2e-3 * beside.abs().max()
    with pytest.raises(ValueError, match="has no LoRA; put one on with load_lora"):
        fv.unfuse_lora(model)


@pytest.fixture
def small_random():
    return small_model("infinity")


def test_two_add_up_and_scale(small_random, tmp_path):
    model, layers = small_random, linear_layers(small_random)
    name = "blocks.1.ffn.fc1"
    one = folder(tmp_path / "a", matrices({name: layers[name]}))
    twice = logits_of(fv.load_lora(model, one, scale=2.0))
    fv.unload_lora(model)
    fv.load_lora(fv.load_lora(model, one), one)
    assert (logits_of(model) - twice).abs().max() < 1e-4
    fv.fuse_lora(model)
    assert (logits_of(model) - twice).abs().max() < 1e-3
    fv.unload_lora(model)
    assert type(model.transformer.get_submodule(name)) is nn.Linear


@pytest.mark.parametrize(
    ("prefix", "names"),
    [
        ("", ("lora_A", "lora_B")),
        ("transformer.", ("lora_down", "lora_up")),
        ("base_model.model.module._orig_mod.", ("lora_A.default", "lora_B.default")),
    ],
)
def test_names_of_peft_and_diffusers(prefix, names, small_random, tmp_path):
    layers = linear_layers(small_random)
    reference = fv.load_lora(small_random, folder(tmp_path / "a", matrices(layers), lora_alpha=2))
    expected = logits_of(reference)
    fv.unload_lora(small_random)
    file = tmp_path / "lora.safetensors"
    save_file(matrices(layers, prefix=prefix, names=names), file)  # alpha is the rank
    assert torch.equal(logits_of(fv.load_lora(small_random, file)), expected)
    fv.unload_lora(small_random)
    pattern, chunk = r"blocks\.(\d+)\.", r"block_chunks.\1.module.0."
    chunked = {re.sub(pattern, chunk, key): value for key, value in matrices(layers).items()}
    save_file(chunked, file)
    assert torch.equal(logits_of(fv.load_lora(small_random, file)), expected)


def test_scaling_of_ranks_alphas_and_metadata(small_random, tmp_path):
    layers = {n: m for n, m in linear_layers(small_random).items() if n.endswith("fc1")}

    def scalings(path):
        fv.load_lora(small_random, path)
        adapters = [small_random.transformer.get_submodule(n) for n in layers]
        fv.unload_lora(small_random)
        return {round(a.scaling, 6) for a in adapters}

    tensors = matrices(layers)
    a = tmp_path / "a"
    assert scalings(folder(a, tensors)) == {2.0}
    assert scalings(folder(a, tensors, use_rslora=True)) == {round(4 / math.sqrt(2), 6)}
    assert scalings(folder(a, tensors, alpha_pattern={"blocks.0.ffn.fc1": 1})) == {0.5, 2.0}
    assert scalings(folder(a, tensors, r=8, rank_pattern={"fc1": 2})) == {2.0}
    first = next(iter(layers))
    file = tmp_path / "x.safetensors"
    save_file({**matrices(layers, prefix=""), f"{first}.alpha": torch.tensor(1.0)}, file)
    assert scalings(file) == {0.5, 1.0}
    held = {"lora_adapter_metadata": json.dumps({"transformer.r": 2, "transformer.lora_alpha": 8})}
    save_file(matrices(layers, prefix="transformer."), file, metadata=held)
    assert scalings(file) == {4.0}


def bad(change=lambda tensors: None, **config):
    return change, config


def drop(key):
    return lambda tensors: [tensors.pop(k) for k in list(tensors) if key in k]


def put(key, tensor):
    return lambda tensors: tensors.update({key: tensor})


def wider(tensors):
    key = next(k for k in tensors if "lora_A" in k)
    tensors[key] = torch.cat((tensors[key], tensors[key]), 1)


def put_both(tensors):
    for half, shape in (("A", (2, 64)), ("B", (9, 2))):
        tensors[f"base_model.model.blocks.9.ffn.fc1.lora_{half}.weight"] = torch.ones(shape)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (bad(wider), "maps 128 values to .*, the layer of .* 64 to .*: it belongs to another mod"),
        (
            bad(drop("blocks.1.ffn.fc1"), target_modules=["fc1", "fc2"]),
            "lacks blocks.1.ffn.fc1, which its configuration names",
        ),
        (bad(drop("blocks.0.ffn.fc2.lora_B")), "lacks lora_B of blocks.0.ffn.fc2"),
        (
            bad(put_both),
            "adapts blocks.9.ffn.fc1; .* has no such linear layer",
        ),
        (bad(r=8), "has rank 2 in lora_A and 2 in lora_B; its configuration says 8"),
        (
            bad(put("base_model.model.blocks.0.ffn.fc1.lora_B.weight", torch.ones(128, 3))),
            "has rank 2 in lora_A and 3 in lora_B",
        ),
        (bad(put("blocks.0.ffn.fc1.bias", torch.ones(3))), "is no matrix of a LoRA"),
        (
            bad(put("blocks.0.lora_magnitude_vector", torch.ones(3))),
            "is no matrix of a LoRA .*lora_A and lora_B",
        ),
        (bad(drop("lora")), "holds no"),
        (bad(peft_type="LOHA"), "is a LOHA; only LoRA is implemented"),
        (bad(use_dora=True), "sets use_dora, which is not implemented"),
        (bad(init_lora_weights="pissa"), "has init_lora_weights pissa, which changes the weights"),
        (bad(arrow_config={"top_k": 1}), "sets arrow_config, which is not implemented"),
        (bad(bias="all"), "sets bias, which is not implemented"),
        (bad(lora_alpha=None), "must give r, a number above 0, and lora_alpha; not 2 and None"),
        (bad(rank_pattern=[3]), "has the rank_pattern .*; it maps names to numbers"),
        (bad(rank_pattern={"(": 3}), "is no pattern of names"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_files_are_one_sentence(case, message, small_random, tmp_path):
    change, config = case
    ffn = {n: m for n, m in linear_layers(small_random).items() if ".ffn." in n}
    tensors = matrices(ffn)
    change(tensors)
    path, identity = folder(tmp_path / "a", tensors, **config), small_random.fingerprint
    with pytest.raises(WeightsError, match=message) as refusal:
        fv.load_lora(small_random, path)
    assert "\n" not in str(refusal.value)
    assert small_random.fingerprint == identity


def test_chunks_of_another_depth_are_refused(small_random, tmp_path):
    layers = {n: m for n, m in linear_layers(small_random).items() if n == "blocks.0.ffn.fc1"}
    tensors = {
        k.replace("blocks.0", "block_chunks.3.module.4"): v for k, v in matrices(layers).items()
    }
    with pytest.raises(WeightsError, match="names layers in 4 chunks of 5, which are not the"):
        fv.load_lora(small_random, folder(tmp_path / "a", tensors))


def test_what_is_no_lora(small_random, tmp_path):
    for path, message in (
        (tmp_path / "none", "there is no LoRA at"),
        (tmp_path, "holds no LoRA: it has none of adapter_model.safetensors"),
    ):
        with pytest.raises(WeightsError, match=message):
            fv.load("tiny", lora=path)
    text = tmp_path / "a.safetensors"
    text.write_text("hello")
    with pytest.raises(WeightsError, match="cannot read weights"):
        fv.load_lora(small_random, text)
    folder(tmp_path / "b", matrices(linear_layers(small_random)))
    (tmp_path / "b" / "adapter_config.json").write_text("{")
    with pytest.raises(WeightsError, match=r"cannot read .*adapter_config.json"):
        fv.load_lora(small_random, tmp_path / "b")
    for scale in (float("nan"), "2", True):
        with pytest.raises(ValueError, match="scale is a number"):
            fv.load_lora(small_random, tmp_path / "b", scale)


def test_an_attached_model_takes_none(tmp_path):
    from tests.standins import LiveVAR

    with pytest.raises(ValueError, match="shares the weights of a live object; change that object"):
        fv.load_lora(fv.attach(LiveVAR()), tmp_path)


def test_load_commands_and_workers_take_one(tmp_path, capsys):
    model = fv.load("tiny")
    fc1 = {n: m for n, m in linear_layers(model).items() if n.endswith("ffn.fc1")}
    path = folder(tmp_path / "a", matrices(fc1), target_modules=["fc1"])
    opened = fv.load("tiny", lora=path, lora_scale=0.5)
    assert opened.source == f"fv.load('tiny', lora={str(path)!r}, lora_scale=0.5)"
    assert opened.transformer.blocks[3].ffn.fc1.scaling == 1.0
    spec = ModelSpec("tiny", lora=str(path), lora_scale=0.5)
    assert spec.resolved().open().fingerprint == opened.fingerprint != model.fingerprint
    fv.load_lora(model, path)
    assert model.source == f"fv.load_lora(fv.load('tiny'), {str(path)!r})"
    fv.load_lora(model, path, 0.5)
    assert fv.unload_lora(model).source == "fv.load('tiny')"
    assert fv.unload_lora(opened).source == "fv.load('tiny')"
    assert main(["generate", "a ring", "--lora", str(tmp_path / "no"), "--out", str(tmp_path)]) == 2
    assert "there is no LoRA at" in capsys.readouterr().err
    with pytest.raises(ValueError, match="lora_scale 2 scales a LoRA; name its file with lora"):
        fv.load("tiny", lora_scale=2)


@pytest.mark.parametrize("precision", ["int8", "bfloat16"])
def test_on_narrow_weights(precision, small_random, tmp_path):
    model = small_random
    kind = torch.bfloat16 if precision == "bfloat16" else torch.float32
    model.set_precision("int8" if precision == "int8" else "float32", kind)
    plain = logits_of(model)
    layers = linear_layers(small_model("infinity"))
    fv.load_lora(model, folder(tmp_path / "a", matrices(layers)))
    assert not torch.equal(logits_of(model, fv.Prune({-1: 0.5})), plain)
    if precision == "int8":
        with pytest.raises(ValueError, match="cannot be fused into int8 weights"):
            fv.fuse_lora(model)
    else:
        assert logits_of(fv.fuse_lora(model)).isfinite().all()
