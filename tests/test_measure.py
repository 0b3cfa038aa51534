"""Instruments on known inputs."""

import pickle
from itertools import product

import numpy as np
import pytest
import torch
from skimage.filters import gaussian

import fastvar_lab as fv
from fastvar_lab.instruments.outputs import Outputs
from fastvar_lab.measure import masks, relations, scale_steps
from fastvar_lab.measure.quality import MOST_PSNR, to_reference, token_agreement
from fastvar_lab.measure.scale_steps import images, radial_spectrum
from fastvar_lab.models import tiny
from fastvar_lab.scales import grids, square
from fastvar_lab.seam import KINDS
from fastvar_lab.tokens import resize
from fastvar_lab.world.grammar import parse
from fastvar_lab.world.render import render
from fastvar_lab.world.scene import compose


def test_a_ring_of_waves_shows_at_its_own_frequency():
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(64), np.fft.fftfreq(64)))
    white = np.fft.fft2(np.random.default_rng(0).standard_normal((64, 64)))
    for cycles in (4, 10, 25):
        ring = (radius > (cycles - 1) / 64 + 1e-9) & (radius <= cycles / 64 + 1e-9)
        f, amplitude = radial_spectrum(np.fft.ifft2(white * ring).real)
        assert f[amplitude.argmax()] == cycles / 64
        assert np.sort(amplitude)[-2] < amplitude.max() - 8
    assert len(f) == 32
    assert f[-1] == 0.5


def test_constants_have_no_spectrum_and_shapes_follow():
    assert radial_spectrum(np.ones((16, 24, 3)))[1].max() < -8
    assert radial_spectrum(np.random.default_rng(0).random((16, 24)))[1].shape == (8,)
    assert np.isnan(radial_spectrum(np.ones((1, 1)))[1]).all()


def test_derived_arrays_are_computed_once():
    sizes = square(1, 2)
    canvases = {i: torch.rand(2, 3, 4, 4) for i in range(2)}
    trace, calls = fv.Trace(grids(sizes), canvases=canvases), []

    def decode(latent):
        calls.append(len(latent))
        return latent

    f, amplitudes = scale_steps.spectra(trace, decode)
    assert amplitudes.shape == (2, 2, len(f))
    assert images(trace, decode).shape == (2, 2, 4, 4, 3)
    assert calls == [2, 2]


def test_a_trace_before_a_step_forgets_the_rest():
    trace = fv.Trace(grids(square(1, 2)), tokens={0: None, 1: None}, step_ms={0: 1.0, 1: 2.0})
    assert trace.before(1).step_ms == {0: 1.0}
    assert trace.before(1).followed_by(trace).step_ms == trace.step_ms


SITES = [fv.Site(i, kind) for i in range(3) for kind in ("attn", "ffn")]


@pytest.fixture(scope="module")
def seen(small):
    """A pruned generation of two pictures, recorded with everything."""
    _, trace = fv.observe(
        small,
        ["a red circle", "two blue squares"],
        fv.Prune({-2: 0.5, -1: 0.7}),
        seed=1,
        features=SITES,
        outputs=SITES,
        attention=[s for s in SITES if s.kind == "attn"],
    )
    return trace


def test_what_steps_added_sums_to_the_picture(seen, small):
    changes, pictures = scale_steps.added(seen, small.decode), images(seen, small.decode)
    assert np.allclose(changes.sum(axis=0), pictures[-1], atol=1e-6)
    frame = scale_steps.energy(seen, small.decode)
    row = frame.query("step == 2 and picture == 1 and domain == 'latent'")
    moved = seen.canvases[2][1] - seen.canvases[1][1]
    assert row.energy.item() == pytest.approx(float(moved.square().mean()))
    assert set(frame["size"]) == {"1x1", "2x2", "4x4", "6x6", "8x8"}


def test_parseval_energy_of_all_frequencies_is_that_of_the_plane():
    plane = np.random.default_rng(0).standard_normal((24, 24))
    amplitude = np.abs(np.fft.fft2(plane))
    assert (amplitude**2).sum() / plane.size == pytest.approx((plane**2).sum())
    f, log10 = radial_spectrum(plane)
    radius = np.hypot(np.fft.fftfreq(24)[:, None], np.fft.fftfreq(24))
    for i, edge in enumerate(f):
        ring = (radius <= edge + 1e-9) & (radius > edge - 1 / 24 + 1e-9)
        assert log10[i] == pytest.approx(np.log10(amplitude[ring]).mean())


def test_spectra_by_domain_and_their_gap_to_the_last_step(seen, small):
    frame = scale_steps.spectrum_frame(seen, small.decode, SITES[0])
    assert set(frame.domain) == {"image", "latent", "features"}
    last = frame.query("step == 4 and domain != 'features'")
    assert (last.to_last == 0).all()
    first = frame.query("step == 0 and domain == 'latent' and picture == 0")
    end = frame.query("step == 4 and domain == 'latent' and picture == 0")
    gap = first.log10_amplitude.to_numpy() - end.log10_amplitude.to_numpy()
    assert np.allclose(first.to_last, gap)


