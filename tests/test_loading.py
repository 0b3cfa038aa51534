"""Released files: their names, nesting, shards and traps; what is refused, and how it is said."""

import json
import re
import shutil
import subprocess
import sys
import weakref
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

import fastvar_lab as fv
from fastvar_lab.backbones.autoencoder import AutoEncoderConfig
from fastvar_lab.backbones.hart import HARTConfig
from fastvar_lab.backbones.infinity import Infinity, InfinityConfig
from fastvar_lab.backbones.text import RandomText
from fastvar_lab.cli.main import main
from fastvar_lab.errors import WeightsError
from fastvar_lab.models import build, families, loading, releases, staging
from fastvar_lab.models.features import text_label
from fastvar_lab.models.spec import ModelSpec
from fastvar_lab.models.states import looks_like
from fastvar_lab.networks.random_networks import letter_tokenizer

SMALL = AutoEncoderConfig(8, (32, 32), encoder_blocks=1, decoder_blocks=1)
INFINITY = InfinityConfig(6, 64, 2, 64, 8, text_width=24, text_length=10, pool_heads=4)
HART = HARTConfig(2, 64, 2, 96, (1, 2, 3, 4), 5, 24, 700, 8, 48, 2)


def chunked(state, blocks):
    out = {}
    for key, value in state.items():
        match = re.match(r"blocks\.(\d+)\.(.*)", key)
        if match:
            i = int(match[1])
            key = f"block_chunks.{i // blocks}.module.{i % blocks}.{match[2]}"
        out[key] = value
    return out


def long_names(state):
    """Infinity's tokenizers: every convolution and norm one level deeper."""
    out = {}
    for key, value in state.items():
        kind = "norm" if "norm" in key.split(".")[-2] else "conv"
        out[re.sub(r"\.(weight|bias)$", rf".{kind}.\1", key)] = value
    return {**out, "quantizer.lfq.mask": torch.zeros(8), "quantize.lfq.mask": torch.zeros(8)}


