"""What the released samplers can be set to: by straight-line references, and as promises."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F

import fastvar_lab as fv
from fastvar_lab.audit import merged_acts
from fastvar_lab.backbones.hart import HART, Context, HARTConfig
from fastvar_lab.backbones.infinity import Infinity, InfinityConfig, Text
from fastvar_lab.backbones.quantize import HybridQuantizer, VectorQuantizer
from fastvar_lab.backbones.var import VAR, VARConfig
from fastvar_lab.cli.main import main
from fastvar_lab.editing import parse_region, picture_size
from fastvar_lab.models.loading import load
from fastvar_lab.provenance import picture_key
from fastvar_lab.scales import infinity as schedule
from fastvar_lab.scales import square
from fastvar_lab.speed.flops import step_flops, total
from fastvar_lab.verification import verify
from tests import reference
from tests.families import FAMILIES, prompt, small_model
from tests.test_parity import compare, lively, watched

SIDES = (1, 2, 3, 5, 6)
RISING, FALLING = [0.0, 1.0, 1.5, 3.0, 2.5], [1.2, 1.0, 0.9, 0.8, 0.7]


def released_var(share=4, l2_norm=True):
    config = {
        "depth": 2, "width": 64, "heads": 2, "sides": SIDES, "classes": 10, "vocabulary": 40,
        "code": 8, "attn_l2_norm": l2_norm, "share_quant_resi": share,
    }  # fmt: skip
    state = lively(VAR(VARConfig(**config)))
    book = lively(VectorQuantizer(40, 8, 5, share), 1)
    return config, state, {f"quantize.{k}": v for k, v in book.items()}


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("share", [0, 1, 3, 4])
@pytest.mark.parametrize("l2_norm", [True, False])
def test_var_by_scale_with_other_attention_and_convolutions(n, share, l2_norm):
    config, state, book = released_var(share, l2_norm)
    model = fv.from_states("var", config, state, book)
    labels = torch.arange(n)
    sampling = fv.Sampling(guidance=RISING, temperature=FALLING, top_k=20, top_p=0.95)
    made, keys = watched(model, labels, fv.Dense(), 5, sampling=sampling)
    latent, log = reference.var(
        state, book, labels, SIDES, 2, 2, shared=False, seed=5, cfg=RISING, top_k=20, top_p=0.95,
        temperature=FALLING, l2_norm=l2_norm,
    )  # fmt: skip
    compare(made, keys, latent, log)


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("outpaint", [False, True])
@pytest.mark.parametrize("smooth", [False, True])
def test_var_edits_a_picture(n, outpaint, smooth):
    config, state, book = released_var()
    model = fv.from_states("var", config, state, book)
    labels, mask = torch.tensor([3, 10][:n]), fv.region_mask(6, 6, (0.1, 0.2, 0.8, 0.7), outpaint)
    given = [torch.randint(0, 40, (n, s * s)) for s in SIDES]
    sampling = fv.Sampling(guidance=3.0, top_k=20, top_p=0.95, smooth=smooth)
    options = {"sampling": sampling, "given": given, "keep": mask}
    made, _ = watched(model, labels, fv.Dense(), 5, **options)
    latent, _ = reference.var(
        state, book, labels, SIDES, 2, 2, shared=False, seed=5, cfg=3.0, top_k=20, top_p=0.95,
        smooth=smooth, given=given, mask=mask,
    )  # fmt: skip
    assert (made.canvas - latent).abs().max() < (1e-2 if smooth else 1e-5)
    each = fv.generate(model, labels, fv.Dense(), draws=fv.Streamed(5),
                       **{**options, "keep": mask.expand(n, 6, 6)})  # fmt: skip
    assert torch.equal(each.canvas, made.canvas)


@pytest.mark.parametrize("n", [1, 4])
def test_labels_that_are_left_out_are_drawn(n):
    config, state, book = released_var()
    model = fv.from_states("var", config, state, book)
    sampling = fv.Sampling(guidance=2.0, top_k=20, top_p=0.95)
    made, keys = watched(model, [None] * n, fv.Dense(), 5, sampling=sampling)
    latent, log = reference.var(
        state, book, n, SIDES, 2, 2, shared=False, seed=5, cfg=2.0, top_k=20, top_p=0.95
    )
    compare(made, keys, latent, log)
    keyed = fv.generate(model, [None, 4, "null"], fv.Dense(), seed=[1, 2, 3], snapshot=True)
    drawn = keyed.request.condition
    assert 0 <= int(drawn[0]) < 10
    assert drawn[1:].tolist() == [4, 10]
    again = fv.generate(model, drawn, fv.Dense(), seed=[1, 2, 3])
    assert torch.equal(again.canvas, keyed.canvas)
    alone = fv.generate(model, None, fv.Dense(), seed=1)
    assert torch.equal(alone.tokens[-1][0], keyed.tokens[-1][0])
    pruned = fv.Prune({-1: 0.5})
    assert torch.equal(
        fv.resume(model, keyed, pruned).canvas,
        fv.generate(model, [None, 4, "null"], pruned, seed=[1, 2, 3]).canvas,
    )


def released_infinity(**changes):
    config = {
        "depth": 4, "width": 64, "heads": 2, "ffn": 128, "bits": 6, "text_width": 32,
        "text_length": 12, "pool_heads": 4, **changes,
    }  # fmt: skip
    return config, lively(Infinity(InfinityConfig(**config)))


def texts(lengths, seed=1):
    torch.manual_seed(seed)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return Text(torch.randn(*mask.shape, 32) * mask[..., None], mask)


MAPS = {"square": square(1, 2, 4, 6), "tall": schedule(1.5, "0.06M")[:5]}
TURNS = {"absolute": reference.turn2d_absolute, "interpolated": reference.turn2d_interpolated}
SETTINGS = {
    "by scale": ({"guidance": [1.0, 2.0, 4.0, 3.0, 2.5], "temperature": FALLING}, {}, {}),
    "negative prompts": ({}, {"negative": texts([3, 7], 2)}, {}),
    "the last layer": ({"guidance_layer": -1}, {}, {}),
    "an earlier layer": ({"guidance_layer": -3, "guidance": [1.0, 2.0, 4.0, 3.0, 2.5]}, {}, {}),
    "a layer, negative": ({"guidance_layer": -2}, {"negative": texts([3, 7], 2)}, {}),
    "first scales given": ({}, {"given": 2}, {}),
    "levels at every layer": ({}, {}, {"level_every": 1}),
    "levels at every chunk": ({}, {}, {"level_every": 2, "patch": 2}),
    "absolute positions": ({}, {}, {"rotary_mode": "absolute"}),
    "interpolated positions": ({}, {}, {"rotary_mode": "interpolated"}),
}


@pytest.mark.parametrize("maps", MAPS)
@pytest.mark.parametrize("lengths", [[5], [9, 4]], ids=["one", "two"])
@pytest.mark.parametrize("name", SETTINGS)
def test_infinity(name, lengths, maps):
    sampled, options, changes = (dict(part) for part in SETTINGS[name])
    config, state = released_infinity(**changes)
    sizes, n = MAPS[maps], len(lengths)
    for key in ("guidance", "temperature"):
        if isinstance(sampled.get(key), list):
            sampled[key] = sampled[key][: len(sizes)]
    sampling = fv.Sampling(**{"guidance": 3.0, "temperature": 0.5, **sampled})
    if "negative" in options:
        options["negative"] = Text(*(part[:n] for part in options["negative"]))
    if "given" in options:
        torch.manual_seed(7)
        bits = [torch.rand(n, h * w, 6) < 0.5 for h, w in sizes]
        options["given"] = bits[: options["given"]]
    model = fv.from_states("infinity", config, state, sizes=sizes)
    text = texts(lengths)
    made, keys = watched(model, text, fv.Dense(), 4, sampling=sampling, **options)
    layer = sampling.guidance_layer
    latent, log = reference.infinity(
        state, *text, sizes, schedule(sizes[-1][0] / sizes[-1][1])[-1], 4, 2, 6, pool_heads=4,
        seed=4, patch=config.get("patch", 1),
        cfg=list(sampling.guidance) if "guidance" in sampled else 3.0,
        tau=list(sampling.temperature) if "temperature" in sampled else 0.5,
        after=4 + layer if layer else None, turns=TURNS.get(changes.get("rotary_mode")),
        level_every=changes.get("level_every", 0), dtype=torch.float32, **options,
    )  # fmt: skip
    compare(made, keys, latent, log)


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("iterations", [1, 2, 5])
@pytest.mark.parametrize("diffuse", [True, False])
def test_hart_in_mask_iterations_with_and_without_residuals(n, iterations, diffuse):
    sides = (1, 2, 3, 5, 6)
    config = {
        "depth": 2, "width": 64, "heads": 2, "hidden": 96, "sides": sides, "context": 9,
        "context_width": 24, "vocabulary": 700, "diffusion_width": 48, "diffusion_depth": 2,
    }  # fmt: skip
    state = lively(HART(HARTConfig(**config)))
    book = {f"quantize.{k}": v for k, v in lively(HybridQuantizer(700, 32, 5), 1).items()}
    model = fv.from_states("hart", config, state, book).to("cpu", torch.float64)
    torch.manual_seed(1)
    context = Context(torch.randn(n, 9, 24), torch.arange(9).expand(n, -1))
    ramp = fv.ramp(4.5, 5, hold=1)
    for guidance, cfg in ((4.5, 4.5), (ramp, list(ramp))):
        sampling = fv.Sampling(
            guidance=guidance, top_p=1.0, mask_iterations=iterations, residuals=diffuse
        )
        made, keys = watched(model, context, fv.Dense(), 4, sampling=sampling)
        latent, log = reference.hart(
            state, book, *context, sides, 2, 2, seed=4, rest=3, cfg=cfg, iterations=iterations,
            diffuse=diffuse,
        )  # fmt: skip
        assert keys == log.keys
        gap = float((made.canvas - latent).abs().max() / latent.abs().max())
        assert gap < 1e-10


PER_FAMILY = {
    "infinity": [fv.Sampling(2.0, 0.7, guidance_layer=-1), fv.Sampling(2.0, guidance_layer=-2),
                 fv.Sampling([1.0, 1.0, 2.0, 3.0, 1.0], FALLING)],
    "var": [fv.Sampling(2.0, guidance_layer=-1, top_k=20), fv.Sampling(RISING, FALLING)],
    "hart": [fv.Sampling(2.0, mask_iterations=3), fv.Sampling(2.0, residuals=False)],
}  # fmt: skip
CASES = [(name, i) for name, cases in PER_FAMILY.items() for i in range(len(cases))]


@pytest.mark.parametrize(("family", "case"), CASES)
def test_methods_keep_their_promises_under_every_sampling(family, case):
    model = small_model(family, dtype=torch.float64)
    model.sampling = PER_FAMILY[family][case]
    if isinstance(model.sampling.guidance, tuple):
        steps = len(model.sizes)
        model.sampling = replace(
            model.sampling,
            guidance=(model.sampling.guidance * 2)[:steps],
            temperature=(model.sampling.temperature * 2)[:steps],
        )
    methods = [fv.Dense(), fv.Prune({-2: 0.5, -1: 1.0})]
    if model.sampling.mask_iterations == 1:
        methods += [fv.Prune({-2: 0.5, -1: 0.75}), fv.Merge({-1: 0.5})]
    for method in methods:
        frame = verify(model, method, prompt(model))
        assert (frame.passed != False).all(), frame.to_string()  # noqa: E712 (None does not apply)


def test_guidance_at_a_layer_runs_half_the_rows_after_it():
    model = small_model("infinity", dtype=torch.float64)
    rows = {}

    class Count(fv.Wrapper):
        def sublayer(self, site, grid, branch, x):
            rows.setdefault(site.layer, set()).add(len(x))
            return self.inner.sublayer(site, grid, branch, x)

    sampling = replace(model.sampling, guidance_layer=-2)
    fv.generate(model, prompt(model), fv.Dense(), sampling=sampling, watch=[Count])
    assert rows == {0: {2}, 1: {2}, 2: {1}}
    grids = model.grids()
    late, logits = (
        total(step_flops(model, fv.Dense(), grids, sampling=s))
        for s in (sampling, replace(sampling, guidance_layer=0))
    )
    assert late < logits == total(step_flops(model, fv.Dense(), grids))


def test_merging_methods_and_parts_that_are_pruned_are_refused():
    grids = small_model("infinity").grids()
    with pytest.raises(ValueError, match=r"merges the guidance rows at step 0 \(1x1\) itself"):
        merged_acts(fv.Dense(), [fv.Act(fused=1)] * len(grids), grids, 2)
    hart = small_model("hart")
    hart.sampling = replace(hart.sampling, mask_iterations=2)
    with pytest.raises(ValueError, match="is drawn in 2 forwards, which a method runs whole"):
        fv.generate(hart, prompt(hart), fv.Prune({-1: 0.5}))


@pytest.mark.parametrize("family", FAMILIES)
def test_resuming_with_all_of_it_gives_the_bits_of_scratch(family):
    model = small_model(family, dtype=torch.float64)
    text, steps = prompt(model), len(model.sizes)
    other = {"infinity": "two red rings", "var": "3", "hart": "two rings"}[family]
    before = fv.generate(model, [text, text], fv.Dense(), seed=9)
    mask = torch.rand(2, 5, 7) < 0.5
    options = {
        "seed": [4, 5],
        "negative": other,
        "given": before.tokens[: steps - 1],
        "keep": mask,
        "sampling": replace(model.sampling, guidance=[0.5 + s for s in range(steps)]),
    }
    method = fv.Prune({-1: 0.5})
    scratch = fv.generate(model, [text, text], method, **options)
    full = fv.generate(model, [text, text], fv.Dense(), snapshot=True, **options)
    resumed = fv.resume(model, full, method)
    assert resumed.first_step == steps - 1
    assert torch.equal(resumed.canvas, scratch.canvas)
    alone = fv.generate(
        model, text, method, **{**options, "seed": 5, "keep": mask[1:],
                                "given": [t[1:] for t in options["given"]]},
    )  # fmt: skip
    assert torch.allclose(alone.canvas[0], scratch.canvas[1], atol=1e-9)


def test_every_setting_is_part_of_the_address():
    model = small_model("infinity")
    text, tokens = prompt(model), fv.generate(model, prompt(model), fv.Dense()).tokens
    sampling = model.sampling
    cases = [
        {},
        {"negative": "a ring"},
        {"negative": "two rings"},
        {"given": tokens[:1]},
        {"given": tokens[:2]},
        {"given": [~tokens[0]]},
        {"given": tokens, "keep": torch.ones(2, 2)},
        {"given": tokens, "keep": torch.zeros(2, 2)},
        {"sampling": replace(sampling, guidance_layer=-1)},
        {"sampling": replace(sampling, guidance=[2.0] * 5)},
        {"sampling": replace(sampling, temperature=[2.0] * 5)},
        {"draws": fv.Streamed(0)},
    ]
    requests = [fv.generate(model, text, fv.Dense(), **case).request for case in cases]
    keys = [picture_key(model, fv.Dense(), request, 0) for request in requests]
    assert len(set(keys)) == len(cases)
    batch = fv.generate(model, [text] * 2, fv.Dense(), negative=["two rings", "a ring"])
    assert picture_key(model, fv.Dense(), batch.request, 0) == keys[2]
    assert "mask_iterations=2" in repr(fv.Sampling(mask_iterations=2))
    assert "residuals=False" in repr(fv.Sampling(residuals=False))
    configs = [InfinityConfig(4, 64, 2, 128, 6, 32, 12, **c)
               for c in ({}, {"rotary_mode": "absolute"}, {"level_every": 2})]  # fmt: skip
    assert len({repr(c) for c in configs}) == 3
    assert "rotary_mode" not in repr(configs[0])


def test_encoded_pictures_are_given_and_kept():
    for family in FAMILIES:
        model = small_model(family)
        made = fv.generate(model, prompt(model), fv.Dense())
        picture = F.interpolate(model.decode(made.canvas), size=picture_size(model, model.sizes))
        tokens = fv.encode_pictures(model, picture)
        assert [t.shape[:2] for t in tokens] == [t.shape[:2] for t in made.tokens]
        kept = fv.generate(model, prompt(model), fv.Dense(), given=tokens, keep=torch.ones(1, 1))
        whole = fv.generate(model, prompt(model), fv.Dense(), given=tokens)
        assert torch.equal(kept.canvas, whole.canvas)
        with pytest.raises(ValueError, match="encodes pictures of shape"):
            fv.encode_pictures(model, picture[..., :-1])
        for wrong in ((255 * picture).byte(), 255 * picture, picture - 2, picture * math.nan):
            with pytest.raises(ValueError, match=r"encodes pictures of floats in \[0, 1\]; not"):
                fv.encode_pictures(model, wrong)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", FAMILIES)
def test_pictures_are_encoded_with_weights_of_sixteen_bits(family, dtype):
    model = small_model(family, dtype=dtype)
    height, width = picture_size(model, model.sizes)
    torch.manual_seed(0)
    tokens = fv.encode_pictures(model, torch.rand(1, 3, height, width))
    assert [t.shape[1] for t in tokens] == [h * w for h, w in model.sizes]


SMALL = {family: small_model(family) for family in FAMILIES}
REFUSED = [
    ("infinity", {"sampling": lambda m: fv.Sampling([1.0, 2.0])}, "of the 5 scale steps; not 2"),
    ("infinity", {"sampling": lambda m: fv.Sampling(guidance_layer=-3)}, "-1 to -2 with 3 layers"),
    ("hart", {"sampling": lambda m: fv.Sampling(guidance_layer=-1)}, "guided at the logits alone"),
    ("hart", {"sampling": lambda m: fv.Sampling(mask_iterations=99)}, "leave one without tokens"),
    ("var", {"sampling": lambda m: fv.Sampling(mask_iterations=2)}, "belong to HART; a VAR"),
    ("infinity", {"sampling": lambda m: fv.Sampling(residuals=False)}, "belong to HART"),
    ("infinity", {"sampling": lambda m: fv.Sampling(smooth=True)}, "this model draws bits"),
    ("infinity", {"negative": lambda m: ["a ring"] * 3}, "take 1 or 2 negative prompts; not 3"),
    ("infinity", {"negative": lambda m: "a ring", "sampling": lambda m: fv.Sampling(1.0)},
     "a negative prompt takes guidance"),
    ("infinity", {"keep": lambda m: torch.ones(2, 2)}, "no tokens are given"),
    ("infinity", {"keep": lambda m: torch.ones(4), "given": lambda m: []}, "keep is a mask"),
]  # fmt: skip


@pytest.mark.parametrize(("family", "options", "sentence"), REFUSED, ids=[s for *_, s in REFUSED])
def test_what_is_not_allowed_is_refused_in_a_sentence(family, options, sentence):
    model = SMALL[family]
    with pytest.raises(ValueError, match=sentence):
        fv.generate(model, [prompt(model)] * 2, fv.Dense(),
                    **{k: make(model) for k, make in options.items()})  # fmt: skip


def test_equal_settings_are_written_alike():
    floats = fv.Sampling(4.0, 1.0, 1.0, 3, guidance_layer=-2)
    others = fv.Sampling(4, torch.tensor(1), 1, torch.tensor(3), guidance_layer=torch.tensor(-2))
    assert repr(others) == repr(floats)
    assert fv.Sampling([1, 2]) == fv.Sampling(torch.tensor([1.0, 2.0]))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: fv.Sampling(guidance=[]), "it is empty"),
        (lambda: fv.Sampling(guidance="high"), "guidance must be a number, or a list"),
        (lambda: fv.Sampling(guidance=[1.0, -1.0]), "guidance must be 0 or more"),
        (lambda: fv.Sampling(temperature=[1.0, 0.0]), "temperature must be above 0"),
        (lambda: fv.Sampling(top_p="most"), "top_p must be a number; not most"),
        (lambda: fv.Sampling(top_k=1.5), "top_k must be a whole number; not 1.5"),
        (lambda: fv.Sampling(guidance_layer=1), "guidance_layer must be 0"),
        (lambda: fv.Sampling(mask_iterations=0), "mask_iterations must be 1 or more"),
        (lambda: InfinityConfig(1, 8, 1, 8, 2, 4, 4, rotary_mode="2"), "rotary_mode must be one"),
        (lambda: InfinityConfig(1, 8, 1, 8, 2, 4, 4, level_every=-1), "level_every is a number"),
        (lambda: VARConfig(1, 8, 1, (1, 2), share_quant_resi=-1), "share_quant_resi must be 0"),
        (lambda: load("tiny", rotary_mode="absolute"), "does not take the option rotary_mode"),
        (lambda: load("tiny", level_every=0), "does not take the option level_every"),
        (lambda: load("tiny", attn_l2_norm=False), "does not take the option attn_l2_norm"),
        (lambda: load("tiny", share_quant_resi=0), "does not take the option share_quant_resi"),
        (lambda: fv.Streamed(2**64), "the seed of streamed draws must lie in"),
        (lambda: fv.Streamed(0, rest=-1), "the rest of streamed draws must lie in 0 to 4294967295"),
        (lambda: fv.Streamed(0.5), "the seed of streamed draws must be a whole number; not 0.5"),
        (lambda: load("var-d16", level_every=4), "level embeddings of later layers belong to Inf"),
        (lambda: load("infinity-2b", attn_l2_norm=False), "queries and keys belongs to VAR"),
        (lambda: load("infinity-2b", share_quant_resi=1), "belong to VAR and HART; not to inf"),
        (lambda: fv.region_mask(4, 4, (0.5, 0.0, 0.5, 1.0)), "a region is top, left"),
        (lambda: fv.region_mask(4, 4, (0.5, 0.5, 0.51, 1.0)), "covers no token of a map of 4x4"),
        (lambda: parse_region("a,b"), "a region is top,left,bottom,right"),
        (lambda: fv.generate(SMALL["hart"], None, fv.Dense()), "a prompt is text"),
        (lambda: fv.generate(SMALL["var"], torch.tensor([-1]), fv.Dense()), "a class lies in 0"),
    ],
)  # fmt: skip
def test_settings_are_checked_where_they_are_made(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


def test_released_variants_open_by_name():
    small = {"weights": "random", "depth": 2}
    infinity = load("infinity-125m", rotary_mode="interpolated", level_every=1, **small)
    assert infinity.transformer.config.level_every == 1
    assert "rotary_mode='interpolated', level_every=1" in infinity.source
    var = load("var-d16", attn_l2_norm=False, share_quant_resi=0, **small)
    names = set(var.tokenizer.state_dict())
    assert "quantize.quant_resi.9.weight" in names
    assert "blocks.0.attn.scale_mul_1H11" not in set(var.transformer.state_dict())
    assert "quantize.quant_resi.qresi.weight" in set(
        load("hart-0.7b", share_quant_resi=1, **small).tokenizer.state_dict()
    )


def test_positive_prompts_follow_people(tmp_path):
    assert fv.positive_prompt("a woman", ", lit") == "a woman, lit"
    assert fv.positive_prompt("a manga", ", lit") == "a manga, lit"
    assert fv.positive_prompt("a tree", ", lit") == "a tree"


def test_the_command_takes_the_samplers_settings(tmp_path, capsys):
    out = ["--out", str(tmp_path / "out")]
    several = ",".join(["2"] * 10)
    sampling = ["--guidance", several, "--temperature", "0.5", "--guidance-layer", "-2"]
    noise = ["--negative", "two stars", "--streamed"]
    assert main(["generate", "a red ring", *sampling, *noise, *out]) == 0
    first = capsys.readouterr().out.strip()
    edit = ["--picture", first, "--region", "0,0,0.5,1", "--outpaint"]
    assert main(["generate", "a red ring", "two stars", *edit, *out]) == 0
    assert len(list((tmp_path / "out").iterdir())) == 3
    assert main(["generate", "a red ring", "--picture", first, "--given", "3", *out]) == 0


REFUSED_BY_COMMAND = [
    (["--region", "0,0,1,1"], "--region takes the tokens of a --picture"),
    (["--picture", "x.png"], "--picture takes a --region to draw, or --given"),
    (["--picture", "x.png", "--given", "0"], "--given must be 1 scale or more"),
    (["--picture", "x.png", "--given", "1"], "cannot open the picture x.png"),
    (["--picture", "x.png", "--given", "11"], "--given must be at most 10 scales"),
    (["--picture", "x.png", "--region", "1"], "a region is top,left"),
    (["--outpaint"], "--outpaint takes the tokens of a --picture"),
    (["--guidance", "high"], "--guidance takes numbers such as 3 or 1,2,3"),
    (["--guidance", "1,2"], "each of the 10 scale steps; not 2"),
    (["--guidance-layer", "-8"], "-1 to -7 with 8 layers; not -8"),
    (["--mask-iterations", "2"], "belong to HART"),
    (["--top-k", "1"], "this model draws bits"),
    (["--negative", "a ring", "--guidance", "1"], "a negative prompt takes guidance"),
    (["--no-attn-l2-norm"], "the model tiny does not take the option attn_l2_norm"),
    (["--streamed", "--seed", str(2**70)], "the seed of streamed draws must lie in"),
    (["--no-residuals"], "belong to HART"),
    (["--rotary-mode", "absolute"], "the model tiny does not take the option rotary_mode"),
    (["--positive-prompt", "/nowhere"], "cannot read the file /nowhere"),
    (["--negative", "a blob"], "unknown word 'blob'"),
]


@pytest.mark.parametrize(("words", "message"), REFUSED_BY_COMMAND, ids=str)
def test_the_command_refuses_in_one_line(words, message, tmp_path, capsys):
    assert main(["generate", "a red ring", *words, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert message in said[-1]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", [1, 3])
def test_schedules_of_one_step_run_or_are_refused_in_a_sentence(family, side):
    model = small_model(family)
    once = partial(fv.generate, model, prompt(model), fv.Dense(), sizes=[(side, side)])
    if family == "hart" and side > 1:
        for call in (once, lambda: model.grids([(side, side)])):
            with pytest.raises(ValueError, match=r"first map of this model is 1x1.*; not 3x3"):
                call()
    else:
        assert once().canvas.shape[-2:] == (side, side)