def test_scores_and_their_unevenness(seen):
    frame = masks.scores(seen)
    assert len(frame) == len(seen.scores) * 4
    site = SITES[2]
    values = np.sort(seen.scores[3, site][1].numpy())
    pairs = np.abs(values[:, None] - values).mean() / (2 * values.mean())
    row = frame.query("step == 3 and layer == 1 and kind == 'attn' and row == 1")
    assert row.gini.item() == pytest.approx(pairs)
    assert row.kept.item() == 0.5
    assert masks.score_map(seen, 3, site, 1).shape == (6, 6)


def test_agreement_of_masks(seen):
    layers = masks.agreement(seen, "layers")
    pair = layers.query("step == 4 and layer == 0 and other == 2")
    a, b = (seen.kept[4, fv.Site(i, "attn")] for i in (0, 2))
    slow = sum(int(x and y) for x, y in zip(a.flatten(), b.flatten(), strict=True)) / sum(
        int(x or y) for x, y in zip(a.flatten(), b.flatten(), strict=True)
    )
    assert pair.overlap.item() == pytest.approx(slow)
    assert pair.chance.item() == pytest.approx(20 / 64 / (2 - 20 / 64))
    assert len(masks.agreement(seen, "rows")) == 6
    assert set(masks.agreement(seen, "steps")["step"]) == {3}
    assert masks.overlap(a, a) == 1
    random = [torch.rand(200_000) < 0.3 for _ in range(2)]
    assert masks.overlap(*random) == pytest.approx(masks.chance(0.3, 0.3), abs=0.01)
    with pytest.raises(ValueError, match="layers, rows or steps; not 'heads'"):
        masks.agreement(seen, "heads")


def test_attention_by_scale_sums_to_one(seen):
    frame = relations.cross_scale_attention(seen)
    total = frame.groupby(["step", "layer", "head"])[["share", "chance"]].sum()
    assert np.allclose(total, 1)
    last = frame.query("step == 4 and layer == 0 and head == 0")
    lengths = np.array([1, 4, 16, 18, 20])
    assert np.allclose(last.chance, lengths / lengths.sum())


def test_similarity_of_branches_against_a_direct_one(seen):
    frame = relations.branch_similarity(seen)
    row = frame.query("step == 4 and source == 3 and layer == 1 and kind == 'ffn'")
    now, then = (seen.outputs[s, fv.Site(1, "ffn")] for s in (4, 3))
    total = gap = energy = 0.0
    for picture, target in zip(then, now, strict=True):
        plane = picture.T.reshape(1, -1, 6, 6)
        guess = torch.nn.functional.adaptive_avg_pool2d(plane, 8)[0].flatten(1).T
        for a, b in zip(guess, target, strict=True):
            total += float(a @ b / (a.norm() * b.norm()))
            gap += float((a - b).square().sum())
            energy += float(b.square().sum())
    assert row.cosine.item() == pytest.approx(total / now[..., 0].numel())
    assert row.error.item() == pytest.approx(gap / energy)


def test_convergence_ends_settled():
    canvases = {i: torch.zeros(1, 3, 4, 4) for i in range(3)}
    canvases[1][0, :, :2] = 0.5
    canvases[2][0, :, :1] = 0.5
    trace = fv.Trace(grids(square(1, 2, 4)), canvases=canvases)
    frame = relations.convergence(trace, lambda latent: latent)
    assert frame.settled.tolist() == [0.5, 0.75, 1.0]


def test_quality_of_equal_and_unequal_pictures():
    image = (np.random.default_rng(0).random((192, 192, 3)) * 255).astype(np.uint8)
    same = to_reference(image, image)
    assert same == pytest.approx(
        {"psnr": MOST_PSNR, "ssim": 1, "ms_ssim": 1, "vif": 1, "spectrum_error": 0}, abs=1e-5
    )
    other = image.copy()
    other[0, 0, 0] ^= 128
    square_error = 128**2 / image.size
    assert to_reference(other, image)["psnr"] == pytest.approx(10 * np.log10(255**2 / square_error))
    assert np.isnan(to_reference(image[:64, :64], image[:64, :64])["ms_ssim"])
    with pytest.raises(ValueError, match="cannot be compared"):
        to_reference(image, image[1:])
    assert token_agreement(torch.tensor([1, 2]), torch.tensor([1, 3])) == 0.5
    assert np.isnan(token_agreement(None, torch.tensor([1])))


