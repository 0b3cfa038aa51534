"""Weights files, the tokenizer, training that survives a kill."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

import fastvar_lab as fv
from fastvar_lab.backbones import quantize
from fastvar_lab.backbones.autoencoder import Context
from fastvar_lab.backbones.positions import rotary, rotate_
from fastvar_lab.errors import WeightsError
from fastvar_lab.models import tiny
from fastvar_lab.models.loading import skeleton
from fastvar_lab.scales import TINY, grids, square
from fastvar_lab.seam import Grid
from fastvar_lab.speed import flops
from fastvar_lab.training import looking, reading, start
from fastvar_lab.training.focus import (
    LOOKS,
    centers,
    look_maps,
    object_map,
    sampled_positions,
    token_weights,
    window,
)
from fastvar_lab.training.looking import learn_to_look, share_right, views
from fastvar_lab.training.loop import read_checkpoint, train
from fastvar_lab.training.naming import Namer, marked, shares
from fastvar_lab.training.reading import FACTS, facts, learn_to_read
from fastvar_lab.training.rehearsal import rehearse
from fastvar_lab.training.start import starting_model
from fastvar_lab.training.transformer import GROWTH, SAMPLED, SMALL, WHOLE, bit_losses, look
from fastvar_lab.world.grammar import COLORS, SHAPES, TEXTURES, VOCABULARY, parse
from fastvar_lab.world.scene import Object, Scene

SIDES = square(1, 2, 3, 5, 8)


@pytest.fixture
def folder(tmp_path):
    for name in (tiny.TOKENIZER_FILE, tiny.TRANSFORMER_FILE):
        (tmp_path / name).write_bytes((tiny.WEIGHTS / name).read_bytes())
    return tmp_path


def test_shipped_weights_open_and_are_small():
    model = fv.load("tiny")
    assert sum(f.stat().st_size for f in tiny.WEIGHTS.glob("*.safetensors")) <= 40e6
    assert model.text_encoder.config.vocabulary == tuple(VOCABULARY)
    cost = flops.total(flops.step_flops(model, fv.Dense(), grids(model.sizes)))
    assert cost <= 200e9


def test_bytes_of_a_step_are_its_weights_and_its_keys():
    model = fv.load("tiny")
    steps, words = grids(model.sizes), 5
    read = ("sa.mat_qkv", "sa.proj", "ca.mat_q", "ca.proj", "ffn.fc1", "ffn.fc2", "head.weight")
    weights = sum(
        w.numel()
        for name, w in model.transformer.state_dict().items()
        if w.ndim == 2 and any(part in name for part in read) and not name.startswith("text")
    )
    embedding = (
        model.transformer.word_embed.weight.numel() + model.transformer.places.weight.numel()
    )
    keys = 0
    found = flops.step_bytes(model, fv.Dense(), steps, words, pictures=3)
    for step, count in zip(steps, found, strict=True):
        keys += step.tokens
        held = 2 * 3 * 2 * 256 * 8 * (keys + words)  # rows, keys and values, width, layers
        assert count == 4 * (weights + embedding * (step.index > 0) + held)
    ends = [model.transformer.head.weight.numel() + embedding * (step.index > 0) for step in steps]
    layers = weights - model.transformer.head.weight.numel()
    values = [count / 4 - layers - end for count, end in zip(found, ends, strict=True)]
    for precision, kind, stored, cached in (
        ("official", torch.bfloat16, 2, 2),
        ("int8", torch.float32, 1, 4),
    ):
        narrow = fv.load("tiny").set_precision(precision, kind)
        assert flops.step_bytes(narrow, fv.Dense(), steps, words, pictures=3) == [
            stored * layers + 4 * end + cached * value
            for end, value in zip(ends, values, strict=True)
        ]
    pruned = flops.step_bytes(model, fv.Prune({-2: 0.5, -1: 1.0}), steps, words, pictures=3)
    assert pruned[:-2] == found[:-2]
    assert pruned[-1] == 0 < pruned[-2] < found[-2]


def test_a_truncated_file_is_refused(folder):
    file = folder / tiny.TRANSFORMER_FILE
    file.write_bytes(file.read_bytes()[:100_000])
    with pytest.raises(WeightsError, match="cannot read weights"):
        fv.load("tiny", weights=folder)


def test_a_foreign_file_is_refused(folder):
    save_file({"x": torch.zeros(3)}, folder / tiny.TOKENIZER_FILE)
    with pytest.raises(WeightsError, match="holds no configuration"):
        fv.load("tiny", weights=folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.update({"transformer.head.weight": torch.zeros(3, 3)}),
            r"transformer.head.weight .* \(3, 3\); this model needs \(32, 256\)",
        ),
        (lambda t: t.pop("transformer.pos_start"), "lacks transformer.pos_start"),
        (lambda t: t.update({"extra": torch.zeros(1)}), "has keys that this model lacks: extra"),
    ],
)
def test_weights_that_do_not_fit_name_the_key(folder, change, message):
    file = folder / tiny.TRANSFORMER_FILE
    tensors = load_file(file)
    change(tensors)
    config = {k: v for k, v in tiny.tiny_config().items() if k != "tokenizer"}
    save_file(tensors, file, metadata={"config": json.dumps(config)})
    with pytest.raises(WeightsError, match=message):
        fv.load("tiny", weights=folder)


def test_unknown_names_and_missing_gpus_are_refused():
    with pytest.raises(ValueError, match=r"must be one of tiny, var-d16, .*; not 'huge'"):
        fv.load("huge")
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="no CUDA GPU"):
            fv.load("tiny", device="cuda")


def test_random_weights_are_seeded():
    first, second, third = (fv.load("tiny", weights="random", seed=s) for s in (1, 1, 2))
    assert first.fingerprint == second.fingerprint != third.fingerprint


def test_rotary_positions_follow_the_formula():
    (table,) = rotary([(3, 4)], [(96, 96)], 8)
    inverse = [10000 ** (-2 * k / 4) for k in range(2)]
    q = torch.arange(1.0, 9.0, dtype=torch.float64).repeat(1, 12, 1, 1)
    out = rotate_(q.clone(), table)
    for cell in (0, 5, 11):
        y, x = cell // 4 * 32, cell % 4 * 24
        angles = [y * inverse[0], y * inverse[1], x * inverse[0], x * inverse[1]]
        for pair, angle in enumerate(angles):
            a, b = q[0, 0, 0, 2 * pair], q[0, 0, 0, 2 * pair + 1]
            angle = torch.tensor(angle, dtype=torch.float64)
            assert out[0, cell, 0, 2 * pair] == pytest.approx(
                float(a * angle.cos() - b * angle.sin()), abs=1e-4
            )


def test_quantiser_round_trip():
    latent = torch.randn(2, 16, 8, 8, dtype=torch.float64)
    labels, states = quantize.encode(latent, SIDES)
    so_far = torch.zeros_like(latent)
    for bits, state, (h, w) in zip(labels, states, SIDES, strict=True):
        assert bits.shape == (2, h * w, 16)
        so_far = quantize.BitQuantizer(16).accumulate(so_far, bits, Grid(0, h, w))
        assert torch.allclose(so_far, state, atol=1e-12)
    errors = [float((latent - s).square().mean()) for s in states]
    assert errors[-1] < errors[0]
    zero, _ = quantize.encode(torch.zeros(1, 4, 2, 2), square(1))
    assert not zero[0].any()  # 0 counts as bit 0


def test_flipped_bits_are_answered_for_by_later_labels():
    latent = torch.randn(1, 16, 8, 8)
    draw = torch.Generator().manual_seed(0)
    clean, _ = quantize.encode(latent, SIDES)
    noisy, states = quantize.encode(latent, SIDES, torch.tensor([0.3]), draw)
    assert torch.equal(clean[0], noisy[0])
    assert not torch.equal(clean[-1], noisy[-1])
    assert torch.isfinite(states[-1]).all()


def test_straight_through_gradients_reach_the_means_of_cells():
    latent = torch.randn(1, 4, 8, 8, requires_grad=True)
    states = quantize.straight_through(latent, SIDES)
    for state, plain in zip(states, quantize.encode(latent.detach(), SIDES)[1], strict=True):
        assert torch.allclose(state, plain, atol=1e-6)
    wanted = torch.randn(1, 4, 8, 8)
    (grad,) = torch.autograd.grad((states[0] * wanted).sum(), latent, retain_graph=True)
    means = wanted.mean((2, 3), keepdim=True).expand_as(wanted)
    assert torch.allclose(grad, means, atol=1e-6)  # a 1x1 map can hold one mean
    (grad,) = torch.autograd.grad((states[-1] * wanted).sum(), latent)
    assert torch.allclose(grad, wanted)


@pytest.mark.parametrize("size", [(8, 8), (5, 7), (1, 3)])
def test_context_begins_as_nothing_and_sees_everything(size):
    torch.manual_seed(0)
    context, x = Context(32, (32, 64)), torch.randn(1, 32, *size, requires_grad=True)
    assert torch.equal(context(x), x)
    context.up[0].weight.data.normal_()
    (grad,) = torch.autograd.grad(context(x)[0, :, 0, 0].sum(), x)
    assert (grad.abs().sum(1) > 0).all()


def test_looks_lie_where_the_objects_are():
    scene = Scene((Object("star", "red", "dotted", x=0.25, y=0.75, size=0.15),))
    maps = look_maps(scene, 32, 32)
    assert maps[:, 24, 8].tolist() == [
        1 + SHAPES.index("star"),
        1 + list(COLORS).index("red"),
        1 + TEXTURES.index("dotted"),
    ]
    assert not maps[:, 8, 24].any()
    seen = views(0, 0, 4, 128, stride=8)
    assert {p.shape for p in seen.pictures} == {(128, 128, 3)}
    assert seen.looks.shape == (4, 3, 16, 16)
    for picture, looks in zip(seen.pictures, seen.looks, strict=True):
        cells = torch.from_numpy(picture).float().view(16, 8, 16, 8, 3).mean((1, 3)) / 255
        chroma = cells.amax(-1) - cells.amin(-1)
        assert chroma[looks[0] > 0].mean() > 3 * chroma[looks[0] == 0].mean()


def test_the_encoder_learns_to_look():
    torch.manual_seed(0)
    tokenizer = tiny.build_tiny(tiny.tiny_config()).tokenizer.requires_grad_(True).train()
    assert learn_to_look(tokenizer, steps=60, batch=9)["color"] > 0.4  # eight answers
    odds = torch.zeros(1, 21, 2, 2)
    odds[0, [3, 7, 20]] = 1
    looks = torch.tensor([3, 0, 4])[None, :, None, None].expand(1, 3, 2, 2)
    assert share_right(odds, looks) == {"shape": 1, "color": 1, "texture": 1}


def test_a_rehearsal_ends_true_beginnings():
    model = fv.load("tiny")
    latents, images = rehearse(model, 3, seed=1)
    assert latents.shape == (3, 16, 32, 32)
    assert images.shape == (3, 3, 256, 256)
    with torch.no_grad():
        _, states = quantize.encode(model.tokenizer.encoder(images), TINY)
    drawn, true, other = (
        F.interpolate(x, (2, 2), mode="area") for x in (latents, states[-1], states[-1].roll(1, 0))
    )
    assert (drawn - true).abs().mean() < (drawn - other).abs().mean()
    assert not torch.equal(latents, states[-1])


def test_a_small_transformer_learns():
    torch.manual_seed(0)
    config = tiny.tiny_config()
    config["transformer"] |= {"depth": 2, "width": 64, "heads": 2, "ffn": 128}
    model = tiny.build_tiny(config)
    model.transformer.initialize()
    latent, objects = torch.randn(4, 16, 8, 8), torch.rand(4, 8, 8) < 0.3
    looks = torch.zeros(4, 3, 8, 8, dtype=torch.long)
    parts = torch.nn.ModuleList([model.transformer, model.text_encoder]).requires_grad_(True)
    optimizer = torch.optim.AdamW(parts.parameters(), 3e-3)
    losses = []
    for step in range(12):
        draw = torch.Generator().manual_seed(step)
        text = model.text_encoder.encode(["a red circle"] * 4)
        weights = token_weights(objects, SIDES)
        around = centers(objects, looks, draw)
        positions = sampled_positions(SIDES, SAMPLED.sampled, weights, around, draw)
        found, middle = bit_losses(model.transformer, text, latent, SIDES, positions, weights, draw)
        loss = sum(found)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.97 * losses[0]
    lengths = [h * w if p is None else p.shape[1] for (h, w), p in zip(SIDES, positions)]
    assert middle.shape == (4, sum(lengths), 64)


def test_tokens_learn_to_name_what_lies_there():
    scene = Scene((Object("star", "red", "dotted", x=0.25, y=0.75, size=0.2),))
    looks = look_maps(scene, 32, 32).expand(2, -1, -1, -1)
    found = shares(marked(looks), 4, 4)
    assert torch.allclose(found[..., : LOOKS[0]].sum(-1), torch.ones(2, 16))
    inside = 1 - found[0, :, 0]
    assert int(inside.argmax()) in (8, 9, 12, 13)  # around a quarter across, three down
    assert inside[3] == 0
    assert torch.allclose(found[0, :, 1 + SHAPES.index("star")], inside)

    torch.manual_seed(0)
    sizes, some = [(1, 1), (4, 4), (8, 8)], torch.tensor([[49, 50, 7], [42, 41, 0]])
    namer, x = Namer(16), torch.randn(2, 20, 16)
    optimizer = torch.optim.Adam(namer.parameters(), 0.05)
    losses = []
    for _ in range(60):
        loss, right = namer(x, looks, sizes, [None, None, some])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert right == 1


def test_the_text_encoder_learns_to_read():
    torch.manual_seed(0)
    encoder = tiny.build_tiny(tiny.tiny_config()).text_encoder.requires_grad_(True).train()
    right = learn_to_read(encoder, steps=40, batch=32)
    assert right["shape"] == 1
    assert right["color"] > 0.5  # nine answers


def test_facts_of_a_relation_are_seen_from_both_ends():
    prompts = [parse("a red ring left of a dotted cross"), parse("two stars and a blue square")]
    nouns, answers = facts(prompts)
    assert nouns.tolist() == [[0, 2], [0, 7], [1, 1], [1, 5]]
    told = [[list(k)[i] for k, i in zip(FACTS.values(), row)] for row in answers.tolist()]
    assert told[0] == ["ring", "red", None, 1, "left of", 0, 2]
    assert told[1] == ["cross", None, "dotted", 1, "right of", 1, 2]
    assert told[2] == ["star", None, None, 2, None, 0, 3]
    assert told[3] == ["square", "blue", None, 1, None, 2, 3]


def test_every_step_of_the_growth_shows_something():
    draw = torch.Generator().manual_seed(0)
    seen = [look(i / 1000, draw) for i in range(1000)]
    assert {SMALL, SAMPLED, WHOLE} <= set(seen)
    assert (seen[0], seen[-1]) == (SMALL, WHOLE)
    assert all(sum(share for share, _ in phase.looks) == pytest.approx(1) for phase in GROWTH)


@pytest.mark.parametrize("most", [64, 144, 1024])
def test_sampled_positions_lie_on_their_maps(most):
    for seed in range(6):
        draw = torch.Generator().manual_seed(seed)
        objects = torch.rand(3, 32, 32, generator=draw) < 0.1
        looks = torch.zeros(3, 3, 32, 32, dtype=torch.long)
        weights, around = token_weights(objects, TINY), centers(objects, looks, draw)
        chosen = sampled_positions(TINY, most, weights, around, draw)
        for (h, w), at in zip(TINY, chosen, strict=True):
            if h * w <= most:
                assert at is None
            else:
                assert at.min() >= 0
                assert at.max() < h * w
                assert all(len(set(row)) == len(row) == most for row in at.tolist())


def test_a_training_step_looks_at_the_objects():
    scene = Scene((Object("circle", "red", "solid", x=0.25, y=0.75, size=0.15),))
    objects = object_map(scene, 32, 32)[None].expand(64, -1, -1)
    looks = look_maps(scene, 32, 32)[None].expand(64, -1, -1, -1)
    assert objects[0, 24, 8]
    assert objects[0].float().mean() == pytest.approx(3.14 * (0.15 * 1.2) ** 2, rel=0.3)
    draw = torch.Generator().manual_seed(0)
    weights, around = token_weights(objects, TINY), centers(objects, looks, draw)
    for chosen in (window(20, 20, 64, around), window(24, 24, 64, around)):
        side = int(chosen.max() ** 0.5) + 1
        h = 20 if side <= 20 else 24
        seen = torch.zeros(64, h * h).scatter_(1, chosen, 1).view(64, h, h).mean(0)
        assert seen[3 * h // 4, h // 4] > 0.6 > 3 * seen[h // 4, 3 * h // 4]
    big = weights[-1].view(64, 32, 32)
    assert big[0, 24, 8] == pytest.approx(5 * float(big[0, 4, 28]))
    assert float(big.mean()) == pytest.approx(1)


def test_a_training_step_looks_more_often_at_dots():
    left = Object("circle", "red", "dotted", x=0.25, y=0.5, size=0.15)
    scene = Scene((left, Object("circle", "red", "striped", x=0.75, y=0.5, size=0.15)))
    objects = object_map(scene, 32, 32)[None].expand(2000, -1, -1)
    looks = look_maps(scene, 32, 32)[None].expand(2000, -1, -1, -1)
    around = centers(objects, looks, torch.Generator().manual_seed(0))
    dotted = float((around[:, 1] < 0.5).float().mean())
    assert 0.6 < dotted < 0.8  # cells of dots count three times


def test_a_resumed_training_is_the_same_training(tmp_path):
    def run(name, pieces):
        torch.manual_seed(0)
        model = torch.nn.Linear(4, 4)

        def loss(step):
            x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
            if pieces and step == pieces[0]:
                pieces.pop(0)
                signal.raise_signal(signal.SIGINT)
            value = (model(x) - x.flip(1)).square().mean()
            return value, {"loss": float(value.detach())}

        options = {"peak": 1e-2, "betas": (0.9, 0.95), "weight_decay": 0.1, "warmup": 3}
        for resume in (False, True, True):
            try:
                train(model, loss, steps=20, checkpoint=tmp_path / name, resume=resume, **options)
                return model.weight.detach().clone()
            except KeyboardInterrupt:
                model = torch.nn.Linear(4, 4)
        raise AssertionError

    assert torch.equal(run("whole.ckpt", []), run("pieces.ckpt", [7, 13]))


def test_a_configuration_of_another_version_names_what_is_foreign():
    config = tiny.tiny_config()
    config["tokenizer"]["context"] = []
    with pytest.raises(
        ValueError, match="tokenizer has the unknown field 'context', perhaps of another version"
    ):
        tiny.build_tiny(config)


def test_a_training_starts_from_weights_with_or_without_context(tmp_path):
    config = tiny.tiny_config()
    config["tokenizer"] |= {"encoder_context": (), "decoder_context": ()}
    plain = tiny.build_tiny(config)
    tiny.save_tokenizer(plain, tmp_path)
    tiny.save_transformer(plain, tmp_path)
    grown = starting_model("tokenizer", tmp_path, tmp_path)
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        latents = [m.tokenizer.encoder(image) for m in (grown, plain)]
        pictures = [m.tokenizer.decoder(latents[0]) for m in (grown, plain)]
    assert grown.tokenizer.config.encoder_context
    assert torch.allclose(*latents, atol=1e-2)  # stored as float16
    assert torch.allclose(*pictures, atol=1e-2)
    decoder = starting_model("tokenizer", tmp_path, tmp_path, decoder_only=True)
    assert decoder.tokenizer.config.decoder_context
    assert not decoder.tokenizer.config.encoder_context
    tiny.save_tokenizer(decoder, tmp_path / "decoder")
    again = starting_model("tokenizer", tmp_path / "decoder", tmp_path, decoder_only=True)
    assert again.tokenizer.config == decoder.tokenizer.config
    kept = starting_model("transformer", tmp_path, tmp_path / "elsewhere")
    assert not kept.tokenizer.config.decoder_context
    weight = kept.transformer.head.weight
    assert torch.allclose(weight, plain.transformer.head.weight, atol=1e-3)
    anew = starting_model("transformer", None, tmp_path)
    assert not anew.tokenizer.config.decoder_context
    assert not torch.equal(anew.transformer.head.weight, weight)


@pytest.mark.parametrize("call", range(1, 6))
def test_a_signal_loses_no_step_whenever_it_comes(tmp_path, monkeypatch, call):
    calls = iter(range(99))
    clock = time.monotonic

    def signalled():  # the clock is read before a step is counted, and between its checks
        if next(calls) == call:
            signal.raise_signal(signal.SIGTERM)
        return clock()

    model, seen = torch.nn.Linear(2, 2), []

    def loss(step):
        seen.append(step)
        return model(torch.ones(2)).sum(), {}

    monkeypatch.setattr(time, "monotonic", signalled)
    with pytest.raises(KeyboardInterrupt):
        train(model, loss, steps=4, peak=1e-3, betas=(0.9, 0.95), weight_decay=0.0,
              checkpoint=tmp_path / "a.ckpt")  # fmt: skip
    assert torch.load(tmp_path / "a.ckpt", weights_only=True)["step"] == len(seen)


def test_a_stopped_training_leaves_a_checkpoint_that_resumes(tmp_path):
    command = [sys.executable, "-u", "-m", "fastvar_lab", "train", "tokenizer", "--batch", "4"]
    command += ["--looking", "0"]
    command += ["--out", str(tmp_path)]
    process = subprocess.Popen([*command, "--steps", "9999"], stdout=subprocess.PIPE, text=True)
    assert "psnr" in process.stdout.readline()  # the first step is done
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode == 130
    assert [p.name for p in tmp_path.iterdir()] == ["tokenizer.ckpt"]
    state = torch.load(tmp_path / "tokenizer.ckpt", weights_only=True)
    done = state["step"]
    assert {key.split(".")[0] for key in state["model"]} == {"tokenizer", "probes", "eye"}
    assert 1 <= done < 100
    anew = subprocess.run([*command, "--steps", "1"], capture_output=True, text=True, check=False)
    assert anew.returncode == 2
    last = anew.stderr.splitlines()[-1]
    assert f"{tmp_path} holds a checkpoint of step {done}; give --resume to go on from it" in last
    assert torch.load(tmp_path / "tokenizer.ckpt", weights_only=True)["step"] == done
    again = [*command, "--resume", "--steps", str(done + 1)]
    finished = subprocess.run(again, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert (tmp_path / tiny.TOKENIZER_FILE).stat().st_size > 1e6
    (tmp_path / "tokenizer.ckpt").write_bytes(b"half")
    broken = subprocess.run(again, capture_output=True, text=True, check=False)
    assert broken.returncode == 2
    assert "damaged or of another model" in broken.stderr.splitlines()[-1]


def weights_of(part):
    return torch.cat([x.detach().flatten() for x in part.parameters()])


def looked(tokenizer, **options):
    learn_to_look(tokenizer, steps=5, batch=3, **options)
    return weights_of(tokenizer.encoder)


def was_read(encoder, **options):
    learn_to_read(encoder, steps=5, batch=3, **options)
    return weights_of(encoder)


@pytest.mark.parametrize(
    ("part", "learn", "module", "drawn"),
    [
        ("tokenizer", looked, looking, "views"),
        ("text_encoder", was_read, reading, "caption"),
    ],
)
def test_an_interrupted_phase_before_training_is_resumed(
    tmp_path, monkeypatch, part, learn, module, drawn
):
    def started():
        torch.manual_seed(0)
        return getattr(tiny.build_tiny(tiny.tiny_config()), part).requires_grad_(True).train()

    whole, file, draw = learn(started()), tmp_path / "part.ckpt", getattr(module, drawn)
    calls = iter(range(999))

    def interrupting(*arguments):
        if next(calls) == (7 if part == "text_encoder" else 2):  # in the third step
            signal.raise_signal(signal.SIGINT)
        return draw(*arguments)

    monkeypatch.setattr(module, drawn, interrupting)
    with pytest.raises(KeyboardInterrupt):
        learn(started(), checkpoint=file)
    state = read_checkpoint(file)
    assert (state["step"], state["steps"]) == (3, 5)
    assert torch.equal(learn(started(), checkpoint=file, resume=True), whole)
    done = read_checkpoint(file)
    assert (done["step"], done["phase"]) == (5, module.__name__.rpartition(".")[2])
    assert torch.equal(learn(started(), checkpoint=file, resume=True), whole)  # nothing is left


def test_a_training_goes_on_with_the_phase_in_which_it_was_interrupted(tmp_path, monkeypatch):
    views, calls = looking.views, []

    def interrupting(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGTERM)
        return views(*arguments)

    monkeypatch.setattr(looking, "views", interrupting)
    options = {"steps": 1, "batch": 2, "looking": 4}
    with pytest.raises(KeyboardInterrupt):
        start.train("tokenizer", tmp_path, **options)
    assert {count for _, _, count, _, _ in calls} == {1, 2}  # those of --batch
    with pytest.raises(ValueError, match="holds a checkpoint of step 2 of looking; give --resume"):
        start.train("tokenizer", tmp_path, **options)
    start.train("tokenizer", tmp_path, **{**options, "looking": None}, resume=True)
    assert [step for step, *_ in calls] == [0, 1, 2, 3]
    assert (tmp_path / tiny.TOKENIZER_FILE).exists()
    assert read_checkpoint(tmp_path / "tokenizer.ckpt")["phase"] == ""


def test_a_model_says_what_belongs_to_it():
    tiny_model = fv.load("tiny")
    with torch.device("meta"):
        var, infinity, hart = map(skeleton, ("var-d30", "infinity-2b", "hart-0.7b"))
    models = (tiny_model, var, infinity, hart)
    assert [m.family for m in models] == ["infinity", "var", "infinity", "hart"]
    presets = [fv.PRESETS[name] for name in ("tiny", "var-d30", "infinity", "hart")]
    assert [m.preset for m in models] == presets == [fv.paper_preset(m) for m in models]
    assert [m.prompts.judge is None for m in models] == [False, True, True, True]
    assert [m.prompts.take(1)[0].group for m in models][:2] == ["single_object", "class"]
    assert [m.grammar is None for m in models] == [False, True, True, True]
    assert [m.buckets is None for m in models] == [True, True, False, True]
    for model in models:
        assert model.precisions == ("float32", "official", "int8")
    half = infinity.buckets.exactly(1.5, "0.25M")
    assert half[-1] == (39, 26)
    assert dict(infinity.preset_of(half).pairs) == {-1: 0.4}
    assert infinity.sizes_of(512) == infinity.buckets.schedule(1.0, "0.25M")
    assert tiny_model.sizes_of(512)[-1] == (64, 64)
    with pytest.raises(ValueError, match="pictures is a multiple of 16 pixels; not 1000"):
        infinity.sizes_of(1000)
    with pytest.raises(ValueError, match=r"not 1.4 \(nearest: 1.333 and 1.5\)"):
        infinity.buckets.exactly(1.4)


def test_a_model_of_ones_own_has_defaults_that_make_sense(small):
    bare = fv.Model(
        "mine", small.transformer, small.tokenizer, small.quantizer, small.text_encoder,
        small.sizes, small.sampling,
    )  # fmt: skip
    assert (bare.family, bare.preset, bare.precisions) == ("mine", None, ("float32", "int8"))
    assert bare.prompts.judge is None
    assert {item.prompt for item in bare.prompts.take(3)} == {bare.example}
    with pytest.raises(ValueError, match="mine has no official precision"):
        bare.set_precision("official")
    with pytest.raises(ValueError, match="give a schedule, such as Prune"):
        fv.paper_preset(bare)
    method = fv.Prune({-1: 0.5})
    assert replace(bare, fast=method).preset == method
