"""First contact with a checkpoint: what is right is found right, each planted mistake is seen."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import fastvar_lab as fv
from fastvar_lab.cli.main import main
from fastvar_lab.first_contact import configuration, effort, probes
from fastvar_lab.first_contact.finding import OFF, RIGHT
from fastvar_lab.first_contact.likelihood import Subject, chance, tokens_of
from fastvar_lab.measure.quality import psnr
from fastvar_lab.models import states
from fastvar_lab.scales import TINY
from fastvar_lab.world.grammar import parse
from fastvar_lab.world.render import render
from fastvar_lab.world.scene import compose

CAPTION, OTHER = "two red striped stars", "a blue square"


@pytest.fixture(scope="module")
def stars():
    return render(compose(parse(CAPTION), 3), (256, 256))


def subject_of(model, picture):
    right, wrong = (model.condition([text]) for text in (CAPTION, OTHER))
    return Subject(model, right, wrong, tokens_of(model, picture)[0])


def verdicts(findings):
    return {finding.what: finding.verdict for finding in findings}


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(effort, "FIRST_TOKENS", 100)


def test_the_shipped_model_is_right(stars, few):
    model = fv.load("tiny")
    tokens, again = tokens_of(model, stars)
    assert [len(t[0]) for t in tokens] == [h * w for h, w in model.sizes]
    assert psnr(again, stars) > 25
    assert probes.round_trip(stars, again).verdict == RIGHT
    subject = subject_of(model, stars)
    found = [*configuration.configuration(model), *configuration.null_prompt(model),
             *probes.likelihoods(subject), *probes.sublayers(subject),
             *probes.arrangements(subject), *probes.alternatives(subject, stars)]  # fmt: skip
    assert set(verdicts(found).values()) == {RIGHT}, found
    assert len(found) == 8


def test_likelihood_is_that_of_the_loops_own_logits(small):
    plain = replace(small.sampling, guidance=1.0, temperature=1.0)
    logged = []

    class Logs(fv.Wrapper):
        def after(self, grid, tokens, canvas, logits=None):
            logs = logits.log_softmax(-1).gather(-1, tokens.long().unsqueeze(-1))
            logged.append(float(logs.mean()))
            self.inner.after(grid, tokens, canvas, logits)

    made = fv.generate(small, "a red ring", fv.Dense(), seed=3, watch=[Logs], sampling=plain)
    condition = small.condition(["a red ring"])
    subject = Subject(small, condition, condition, made.tokens)
    assert np.allclose(subject.likelihood(), logged, atol=1e-6)
    assert np.allclose(subject.likelihood(first=2), logged[:2], atol=1e-6)


def test_swapped_tensors_are_seen(stars, few):
    model = fv.load("tiny")
    one, other = (model.transformer.blocks[i].ffn.fc2.weight for i in (0, 7))
    kept = one.detach().clone()
    with torch.no_grad():
        one.copy_(other)
        other.copy_(kept)
    (finding,) = probes.sublayers(subject_of(model, stars))
    assert finding.verdict == OFF
    assert "of layer" in finding.numbers


@pytest.mark.parametrize(
    ("name", "order", "meaning"),
    [
        ("mat_kv.weight", lambda w: torch.cat(w.chunk(2)[::-1]), "keys and values of cross-"),
        ("lvl_embed.weight", lambda w: w.roll(1, 0), "scale embeddings one step earlier"),
    ],
)
def test_tensors_in_another_order_are_seen(name, order, meaning, stars, few):
    model = fv.load("tiny")
    weights = [p for n, p in model.transformer.named_parameters() if n.endswith(name)]
    for weight in weights:
        weight.data = order(weight.data)
    before = [weight.data.clone() for weight in weights]
    (finding,) = probes.arrangements(subject_of(model, stars))
    assert finding.verdict == OFF
    assert meaning in finding.meaning
    assert all(torch.equal(weight, data) for weight, data in zip(weights, before))


def test_another_tokenizer_is_seen(stars):
    model = fv.load("tiny")
    torch.manual_seed(0)
    for name, part in model.tokenizer.decoder.named_parameters():
        if name.startswith("conv_in"):
            part.data.normal_(std=0.1)
    _, again = tokens_of(model, stars)
    assert probes.round_trip(stars, again).verdict == OFF
    model = fv.load("tiny")
    model.tokenizer.encoder.conv_out.weight.data.neg_()  # of another tokenizer: other bits
    found = verdicts(probes.likelihoods(subject_of(model, stars)))
    assert found["likelihood by scale"] == OFF


def test_a_wrong_schedule_is_seen(stars):
    sizes = (*TINY[:4], (9, 9), (13, 13), (17, 17), *TINY[7:])
    model = fv.load("tiny", sizes=sizes)
    assert verdicts(configuration.configuration(model))["schedule"] == OFF
    (finding,) = probes.alternatives(subject_of(model, stars), stars)
    assert finding.verdict == OFF
    assert "schedule 1 2 4 6 8 12 16" in finding.meaning


def test_a_rotary_grid_of_another_reference_is_seen(stars):
    model = fv.load("tiny")
    model.transformer.config = replace(model.transformer.config, reference=(48, 48))
    assert verdicts(configuration.configuration(model))["rotary grid"] == OFF
    (finding,) = probes.alternatives(subject_of(model, stars), stars)
    assert finding.verdict == OFF
    assert "rotary grid (96, 96)" in finding.meaning


def test_a_null_prompt_of_another_length_is_seen():
    model = fv.load("tiny")
    null = model.transformer.cfg_uncond
    null.data = states._resized(null.data[:10], len(null))
    (finding,) = configuration.null_prompt(model)
    assert (finding.verdict, finding.numbers) == (OFF, "10 of 24 rows")


def test_another_text_encoder_is_seen():
    model = fv.load("tiny")
    condition = model.condition([CAPTION])
    (finding,) = configuration.text_features(model, condition)
    assert finding.verdict == RIGHT
    (finding,) = configuration.text_features(
        model, condition._replace(features=condition.features[..., :9])
    )
    assert finding.verdict == OFF


def test_a_decoder_that_bfloat16_breaks_is_seen():
    model = fv.load("tiny")
    canvas = fv.generate(model, CAPTION, fv.Dense(), sizes=[(1, 1), (4, 4)]).canvas
    assert probes.bfloat16_decoder(model, canvas).verdict == RIGHT
    assert model.tokenizer.decoder.conv_in.weight.dtype == torch.float32
    model.tokenizer.decoder.conv_out.weight.data *= 3e4  # cancelled by what is added
    model.tokenizer.decoder.conv_out.weight.data[:, ::2] *= -1
    assert probes.bfloat16_decoder(model, canvas).verdict == OFF


@pytest.mark.parametrize("name", ["var-d16", "hart-0.7b"])
def test_every_family_gives_tokens_and_likelihoods(name):
    sizes = [(1, 1), (2, 2), (3, 3)]
    model = fv.load(name, weights="random", depth=1, sizes=sizes)
    picture = np.random.default_rng(0).integers(0, 256, (48, 48, 3)).astype(np.uint8)
    tokens, again = tokens_of(model, picture)
    assert [len(t[0]) for t in tokens] == [1, 4, 9]
    assert again.shape == (48, 48, 3)
    texts = [item.prompt for item in model.prompts.take(2)]
    right, wrong = (model.condition([text]) for text in texts)
    values = Subject(model, right, wrong, tokens).likelihood()
    assert values.shape == (3,)
    assert values.mean() == pytest.approx(chance(model), rel=0.5)


def test_the_command_reports_and_refuses(tmp_path, capsys, few, monkeypatch):
    monkeypatch.setattr(probes, "sublayers", lambda subject: iter(()))
    monkeypatch.setattr(probes, "arrangements", lambda subject: iter(()))
    monkeypatch.setattr(probes, "alternatives", lambda subject, picture: iter(()))
    status = main(["check", "tiny", "--out", str(tmp_path / "c"), "--caption", CAPTION])
    text = capsys.readouterr().out
    assert status == 0
    assert "GB of memory" in text.splitlines()[0]
    assert "give --picture" in text
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == [
        "full.png", "pruned.png", "round_trip.png"]  # fmt: skip
    assert main(["check", "tinny", "--out", str(tmp_path)]) == 2
    assert "model must be one of tiny" in capsys.readouterr().err