def test_information_is_lost_to_blur_and_to_noise():
    picture = render(compose(parse("a red striped circle left of a blue star"), 0), 192)
    blurred = [gaussian(picture, s, channel_axis=-1, preserve_range=True) for s in (1, 2, 4)]
    falling = [1.0, *(to_reference(b.astype(np.uint8), picture)["vif"] for b in blurred)]
    assert falling == sorted(falling, reverse=True)
    assert falling[1] < 0.9
    noise = np.random.default_rng(0).normal(0, 20, picture.shape)
    noisy = (picture + noise).clip(0, 255).astype(np.uint8)
    assert 0 < to_reference(noisy, picture)["vif"] < 0.9


def test_dropped_null_rows_are_left_out_of_comparisons(small):
    site = fv.Site(1, "attn")
    method = fv.Prune({-2: 0.5, -1: 0.5}, null_until=-2)
    _, trace = fv.observe(small, "a red circle", method, outputs=[site])
    assert [len(trace.kept[step, site]) for step in (3, 4)] == [2, 1]
    assert set(masks.agreement(trace, "rows")["step"]) == {3}
    assert set(masks.agreement(trace, "steps")["other"]) == {4}
    alike = relations.branch_similarity(trace).query("step == 4 and source == 2")
    early, late = trace.outputs[2, site][:1], trace.outputs[4, site]
    guess = resize(early, (4, 4), (8, 8), "area")
    assert alike.cosine.item() == pytest.approx(
        float(torch.cosine_similarity(guess, late, dim=-1).mean())
    )


def test_a_trace_is_saved_whole_and_a_truncated_one_refused(seen, small, tmp_path):
    seen.save(tmp_path / "trace.safetensors")
    read = fv.Trace.load(tmp_path / "trace.safetensors")
    assert read.grids == seen.grids
    assert read.provenance["seeds"] == [1, 2]
    for name in ("tokens", "canvases", "scores", "kept", "features", "outputs", "attention"):
        mine, theirs = getattr(read, name), getattr(seen, name)
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[k], theirs[k]) for k in mine)
    assert (read.seen, read.step_ms, read.sublayer_ms) == (
        seen.seen, seen.step_ms, seen.sublayer_ms
    )  # fmt: skip
    assert relations.cross_scale_attention(read).equals(relations.cross_scale_attention(seen))
    whole = (tmp_path / "trace.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cannot read the trace"):
        fv.Trace.load(tmp_path / "cut.safetensors")
    with pytest.raises(ValueError, match="but not a trace"):
        fv.Trace.load(tiny.WEIGHTS / "tiny_tokenizer.safetensors")


def test_steps_of_one_forward_have_records_of_their_own(small, tmp_path):
    method, kept = fv.LazyVAR({-2: 0.5, -1: 0.75}), {3: 18, 4: 16}
    outputs = Outputs(small)
    made, trace = fv.observe(
        small, "a red circle", method, features=SITES, outputs=SITES, watch=outputs.watch
    )
    assert torch.equal(made.canvas, fv.generate(small, "a red circle", method).canvas)
    assert set(trace.kept) == {
        (s, fv.Site(i, k)) for s in range(5) for i in range(3) for k in KINDS
    }
    for (step, count), site in product(kept.items(), SITES):
        tokens, order = trace.grids[step].tokens, trace.order[step, site]
        assert order.shape == (2, count)
        mask = torch.zeros(2, tokens, dtype=torch.bool).scatter_(1, order, True)
        assert torch.equal(trace.kept[step, site], mask)
        x, scores = trace.features[step, site], trace.scores[step, site]
        assert scores.shape == (2, tokens)
        distance = (x - x.mean(1, keepdim=True)).square().sum(-1)  # to the mean of its own map
        assert torch.allclose(scores.gather(1, order), distance.to(scores))
        assert bool(scores[~mask].isnan().all())
        assert torch.equal(outputs.by_site[step, site], trace.outputs[step, site])
        assert trace.outputs[step, site].shape[1] == count
        assert int(masks.kept_map(trace, step, site).sum()) == count
    rows = masks.scores(trace).groupby("step").kept.mean()
    assert rows.to_dict() == {0: 1, 1: 1, 2: 1, 3: 0.5, 4: 0.25}
    assert set(masks.agreement(trace, "steps").other) == {4}
    alike = relations.branch_similarity(trace)
    assert set(alike.source) == {0, 1, 2}  # a map of outputs is whole
    row = alike.query("step == 4 and source == 2 and layer == 1 and kind == 'ffn'")
    site = fv.Site(1, "ffn")
    guess = resize(trace.outputs[2, site], (4, 4), (8, 8), "area")
    target, order = trace.outputs[4, site], trace.order[4, site]
    guess = torch.stack([one[index] for one, index in zip(guess, order, strict=True)])
    cosine = torch.nn.functional.cosine_similarity(guess, target, dim=-1).mean()
    assert row.cosine.item() == pytest.approx(float(cosine))
    frame = scale_steps.spectrum_frame(trace, small.decode, site)
    assert set(frame[frame.domain == "features"].step) == {0, 1, 2}
    times = [trace.step_ms[step] for step in kept], [trace.sublayer_ms[s, "ffn"] for s in kept]
    assert [a / b for a, b in times] == [pytest.approx(18 / 16)] * 2
    trace.save(tmp_path / "together.safetensors")
    again = fv.Trace.load(tmp_path / "together.safetensors")
    assert torch.equal(again.order[4, SITES[0]], trace.order[4, SITES[0]])
    assert torch.equal(again.outputs[4, SITES[0]], trace.outputs[4, SITES[0]])


