"""Live objects under the released names, attached: their own pictures, and nothing changed."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import fastvar_lab as fv
from fastvar_lab.backbones.hart import Context
from fastvar_lab.backbones.infinity import Text
from fastvar_lab.errors import WeightsError
from tests import reference, standins

SAMPLING = fv.Sampling(guidance=4.0, top_k=20, top_p=0.95)
SIZES = [(1, 1), (2, 2), (4, 4), (6, 6)]


@pytest.fixture
def var():
    return standins.LiveVAR()


def text():
    torch.manual_seed(3)
    return Text(torch.randn(1, 7, 32), torch.ones(1, 7, dtype=torch.bool))


def context():
    torch.manual_seed(3)
    return Context(torch.randn(1, 9, 24), torch.arange(9)[None])


def attached(family):
    """A live object of a family, its tokenizer, the model, and a condition."""
    if family == "var":
        live = standins.LiveVAR()
        return live, live.vae_proxy[0], fv.attach(live), torch.tensor([7])
    if family == "infinity":
        live = standins.live_infinity()
        tokenizer = standins.tree(standins.autoencoder_names(6, 32, False, 0, wrap=True), seed=1)
        model = fv.attach(live, tokenizer=tokenizer, sizes=[(1, 1), (2, 2), (4, 4), (6, 6)])
        return live, tokenizer, model, text()
    live, tokenizer = standins.live_hart()
    return live, tokenizer, fv.attach(live, tokenizer=tokenizer), context()


FAMILIES = ["var", "infinity", "hart"]


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param, *attached(request.param)


def pictures(model, condition, method=None, seed=1):
    return fv.generate(model, condition, method or fv.Dense(), seed=seed).canvas


def test_every_parameter_is_shared(family):
    _, live, tokenizer, model, _ = family
    for module, ours in ((live, model.transformer), (tokenizer, model.tokenizer)):
        theirs = {id(p) for name, p in module.named_parameters() if not name.startswith("disc.")}
        assert {id(p) for p in ours.parameters()} == theirs


def test_sizes_are_read_off(family):
    name, _, _, model, _ = family
    config = model.transformer.config
    assert (config.width, config.heads) == (64, 2)
    assert config.depth == {"var": 2, "infinity": 4, "hart": 2}[name]
    assert (model.name, model.family) == (name, name)
    assert model.tokenizer.config.widths == (32, 32)
    assert model.quantizer.channels == {"var": 8, "infinity": 6, "hart": 32}[name]


def test_pictures_are_those_of_the_formulas(family):
    """The reference knows nothing of modules: state dicts in, latents out."""
    name, live, tokenizer, model, condition = family
    book = {k.removeprefix("vae."): v for k, v in tokenizer.state_dict().items()}
    if name == "var":
        made = fv.generate(model, condition, fv.Dense(), draws=fv.Streamed(4), sampling=SAMPLING)
        sides = live.patch_nums
        latent, _ = reference.var(live.state_dict(), book, condition, sides, 2, 2, shared=False,
                                  seed=4, cfg=4.0, top_k=20, top_p=0.95)  # fmt: skip
    elif name == "infinity":
        sampling = fv.Sampling(guidance=3.0, temperature=0.5)
        made = fv.generate(model, condition, fv.Dense(), draws=fv.Streamed(4), sampling=sampling)
        flat = dict(zip(standins.infinity_names(chunks=1), standins.infinity_names(), strict=True))
        state = {key: live.state_dict()[chunked] for key, chunked in flat.items()}
        latent, _ = reference.infinity(state, *condition, model.sizes, (64, 64), 4, 2, 6, seed=4,
                                       pool_heads=4, cfg=3.0, tau=0.5)  # fmt: skip
    else:
        sampling = fv.Sampling(guidance=4.5, top_p=1.0)
        draws = fv.Streamed(4, rest=3)
        made = fv.generate(model, condition, fv.Dense(), draws=draws, sampling=sampling)
        latent, _ = reference.hart(live.state_dict(), book, *condition, (1, 2, 3, 4, 5, 6), 2, 2,
                                   seed=4, rest=3, cfg=4.5, smooth=False)  # fmt: skip
    assert (made.canvas - latent).abs().max() < 1e-4 * latent.abs().max()
    shown = model.decode(made.canvas)
    assert shown.shape[:2] == (1, 3)
    assert shown.isfinite().all()


def test_nothing_of_the_live_object_changes(family):
    _, live, tokenizer, model, condition = family

    def state():
        modules = [m for part in (live, tokenizer) for m in part.modules()]
        return (
            [(type(m), m.training, sorted(vars(m)), len(m._forward_hooks)) for m in modules],
            [(p.data_ptr(), p.stride(), p.requires_grad, p.grad) for p in live.parameters()],
            [p.clone() for part in (live, tokenizer) for p in part.parameters()],
        )

    before = state()
    pictures(model, condition, fv.Prune({-1: 0.5}))
    model.freeze().lay_out()
    after = state()
    assert before[:2] == after[:2]
    assert all(torch.equal(a, b) for a, b in zip(before[2], after[2], strict=True))


def test_a_change_of_the_live_object_is_seen(family):
    _, live, _, model, condition = family
    full = fv.generate(model, condition, fv.Dense(), seed=1, snapshot=True)
    identity = model.fingerprint
    with torch.no_grad():
        live.head.bias.add_(torch.randn_like(live.head.bias) * 3)
    assert model.fingerprint != identity
    assert not torch.equal(pictures(model, condition), full.canvas)
    with pytest.raises(ValueError, match="have changed since the snapshot"):
        fv.resume(model, full, fv.Prune({-1: 0.5}))


class Wrapped(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module


def test_wrappers_are_looked_through(var):
    plain = pictures(fv.attach(var), torch.tensor([3]))
    whole = Wrapped(torch.compile(var))  # as trainers nest them
    tokenizer = Wrapped(var.vae_proxy[0])
    assert torch.equal(pictures(fv.attach(whole, tokenizer=tokenizer), torch.tensor([3])), plain)
    inside = copy.deepcopy(var)
    inside.blocks[1] = torch.compile(inside.blocks[1])
    inside.blocks[0] = Wrapped(inside.blocks[0])
    assert torch.equal(pictures(fv.attach(inside), torch.tensor([3])), plain)


def test_the_other_layout_of_temperatures():
    live = standins.live_infinity()
    for chunk in live.block_chunks._modules.values():
        for block in chunk.module._modules.values():
            block.sa.scale_mul_1H11 = nn.Parameter(block.sa.scale_mul_1H11.data.transpose(1, 2))
    sizes = [(1, 1), (2, 2)]
    model, plain = (fv.attach(o, sizes=sizes) for o in (live, standins.live_infinity()))
    assert torch.equal(pictures(model, text()), pictures(plain, text()))


def test_schedule_of_a_pixel_budget_and_name():
    model = fv.attach(standins.live_infinity(), name="mine")
    assert model.sizes[-1] == (16, 16)
    assert model.name == "mine"


def test_functions_as_decoder_and_text_encoder():
    asked = []

    def encode(prompts):
        asked.extend(prompts)
        return tuple(text())

    model = fv.attach(
        standins.live_infinity(),
        sizes=[(1, 1), (4, 4)],
        tokenizer=lambda latent: latent[:, :3].sigmoid(),
        text=encode,
    )
    made = fv.generate(model, "a cat", fv.Dense(), seed=1)
    assert asked == ["a cat"]
    assert model.decode(made.canvas).shape == (1, 3, 4, 4)
    assert torch.equal(made.canvas, pictures(model, text()))
    bare = fv.attach(standins.live_infinity(), sizes=[(1, 1), (4, 4)])
    with pytest.raises(ValueError, match="pass encoded prompts"):
        fv.generate(bare, "a cat", fv.Dense())
    with pytest.raises(ValueError, match="without an autoencoder"):
        bare.decode(made.canvas)


class Encoder:
    def __init__(self, gain):
        self.gain = gain

    def __call__(self, prompts):
        features, mask = text()
        return features * self.gain, mask


class Encoding(nn.Module):
    def __init__(self, gain):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))


def test_functions_are_part_of_the_identity():
    live = standins.live_infinity()
    encoders = [
        lambda prompts: tuple(text()),
        lambda prompts: (text()[0] * 2, text()[1]),
        *(Encoder(1.0), Encoder(2.0), Encoding(1.0), Encoding(2.0)),
    ]
    identities = {fv.attach(live, text=encode).fingerprint for encode in encoders}
    assert len(identities) == len(encoders)


def test_blocks_in_bfloat16_run_under_autocast():
    live = standins.live_infinity()
    live.block_chunks.bfloat16()
    model = fv.attach(live, sizes=[(1, 1), (2, 2)])
    assert model.precision == "float32, autocast bfloat16, text attention rounded"
    assert pictures(model, text()).isfinite().all()


def test_adapters_of_another_type_do_not_decide_on_autocast():
    class Adapter(torch.nn.Module):
        def __init__(self, base, kind):
            super().__init__()
            self.base_layer = base
            self.lora_A = torch.nn.Linear(base.in_features, 2, bias=False, dtype=kind)
            self.lora_B = torch.nn.Linear(2, base.out_features, bias=False, dtype=kind)

        @property
        def weight(self):
            return self.base_layer.weight

        def forward(self, x):
            low = self.lora_B(self.lora_A(x.to(self.lora_A.weight.dtype)))
            return self.base_layer(x) + low.to(x.dtype)

    for kind, other in ((torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)):
        live = standins.live_infinity().to(kind)
        ffn = next(m for m in live.modules() if hasattr(m, "fc1"))
        ffn.fc1 = Adapter(ffn.fc1, other)
        model = fv.attach(live, sizes=[(1, 1), (2, 2)])
        assert model.autocast is None
        assert model.dtype is kind
        assert model.set_precision("float32", kind) is model


def test_a_move_is_refused(var):
    model = fv.attach(var)
    assert model.to("cpu") is model
    assert model.set_precision("float32") is model
    for change in (lambda: model.to("cpu", torch.float64), lambda: model.to("meta"),
                   lambda: model.set_precision("float32", torch.bfloat16)):  # fmt: skip
        with pytest.raises(ValueError, match="convert that object and attach it again"):
            change()
    assert var.head.weight.dtype == torch.float32


def test_check_finds_equal_pictures(var):
    model = fv.attach(var)
    result = fv.check(model, lambda: var.sample(7, 4), prompt="7", seed=4, sampling=SAMPLING)
    assert result.largest < 1e-4
    assert result.step is None
    assert len(result.layers) == 5 * 3  # what enters, and two layers, at every step
    assert "hidden states by at most" in repr(result)
    shown = fv.check(
        model, lambda: model.decode(var.sample(7, 4)), prompt="7", seed=4, sampling=SAMPLING
    )
    assert shown.largest < 1e-4
    assert not var.blocks[0]._forward_hooks


def test_check_says_where_they_part(var):
    model, bias = fv.attach(var), var.blocks[1].ffn.fc2.bias

    def other():
        bias.data += 1
        try:
            return var.sample(7, 4)
        finally:
            bias.data -= 1

    result = fv.check(model, other, prompt="7", seed=4, sampling=SAMPLING)
    assert (result.step, result.layer) == (0, 1)
    assert "they part at step 0, layer 1" in repr(result)
    result = fv.check(
        model, lambda: var.sample(7, 4, top_p=0.3), prompt="7", seed=4, sampling=SAMPLING
    )
    assert result.step > 0
    assert result.layer == -1
    assert "seed and sampling" in repr(result)
    result = fv.check(model, lambda: var.sample(3, 4), prompt="7", seed=4, sampling=SAMPLING)
    assert (result.step, result.layer) == (0, -1)


def bytes_of(picture):
    return (picture * 255).round().byte()


@pytest.mark.parametrize(
    ("convert", "most"),
    [
        (lambda x: x[0], 1e-4),
        (lambda x: x[0].movedim(0, -1), 1e-4),
        (lambda x: [x[0].movedim(0, -1).numpy()], 1e-4),
        (lambda x: x[0].movedim(0, -1).double().numpy(), 1e-4),
        (bytes_of, 3e-3),
        (lambda x: bytes_of(x[0]).movedim(0, -1).numpy(), 3e-3),
        (lambda x: (Image.fromarray(bytes_of(x[0]).movedim(0, -1).numpy()),), 3e-3),
    ],
)
def test_check_takes_pictures_as_samplers_return_them(var, convert, most):
    model = fv.attach(var)
    settings = {"prompt": "7", "seed": 4, "sampling": SAMPLING}
    result = fv.check(model, lambda: convert(model.decode(var.sample(7, 4))), **settings)
    assert result.step is None
    assert result.largest < most


def test_check_refuses_what_it_cannot_compare(var, small):
    with pytest.raises(ValueError, match="small is attached to no live object"):
        fv.check(small, lambda: None)
    model = fv.attach(var)
    with pytest.raises(ValueError, match="a function without arguments; not 3"):
        fv.check(model, 3)
    with pytest.raises(ValueError, match="must return a picture"):
        fv.check(model, lambda: "picture")
    for picture in (np.array(["picture"]), [torch.zeros(3, 4, 4)] * 2, None, np.zeros((4, 4))):
        with pytest.raises(ValueError, match="must return a picture"):
            fv.check(model, lambda p=picture: p)
    for picture in (torch.zeros(1, 8, 2, 2), torch.zeros(2, 3, 4, 4)):
        with pytest.raises(ValueError, match=r"returned \(., ., ., .\); this model gives"):
            fv.check(model, lambda p=picture: p)
    for picture in (model.decode(var.sample(7, 4)) * 2 - 1, np.full((4, 4, 3), 255, "int64")):
        with pytest.raises(ValueError, match=r"values in \[0, 1\], or uint8; not torch.* from"):
            fv.check(model, lambda p=picture: p)
    assert not var.blocks[0]._forward_hooks


def broken(change):
    live = standins.LiveVAR()
    change(live)
    return live


def other_place(live):
    live.head.to("meta")


@pytest.mark.parametrize(
    ("live", "error", "message"),
    [
        ({}, ValueError, "must be a live torch module; not a dict .*from_states"),
        (nn.Linear(2, 2).eval(), ValueError, r"\(Linear\) is no VAR .*holds weight, bias"),
        (
            standins.tree(standins.autoencoder_names()),
            ValueError,
            "is no VAR .*as a VAR or HART tokenizer of 50 codes does",
        ),
        (broken(nn.Module.train), ValueError, r"\(LiveVAR\) is in training mode; call its eval"),
        (
            broken(lambda live: live.blocks[1].train()),
            ValueError,
            "in training mode at blocks.1; call",
        ),
        (
            broken(lambda live: live.blocks[1]._modules.pop("ffn")),
            WeightsError,
            r"lacks blocks.1.ffn.fc1.weight \(256, 64\), blocks.1.ffn.fc1.bias .* and 1 more",
        ),
        (
            broken(lambda live: live._modules.pop("head")),
            WeightsError,
            "lacks head.weight, from which its sizes are read",
        ),
        (
            broken(lambda live: live.blocks[0].add_module("q_norm", nn.LayerNorm(64).eval())),
            WeightsError,
            "has parameters that this model lacks: blocks.0.q_norm.weight, blocks.0.q_norm.bias",
        ),
        (
            broken(lambda live: setattr(live.blocks[1].ffn, "fc1", nn.Linear(64, 96).eval())),
            WeightsError,
            r"blocks.1.ffn.fc1.weight in .* has shape \(96, 64\); this model needs \(256, 64\)",
        ),
        (
            broken(lambda live: setattr(live, "depth", 16)),
            ValueError,
            "has depth 16; its modules have 2",
        ),
        (
            broken(lambda live: setattr(live, "patch_nums", (1, 2, 3))),
            ValueError,
            r"has patch_nums \(1, 2, 3\); its buffer lvl_1L is that of \(1, 2, 3, 5, 6\)",
        ),
        (
            broken(lambda live: setattr(live, "vae_proxy", None)),
            ValueError,
            "needs its live tokenizer, which holds its codebook",
        ),
        (broken(other_place), WeightsError, "head.weight in .* is without content"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_objects(live, error, message):
    with pytest.raises(error, match=message):
        fv.attach(live)


class Elsewhere(torch.Tensor):
    """A tensor that says it is on a GPU."""

    @property
    def device(self):
        return torch.device("cuda:1")


def test_parameters_on_several_devices(var):
    weight = torch.randn(50, 64).as_subclass(Elsewhere)
    weight._is_param = True
    var.head._parameters["weight"] = weight
    with pytest.raises(WeightsError, match=r"on cpu and head.weight on cuda:1; move it to one dev"):
        fv.attach(var)


def test_settings_of_other_trainings_are_read_off():
    live = standins.live_infinity()
    plain = pictures(fv.attach(live, sizes=SIZES), text())
    live.add_lvl_embeding_only_first_block = 0
    by_chunk = fv.attach(live, sizes=SIZES)
    assert by_chunk.transformer.config.level_every == 2
    assert not torch.equal(pictures(by_chunk, text()), plain)
    live.add_lvl_embeding_only_first_block = 1
    for number, mode in enumerate(("absolute", "interpolated", "scaled")):
        live.rope2d_normalized_by_hw = number
        assert fv.attach(live).transformer.config.rotary_mode == mode
    moved = fv.attach(live, sizes=SIZES, reference=(12, 12))
    assert moved.transformer.config.reference == (12, 12)
    assert not torch.equal(pictures(moved, text()), plain)
    with pytest.raises(ValueError, match="a rotary reference grid belongs to Infinity"):
        fv.attach(standins.LiveVAR(), reference=(12, 12))
    live = standins.LiveVAR()
    for block in live.blocks:
        del block.attn.scale_mul_1H11
    with pytest.raises(WeightsError, match="has neither scale_mul_1H11 nor num_heads"):
        fv.attach(live)
    live.num_heads = 2
    assert not fv.attach(live).transformer.config.attn_l2_norm


def test_decoders_that_cannot_decode():
    live = standins.live_infinity()
    with pytest.raises(ValueError, match=r"cannot decode a latent \(1, 6, 4, 4\): no such thing"):
        fv.attach(live, tokenizer=no_such_thing)
    model = fv.attach(live, tokenizer=lambda x: x[:, :3].repeat(1, 1, 8, 8).sigmoid())
    assert model.tokenizer.config.stride == 8


def no_such_thing(latent):
    raise RuntimeError("no such thing")


def test_bad_infinity_and_hart():
    live = standins.live_infinity()
    live.rope2d_normalized_by_hw = 3
    with pytest.raises(ValueError, match="rope2d_normalized_by_hw 3; only 0, 1 and 2 are"):
        fv.attach(live)
    live = standins.tree(standins.infinity_names(chunks=1))
    live.add_lvl_embeding_only_first_block = 0
    with pytest.raises(ValueError, match="its layers are in no chunks"):
        fv.attach(live)
    live = standins.live_infinity()
    other = standins.tree(standins.autoencoder_names(8, 32, False, 0, wrap=True))
    with pytest.raises(ValueError, match="tokens of 6 bits, its tokenizer 8 channels"):
        fv.attach(live, tokenizer=other)
    with pytest.raises(ValueError, match="tokenizer must be a live module or a function; not 3"):
        fv.attach(live, tokenizer=3)
    with pytest.raises(ValueError, match="text must be a ConditionEncoder, a function, or a dict"):
        fv.attach(live, text=3)
    live, tokenizer = standins.live_hart()
    del live.num_heads
    with pytest.raises(ValueError, match="has no num_heads, which its shapes do not tell"):
        fv.attach(live, tokenizer=tokenizer)


def test_gradients_are_left_alone(var):
    model = fv.attach(var)
    var.head(torch.randn(1, 64)).sum().backward()
    kept = var.head.weight.grad.clone()
    assert not pictures(model, torch.tensor([1])).requires_grad
    assert torch.equal(var.head.weight.grad, kept)
    assert all(p.requires_grad for p in model.transformer.parameters())


def test_averages_repeated_layers_and_parts(var):
    plain = pictures(fv.attach(var), torch.tensor([3]))
    averaged = torch.optim.swa_utils.AveragedModel(var).eval()
    model = fv.attach(averaged, tokenizer=var.vae_proxy[0])
    assert torch.equal(pictures(model, torch.tensor([3])), plain)
    trainer = nn.ModuleDict({"gpt": var, "loss": nn.Linear(2, 2)}).eval()
    with pytest.raises(ValueError, match="is a VAR only in its part gpt; attach that part"):
        fv.attach(trainer)
    three = copy.deepcopy(var)
    three.blocks = nn.ModuleList([three.blocks[0]] * 3).eval()
    apart = copy.deepcopy(three)
    apart.blocks = nn.ModuleList(copy.deepcopy(block) for block in three.blocks).eval()
    repeated, unrolled = fv.attach(three), fv.attach(apart)
    assert repeated.depth == 3
    same = (pictures(m, torch.tensor([3])) for m in (repeated, unrolled))
    assert torch.equal(*same)


@pytest.mark.parametrize(
    "change",
    [
        lambda live: live.load_state_dict(copy.deepcopy(live.state_dict()), assign=True),
        lambda live: live.half(),
        lambda live: setattr(live.blocks[0].attn, "q_bias", nn.Parameter(torch.ones(64))),
    ],
)
def test_tensors_replaced_after_attaching_are_noticed(change, var):
    model = fv.attach(var)
    change(var)
    with pytest.raises(ValueError, match="was replaced, moved or converted after it was attached"):
        pictures(model, torch.tensor([3]))


def test_values_written_after_attaching_act(var):
    model, other = fv.attach(var), copy.deepcopy(var)
    other.head.bias.data += torch.randn(50) * 3
    var.load_state_dict(other.state_dict())
    expected = pictures(fv.attach(other), torch.tensor([3]))
    assert torch.equal(pictures(model, torch.tensor([3])), expected)


def test_dropout_in_training_mode_after_attaching_is_refused(var):
    class Dropping(nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base_layer, self.drop = base, nn.Dropout(0.5)

        @property
        def weight(self):
            return self.base_layer.weight

        def forward(self, x):
            return self.base_layer(self.drop(x))

    plain = fv.attach(var)
    adapted = copy.deepcopy(var)
    adapted.blocks[0].ffn.fc2 = Dropping(adapted.blocks[0].ffn.fc2).eval()
    model = fv.attach(adapted)
    before = pictures(model, torch.tensor([3]))
    assert torch.equal(before, pictures(plain, torch.tensor([3])))
    adapted.train()
    with pytest.raises(ValueError, match="in training mode, and its Dropout acts so"):
        pictures(model, torch.tensor([3]))
    var.train()  # plain layers compute alike
    assert torch.equal(before, pictures(plain, torch.tensor([3])))


def test_what_does_not_belong_together(var):
    other = standins.tree(standins.autoencoder_names(d=4), seed=1)
    with pytest.raises(ValueError, match="codes of 8 values, its tokenizer 4 channels"):
        fv.attach(var, tokenizer=other)
    var.vae_proxy[0].quantize.quant_resi.qresi_ls._modules["1"].resi_ratio = 0.25
    with pytest.raises(ValueError, match=r"resi_ratio 0.25 in .*qresi_ls.1; only 0.5"):
        fv.attach(var)
    with pytest.raises(WeightsError, match=r"pos_start in .* is without content"):
        fv.attach(standins.LiveVAR().to("meta"))
    for name in (3, "two\nlines"):
        with pytest.raises(ValueError, match="name is text in one line; not "):
            fv.attach(var, name=name)


def test_masks_of_numbers_and_texts_that_are_none():
    features, mask = text()
    mask = mask.clone()
    mask[0, 5:] = False
    made = []
    for kind in (torch.bool, torch.int64, torch.float32):
        encoded = [features, mask.to(kind)]
        model = fv.attach(standins.live_infinity(), sizes=SIZES, text=lambda p, e=encoded: e)
        made.append(fv.generate(model, "a", fv.Dense(), seed=1).canvas)
    assert torch.equal(made[0], made[1])
    assert torch.equal(made[0], made[2])
    with pytest.raises(ValueError, match=r"mask .* of True and False; not .* in torch.int64"):
        pictures(model, Text(features, mask.long()))
    for result, message in (
        (text(), r"features \(2, T, D\) and mask \(2, T\) for 2 prompts; not \(1, 7, 32\)"),
        ((features.expand(2, -1, -1), torch.zeros(2, 7)), "gives 'a' no tokens"),
    ):
        model = fv.attach(standins.live_infinity(), text=lambda p, r=result: r)
        with pytest.raises(ValueError, match=message):
            fv.generate(model, ["a", "b"], fv.Dense())
    with pytest.raises(ValueError, match="the condition a has no tokens"):
        fv.attach(standins.live_infinity(), text={"a": (features, torch.zeros(1, 7))})


@pytest.mark.parametrize(
    ("decode", "message"),
    [
        (lambda z: z[:, :3].sigmoid() * 2 - 2, r"values in \[0, 1\]; not from -1 to -1 .*x \+ 1"),
        (lambda z: (z[:, :3].sigmoid() * 255).byte(), r"values in \[0, 1\]; not from"),
        (lambda z: z[:, :3, None], r"pictures \(n, 3, h, w\); not \(1, 3, 1, 4, 4\)"),
    ],
)
def test_decoders_of_other_ranges_and_shapes(decode, message):
    with pytest.raises(ValueError, match=message):
        fv.attach(standins.live_infinity(), tokenizer=decode)