@pytest.fixture
def infinity(tmp_path, monkeypatch):
    monkeypatch.setitem(releases.INFINITY, "infinity-2b", INFINITY)
    monkeypatch.setitem(releases.INFINITY, "infinity-8b", INFINITY)
    monkeypatch.setattr(families, "infinity_tokenizer", lambda config: SMALL)
    torch.manual_seed(0)
    source = build.build(INFINITY, tokenizer=SMALL).freeze()
    state = chunked(source.transformer.state_dict(), 3)
    state["cfg_uncond"] = torch.cat((state["cfg_uncond"], torch.ones(4, 24)))
    state["lvl_1L"] = torch.zeros(1, 9)
    for key in state:
        if key.endswith("scale_mul_1H11"):
            state[key] = state[key].view(1, 1, 2, 1)
    torch.save(state, tmp_path / "infinity_2b_reg.pth")
    vae = {"vae": long_names(source.tokenizer.state_dict()), "ema": {}, "epoch": 3}
    torch.save(vae, tmp_path / "infinity_vae_d32reg.pth")
    torch.save(vae, tmp_path / "infinity_vae_d56_f8_14_patchify.pth")
    shards = tmp_path / "infinity_8b_weights"
    shards.mkdir()
    names = sorted(state)
    index = {}
    for i in range(2):
        file = f"model-{i}.safetensors"
        save_file({k: state[k].contiguous() for k in names[i::2]}, shards / file)
        index |= dict.fromkeys(names[i::2], file)
    (shards / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return source, tmp_path


def same(model, source, condition, sizes):
    sampling = fv.Sampling()
    made, wanted = (
        fv.generate(m, condition, fv.Prune({-1: 0.5}), sizes=sizes, sampling=sampling)
        for m in (model, source)
    )
    assert torch.allclose(made.canvas, wanted.canvas, atol=1e-5)
    assert torch.allclose(model.decode(made.canvas), source.decode(wanted.canvas), atol=1e-5)


def test_features_are_refused_by_a_model_without_text(tmp_path):
    with pytest.raises(ValueError, match="features are those of texts; var-d16 reads none"):
        fv.load("var-d16", weights="random", depth=1, features=tmp_path)


@pytest.mark.parametrize("name", ["infinity-2b", "infinity-8b"])
def test_infinity_opens_from_its_released_files(infinity, name):
    source, folder = infinity
    model = fv.load(name, weights=folder)
    text = source.condition(["a red circle", "b"])
    same(model, source, text, [(1, 1), (2, 2), (4, 4)])
    assert model.sampling.temperature == (0.5 if name == "infinity-2b" else 1.0)
    with pytest.raises(ValueError, match=r"no text encoder here \(google/flan-t5-xl in"):
        fv.generate(model, "a red circle", fv.Dense())
    named = fv.load(name, weights=folder, features=folder / "features")
    with pytest.raises(ValueError, match="has no features of 'a red circle'"):
        fv.generate(named, "a red circle", fv.Dense())


@pytest.fixture
def infinity_with_text(infinity):
    """The released files with a tiny T5 of the width that the transformer reads."""
    transformers = pytest.importorskip("transformers")
    source, folder = infinity
    torch.manual_seed(1)
    place = folder / "flan-t5-xl"
    letter_tokenizer("<s>", "</s>", "<pad>").save_pretrained(place)
    config = transformers.T5Config(
        vocab_size=32, d_model=24, d_kv=8, d_ff=32, num_layers=1, num_heads=2
    )
    transformers.T5EncoderModel(config).save_pretrained(place)
    return source, folder


MAPS = [(1, 1), (2, 2), (4, 4)]


def test_text_is_encoded_and_freed_before_the_rest_is_read(infinity_with_text, monkeypatch):
    _, folder = infinity_with_text
    opened, alive = [], []

    def open_text(*arguments, real=loading.open_text, **options):
        encoder = real(*arguments, **options)
        opened.append(weakref.ref(encoder))
        return encoder

    def load(*arguments, real=loading.load, **options):
        alive.append([ref() for ref in opened])
        return real(*arguments, **options)

    monkeypatch.setattr(staging, "open_text", open_text)
    monkeypatch.setattr(staging, "load", load)
    prompts = ["a red circle", "b", "a red circle"]
    staged = staging.load_encoded(prompts, "infinity-2b", folder)
    assert (len(opened), alive) == (1, [[None]])
    whole = fv.load("infinity-2b", folder)
    runs = [fv.generate(m, prompts, fv.Prune({-1: 0.5}), sizes=MAPS) for m in (staged, whole)]
    assert torch.allclose(runs[0].canvas, runs[1].canvas, atol=1e-5)
    assert text_label(staged.text_encoder) == text_label(whole.text_encoder)
    assert staged.source == whole.source
    with pytest.raises(ValueError, match="encoded 2 prompts; 'c' is none of them"):
        fv.generate(staged, "c", fv.Dense(), sizes=MAPS)


def test_encoded_prompts_are_kept_where_that_is_wanted(infinity_with_text):
    _, folder = infinity_with_text
    cache = folder / "features"
    first = staging.load_encoded(["a", "b"], "infinity-2b", folder, features=cache)
    assert len(list(cache.glob("*.safetensors"))) == 2
    shutil.rmtree(folder / "flan-t5-xl")
    again = staging.load_encoded(["a", "b"], "infinity-2b", folder, features=cache)
    runs = [fv.generate(m, ["b", "a"], fv.Dense(), sizes=MAPS) for m in (first, again)]
    assert torch.equal(runs[0].canvas, runs[1].canvas)
    spec = ModelSpec("infinity-2b", str(folder), features=str(cache), text=False)
    run = fv.generate(spec.open(), ["b", "a"], fv.Dense(), sizes=MAPS)
    assert torch.equal(run.canvas, runs[0].canvas)


def test_make_encodes_frees_generates_and_decodes(infinity_with_text, tmp_path, capsys):
    _, folder = infinity_with_text
    (tmp_path / "p.txt").write_text("a red circle\nb\n")
    out = tmp_path / "made"
    arguments = ["make", "prompts", "--data", str(tmp_path / "p.txt"), "--out", str(out), "--size",
                 "4", "--model", "infinity-2b", "--weights", str(folder)]  # fmt: skip
    assert main(arguments) == 0, capsys.readouterr().err
    assert sorted(p.name for p in out.glob("*.png")) == ["00000_0.png", "00001_0.png"]
    settings = json.loads((out / "settings.json").read_text())
    assert settings["text"].startswith("T5Text 't5 flan-t5-xl")
    assert main([*arguments, "--precision", "official"]) == 2
    assert "holds pictures with precision float32; now it is" in capsys.readouterr().err


def test_hart_opens_from_its_released_files(tmp_path, monkeypatch):
    monkeypatch.setattr(families, "VAR_TOKENIZER", SMALL)
    torch.manual_seed(0)
    source = build.build(HART, tokenizer=SMALL).freeze()
    (tmp_path / "llm").mkdir()
    (tmp_path / "tokenizer").mkdir()
    state = {**source.transformer.state_dict(), "attn_bias_for_masking": torch.zeros(1)}
    torch.save(state, tmp_path / "llm" / "ema_model.bin")
    told = {"depth": 2, "embed_dim": 64, "num_heads": 2, "patch_nums": "1_2_3_4",
            "context_token": 5, "context_dim": 24, "diff_width": 48, "diff_depth": 2,
            "attn_type": "llama", "mlp_ratio": 4}  # fmt: skip
    (tmp_path / "llm" / "config.json").write_text(json.dumps(told))
    vae = {f"vae.{k}": v for k, v in source.tokenizer.state_dict().items()}
    save_file({**vae, "disc.x": torch.zeros(2)}, tmp_path / "tokenizer" / "model.safetensors")
    monkeypatch.setitem(
        releases.HART, "hart-0.7b",
        HARTConfig(hidden=96, vocabulary=700, code=8),
    )  # fmt: skip
    model = fv.load("hart-0.7b", weights=tmp_path)
    assert model.transformer.config == HART
    same(model, source, source.condition(["a red circle"]), None)
    (tmp_path / "llm" / "config.json").write_text(json.dumps({**told, "attn_type": "gpt2"}))
    with pytest.raises(WeightsError, match="attn_type 'gpt2'; only 'llama' is implemented"):
        fv.load("hart-0.7b", weights=tmp_path)


def test_other_files_are_recognised(infinity):
    _, folder = infinity
    good = folder / "infinity_2b_reg.pth"
    good.rename(folder / "kept.pth")
    with pytest.raises(WeightsError, match=r"infinity_2b_reg.pth, which does not exist; download"):
        fv.load("infinity-2b", weights=folder)
    good.write_bytes((folder / "infinity_vae_d32reg.pth").read_bytes())
    with pytest.raises(WeightsError, match=r"lacks .* more; it looks like an Infinity tokenizer"):
        fv.load("infinity-2b", weights=folder)
    shard = folder / "infinity_8b_weights" / "model-1.safetensors"
    shard.unlink()
    with pytest.raises(WeightsError, match=r"names the shard model-1\.safetensors"):
        fv.load("infinity-8b", weights=folder)
    (folder / "kept.pth").rename(good)
    good.write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    with pytest.raises(WeightsError, match="cannot read weights"):
        fv.load("infinity-2b", weights=folder)


def test_released_sizes_are_told_apart():
    with torch.device("meta"):
        eight, two = (build.build(releases.INFINITY[f"infinity-{n}b"]) for n in (8, 2))
        d24 = build.build(releases.VAR["var-d24"])
    assert looks_like(eight.transformer.state_dict()) == "the transformer of infinity-8b"
    assert looks_like(chunked(two.transformer.state_dict(), 4)) == "the transformer of infinity-2b"
    assert looks_like(d24.transformer.state_dict()) == "the transformer of var-d24"
    assert looks_like(d24.tokenizer.state_dict()) == "a VAR or HART tokenizer of 4096 codes"
    vision = long_names(eight.tokenizer.state_dict())
    assert looks_like(vision) == "an Infinity tokenizer of 14 channels, as infinity-8b uses"
    assert looks_like({"x": torch.zeros(1)}) is None


def test_downloads_go_through_the_hub(infinity, monkeypatch, tmp_path):
    source, folder = infinity
    asked = []

    def snapshot_download(repo, allow_patterns=None, ignore_patterns=None):
        asked.append((repo, allow_patterns or "*.bin" in ignore_patterns))
        return str(folder if allow_patterns else tmp_path / "nothing")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    places = []

    def condition(name, release, place, instruction):
        places.append(place)
        return source.text_encoder

    monkeypatch.setattr(loading, "_condition", condition)
    before = sorted(folder.rglob("*"))
    fv.load("infinity-2b", download=True)
    assert asked[0][0] == "FoundationVision/Infinity"
    assert asked[0][1][:1] == ["infinity_2b_reg.pth"]
    assert asked[1:3] == [("google/flan-t5-xl", True), ("google/flan-t5-xl", False)]
    assert places == [tmp_path / "nothing"]
    assert sorted(folder.rglob("*")) == before  # the hub's cache is the hub's


def test_an_error_of_the_hub_is_one_sentence(monkeypatch, infinity):
    def fails(*_, **__):
        raise RuntimeError("502 Bad Gateway\nTry again with advice\nof many lines")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fails)
    with pytest.raises(OSError, match=r"^cannot fetch FoundationVision/Infinity: 502 Bad Gateway$"):
        fv.load("infinity-2b", download=True)