def test_a_skipped_step_survives_saving(small, tmp_path):
    _, trace = fv.observe(small, "a red circle", fv.Prune({-2: 1.0}))
    trace.save(tmp_path / "trace.safetensors")
    assert fv.Trace.load(tmp_path / "trace.safetensors").tokens[3] is None


def test_what_was_not_recorded_is_no_empty_mask(small):
    site = fv.Site(0, "attn")
    _, trace = fv.observe(small, "a red circle", fv.Prune({-2: 0.5, -1: 1.0}))
    assert masks.kept_map(trace, -2, site).mean() == 0.5
    assert (masks.score_map(trace, -2, site) == masks.score_map(trace, 3, site)).all()
    assert not masks.kept_map(trace, -1, site).any()  # skipped
    assert not trace.kept_share(4, "attn").any()
    for wrong in (fv.Site(0, "atn"), fv.Site(99, "attn")):
        with pytest.raises(ValueError, match=r"at step 3 \(6x6\); recorded there are Site"):
            masks.kept_map(trace, 3, wrong)
    with pytest.raises(ValueError, match="nothing is recorded there"):
        masks.score_map(trace, -1, site)


def test_the_scores_of_another_selector_are_recorded(small):
    options = {"seed": 1, "snapshot": True}
    full, pivotal = fv.observe(small, "a red circle", fv.Dense(), **options)
    _, trace = fv.observe(small, "a red circle", fv.Dense(), score=fv.HighPass(), **options)
    key = (3, fv.Site(1, "attn"))
    assert not torch.equal(trace.scores[key], pivotal.scores[key])
    assert trace.provenance["scores"] == "HighPass()"
    with pytest.raises(ValueError, match=r"the trace holds scores of HighPass\(\)"):
        fv.observe_again(small, full, trace, fv.Prune({-1: 0.5}))
    _, later = fv.observe_again(small, full, trace, fv.Prune({-1: 0.5}), score=fv.HighPass())
    assert torch.equal(later.scores[key], trace.scores[key])


def test_only_sites_that_are_there_are_recorded():
    model = fv.load("tiny")
    for options, told in (
        ({"features": [fv.Site(8, "attn")]}, "layers 0 to 7 and kinds attn, cross, ffn; not Site"),
        ({"outputs": [fv.Site(0, "atn")]}, "outputs takes sites"),
        ({"attention": [fv.Site(0, "cross")]}, "attention .* kinds attn; not"),
        ({"features": ["attn"]}, "not 'attn'"),
    ):
        with pytest.raises(ValueError, match=told):
            fv.observe(model, "a red ring", fv.Dense(), **options)


def test_sites_come_in_any_collection(small):
    for sites in ((fv.Site(i, "ffn") for i in range(2)), [(0, "ffn"), (1, "ffn")]):
        _, trace = fv.observe(small, "a red ring", fv.Dense(), features=sites)
        assert {site for _, site in trace.features} == {(0, "ffn"), (1, "ffn")}
    _, trace = fv.observe(small, "a red ring", fv.Dense(), outputs=fv.Site(0, "attn"))
    assert {site for _, site in trace.outputs} == {(0, "attn")}


def test_a_trace_is_continued_by_its_own_generation_alone(small, tmp_path):
    made, trace = fv.observe(small, "a red ring", fv.Dense(), seed=1, snapshot=True)
    other = fv.observe(small, "a red ring", fv.Dense(), seed=2)[1]
    with pytest.raises(ValueError, match=r"of another generation: its seeds \(2,\), where \(1,\)"):
        fv.observe_again(small, made, other, fv.Prune({-1: 0.5}))
    trace.save(tmp_path / "trace.safetensors")
    kept = fv.Trace.load(tmp_path / "trace.safetensors")
    assert fv.observe_again(small, made, kept, fv.Prune({-1: 0.5}))[0].first_step > 0
    images(trace, small.decode)
    assert len(pickle.dumps(trace)) < 1.1 * len(pickle.dumps(kept))
    assert len(repr(trace)) + len(repr(made)) + len(repr(small)) < 1000