def test_what_would_be_ignored_is_refused(tmp_path):
    with pytest.raises(ValueError, match="and download both say what to open; give one"):
        fv.load("infinity-2b", weights=tmp_path, download=True)
    with pytest.raises(ValueError, match="random weights read no files"):
        fv.load("hart-0.7b", weights="random", instruction=tmp_path / "text", depth=1)


def test_a_damaged_text_encoder_is_named(infinity):
    _, folder = infinity
    (folder / "flan-t5-xl").mkdir()
    (folder / "flan-t5-xl" / "config.json").write_text("{")
    with pytest.raises(WeightsError, match=r"cannot open the text encoder in .*flan-t5-xl"):
        fv.load("infinity-2b", weights=folder)


def test_what_does_not_fit_in_memory_is_refused(monkeypatch):
    free = SimpleNamespace(available=2**30)
    monkeypatch.setattr(loading.psutil, "virtual_memory", lambda: free)
    with pytest.raises(
        RuntimeError, match=r"needs 8.2 GiB for its weights in torch.float32; 1.0 G"
    ):
        fv.load("infinity-2b", weights="random")
    free.available = 2**40
    with pytest.raises(ValueError, match="no weights of infinity-layer16 were released"):
        fv.load("infinity-layer16", weights="somewhere")


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_loading_holds_the_weights_once(tmp_path, ending):
    """Peak memory of a process that loads, over one that does not: at most 1.15 times the file."""
    script = """
import resource, sys, torch, fastvar_lab as fv
from dataclasses import replace
from safetensors.torch import save_file
from fastvar_lab.models import families, releases
from fastvar_lab.backbones.autoencoder import AutoEncoderConfig
from fastvar_lab.backbones.var import VARConfig
releases.VAR["var-d16"] = VARConfig(6, 1024, 16, (1, 2, 3), classes=10)
families.VAR_TOKENIZER = AutoEncoderConfig(32, (32, 32), 1, 1)
folder, what, ending = sys.argv[1:]
released = releases.release
releases.release = lambda name: replace(released(name), transformer="var_d16." + ending)
if what == "save":
    m = fv.load("var-d16", weights="random")
    state = {k: v.contiguous() for k, v in m.transformer.state_dict().items()}
    (torch.save if ending == "pth" else save_file)(state, f"{folder}/var_d16.{ending}")
    torch.save(m.tokenizer.state_dict(), folder + "/vae_ch160v4096z32.pth")
else:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    fv.load("var-d16", weights=folder)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""
    for what in ("save", "load"):
        done = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path), what, ending],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    size = (tmp_path / f"var_d16.{ending}").stat().st_size
    assert size > 3e8
    assert int(done.stdout) <= 1.15 * size


def shapes(module):
    return {k: tuple(v.shape) for k, v in module.state_dict().items()}


def linear(name, out, into, bias=True):
    return {f"{name}.weight": (out, into)} | ({f"{name}.bias": (out,)} if bias else {})


@pytest.mark.parametrize("name", ["infinity-125m", "infinity-2b", "infinity-8b"])
def test_names_and_shapes_of_released_infinity(name):
    depth, c, h, f, d = {
        "infinity-125m": (12, 768, 8, 3072, 16),
        "infinity-2b": (32, 2048, 16, 8192, 32),
        "infinity-8b": (40, 3584, 28, 14336, 56),
    }[name]
    want = {"cfg_uncond": (512, 2048), "pos_start": (1, 1, c), "text_norm.weight": (2048,)}
    pool = "text_proj_for_sos.ca."
    want |= {pool + "mat_q": (1, 16, c // 16), pool + "v_bias": (c,), pool + "zero_k_bias": (c,)}
    want |= linear(pool + "mat_kv", 2 * c, 2048, False) | linear(pool + "proj", c, c)
    want |= linear("text_proj_for_ca.0", c, 2048) | linear("text_proj_for_ca.2", c, c)
    want |= {"lvl_embed.weight": (15, c)} | linear("word_embed", c, d) | linear("head", 2 * d, c)
    want |= linear("shared_ada_lin.1", 6 * c, c) | linear("head_nm.ada_lin.1", 2 * c, c)
    for i in range(depth):
        b = f"blocks.{i}."
        want |= {b + "ada_gss": (1, 1, 6, c), b + "sa.scale_mul_1H11": (1, h, 1, 1)}
        vectors = "sa.q_bias sa.v_bias sa.zero_k_bias ca.v_bias ca.zero_k_bias ca_norm.weight"
        want |= {b + k: (c,) for k in (*vectors.split(), "ca_norm.bias")}
        want |= linear(b + "sa.mat_qkv", 3 * c, c, False) | linear(b + "sa.proj", c, c)
        want |= linear(b + "ca.mat_q", c, c) | linear(b + "ca.mat_kv", 2 * c, c, False)
        want |= (
            linear(b + "ca.proj", c, c) | linear(b + "ffn.fc1", f, c) | linear(b + "ffn.fc2", c, f)
        )
    with torch.device("meta"):
        model = build.build(releases.INFINITY[name])
    assert shapes(model.transformer) == want
    count = 225 if name == "infinity-8b" else 269
    assert abs(len(shapes(model.tokenizer)) + 2 - count) <= 1  # released: two unused masks more


@pytest.mark.parametrize(
    ("name", "shared"), [("var-d16", False), ("var-d30", False), ("var-d36", True)]
)
def test_names_and_shapes_of_released_var(name, shared):
    d = int(name[5:])
    c, tokens = 64 * d, 2240 if shared else 680
    want = {"pos_start": (1, 1, c), "pos_1LC": (1, tokens, c), "class_emb.weight": (1001, c)}
    want |= {"lvl_embed.weight": (10, c)} | linear("word_embed", c, 32) | linear("head", 4096, c)
    want |= linear("head_nm.ada_lin.1", 2 * c, c)
    want |= linear("shared_ada_lin.1", 6 * c, c) if shared else {}
    for i in range(d):
        b = f"blocks.{i}."
        want |= {b + "ada_gss": (1, 1, 6, c)} if shared else linear(b + "ada_lin.1", 6 * c, c)
        want |= {b + "attn.scale_mul_1H11": (1, d, 1, 1)}
        want |= {b + f"attn.{k}": (c,) for k in ("q_bias", "v_bias", "zero_k_bias")}
        want |= linear(b + "attn.mat_qkv", 3 * c, c, False) | linear(b + "attn.proj", c, c)
        want |= linear(b + "ffn.fc1", 4 * c, c) | linear(b + "ffn.fc2", c, 4 * c)
    with torch.device("meta"):
        assert shapes(build.build(releases.VAR[name]).transformer) == want


def test_names_and_shapes_of_released_hart():
    c, w = 1536, 1024
    want = linear("word_embed", c, 32) | linear("context_embed", c, 1536) | linear("head", 4096, c)
    want |= {k: (c,) for k in ("context_norm.weight", "head_nm.ln_wo_grad.weight",
                               "decoder_norm.weight")}  # fmt: skip
    want |= linear("lvl_embed.mlp.0", c, 256) | linear("lvl_embed.mlp.2", c, c)
    want |= linear("head_nm.ada_lin.1", 2 * c, c)
    for i in range(24):
        b = f"blocks.{i}."
        want |= {b + f"attn.{k}": (c,) for k in ("q_bias", "v_bias", "zero_k_bias")}
        want |= linear(b + "attn.qkv_proj", 3 * c, c, False) | linear(b + "attn.proj", c, c)
        want |= linear(b + "ffn.gate_proj", 4096, c, False) | linear(
            b + "ffn.up_proj", 4096, c, False
        )
        want |= linear(b + "ffn.down_proj", c, 4096, False) | {b + "ln_wo_grad.weight": (c,)}
    net = "diffloss.net."
    want |= linear(net + "time_embed.mlp.0", w, 256) | linear(net + "time_embed.mlp.2", w, w)
    want |= linear(net + "cond_embed", w, c) | linear(net + "input_proj", w, 32)
    for i in range(6):
        b = f"{net}res_blocks.{i}."
        want |= {b + "in_ln.weight": (w,), b + "in_ln.bias": (w,)}
        want |= linear(b + "mlp.0", w, w) | linear(b + "mlp.2", w, w)
        want |= linear(b + "adaLN_modulation.1", 3 * w, w)
    want |= linear(net + "final_layer.linear", 64, w)
    want |= linear(net + "final_layer.adaLN_modulation.1", 2 * w, w)
    with torch.device("meta"):
        model = build.build(releases.HART["hart-0.7b"])
    assert shapes(model.transformer) == want
    assert sum(p.numel() for p in model.transformer.parameters()) == 732_399_168


def test_official_precision_has_the_released_types():
    config = {"depth": 2, "width": 64, "heads": 2, "ffn": 64, "bits": 4, "text_width": 32,
              "text_length": 8, "pool_heads": 4}  # fmt: skip
    state = Infinity(InfinityConfig(**config)).state_dict()
    model = fv.from_states("infinity", config, state, sizes=[(1, 1), (2, 2), (3, 3)])
    model.set_precision("official", torch.bfloat16)
    types, heads = [], []

    class Types(fv.Wrapper):
        def sublayer(self, site, grid, branch, x):
            types.append((grid.index, site.layer, site.kind, x.dtype))
            return self.inner.sublayer(site, grid, branch, x)

        def attend(self, site, grid, q, k, v, mask=None, scale=1.0):
            heads.append((site.kind, k.dtype))
            return self.inner.attend(site, grid, q, k, v, mask, scale)

    torch.manual_seed(0)
    text = RandomText(32).encode(["a red circle"])
    made = fv.generate(model, text, fv.Prune({-1: 0.5}), watch=[Types])
    assert made.canvas.dtype == torch.float32
    assert {p.dtype for p in model.transformer.blocks.parameters()} == {torch.bfloat16}
    assert model.transformer.word_embed.weight.dtype == torch.float32
    after = {(g, i, k): t for g, i, k, t in types}
    assert after[1, 0, "attn"] == torch.bfloat16  # later scales start so ...
    assert after[1, 0, "ffn"] == after[1, 1, "attn"] == torch.float32  # ... until text attention
    assert ("attn", torch.bfloat16) in heads
    model.set_precision("float32")
    plain = fv.from_states("infinity", config, state, sizes=[(1, 1), (2, 2), (3, 3)])
    plain.set_precision("float32", torch.bfloat16).set_precision("float32")  # rounded as it was
    again, other = (fv.generate(m, text, fv.Prune({-1: 0.5})) for m in (model, plain))
    assert torch.equal(again.canvas, other.canvas)
    assert model.autocast is None
