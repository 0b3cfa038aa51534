"""Benchmarks from prompts to tables: made, killed, resumed, sharded, scored, printed."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fastvar_lab as fv
from fastvar_lab.cli import release_options
from fastvar_lab.cli.main import main
from fastvar_lab.errors import WeightsError
from fastvar_lab.evaluators import (
    benchmarks,
    distances,
    geneval,
    inception_scores,
    results,
    row_files,
)
from fastvar_lab.evaluators.benchmark_plans import BenchmarkPlan
from fastvar_lab.evaluators.case import VERSIONS, Case, Options, Result
from fastvar_lab.evaluators.geneval_pictures import GenEvalPrompts, PictureJudge, cut_out
from fastvar_lab.evaluators.picture_array import PictureArray
from fastvar_lab.evaluators.picture_folder import PictureFolder, PlainFolder
from fastvar_lab.evaluators.results import (
    keep,
    pictures_sha256,
    settings_sha256,
    stored,
)
from fastvar_lab.evaluators.scoring import paired, paired_rows, score
from fastvar_lab.experiments import making, paper_tables, printed_tables
from fastvar_lab.experiments.making import MakeJob, make
from fastvar_lab.measure.quality import METRICS, Metric
from fastvar_lab.measure.statistics import bootstrap
from fastvar_lab.networks.inception import Inception
from fastvar_lab.networks.pretrained import Clip, Detector, ImageReward, Objects
from fastvar_lab.world.grammar import parse
from fastvar_lab.world.render import render
from fastvar_lab.world.scene import compose

WORLD = benchmarks.find("closed-world")
TEN = BenchmarkPlan(WORLD, n=10)


@pytest.fixture(scope="module")
def made(small, tmp_path_factory):
    """Ten pictures of the closed world, by a random model."""
    folder = tmp_path_factory.mktemp("made") / "full"
    assert make(small, MakeJob(TEN, fv.Dense()), folder) == 10
    return folder


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.png")}


def pictures(folder, names, side=64, seed=0):
    rng = np.random.default_rng(seed)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        low = rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)
        Image.fromarray(low).resize((side, side)).save(folder / name)
    return folder


def test_plans_take_prompts_of_every_group_and_keep_their_numbers():
    full = BenchmarkPlan(benchmarks.find("geneval")).samples()
    assert len(full) == 2212
    assert (full[0].path, full[5].path) == ("00000/samples/0000.png", "00001/samples/0001.png")
    few = BenchmarkPlan(benchmarks.find("geneval"), n=6, images=2).samples()
    assert len({sample.group for sample in few}) == 6
    plain = BenchmarkPlan(benchmarks.find("geneval"), n=6).samples()
    by_path = {sample.path: sample for sample in full}
    assert all(sample == by_path[sample.path] for sample in plain)
    assert len(BenchmarkPlan(benchmarks.find("imagenet")).samples()) == 50_000


@pytest.mark.parametrize(
    ("rule", "seeds"),
    [("each", [7, 8, 9, 10]), ("per-prompt", [7, 8, 7, 8]), ("one", [7, 7, 7, 7])],
)
def test_seed_rules(rule, seeds):
    plan = BenchmarkPlan(benchmarks.find("geneval"), images=2, seeds=rule, seed=7)
    assert [sample.seed for sample in plan.samples()[:4]] == seeds


def test_prompts_from_files_of_the_user(tmp_path):
    table = {"a1": {"category": "people", "prompt": "x"}, "b2": {"category": "food", "prompt": "y"}}
    (tmp_path / "meta_data.json").write_text(json.dumps(table))
    mjhq = benchmarks.find("mjhq")
    assert [s.path for s in BenchmarkPlan(mjhq, tmp_path, "people").samples()] == ["people/a1.png"]
    for style in benchmarks.STYLES:
        (tmp_path / f"{style}.json").write_text(json.dumps([f"{style} {i}" for i in range(3)]))
    hps = BenchmarkPlan(benchmarks.find("hps"), tmp_path).samples()
    assert (len(hps), hps[4].path) == (12, "concept-art/00001.jpg")
    prompts = tmp_path / "benchmark-prompts.json"
    prompts.write_text(json.dumps([{"id": "000-1", "prompt": "x"}]))
    assert len(BenchmarkPlan(benchmarks.find("imagereward"), prompts).samples()) == 10
    rewritten = tmp_path / "rewritten.json"
    rewritten.write_text(json.dumps({"x": "a long x"}))
    sample = BenchmarkPlan(mjhq, tmp_path, "people", rewritten=rewritten).samples()[0]
    assert (sample.prompt, sample.written) == ("x", "a long x")
    with pytest.raises(ValueError, match=r"rewritten\.json has no text for y"):
        BenchmarkPlan(mjhq, tmp_path, "food", rewritten=rewritten).samples()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mjhq", {}, "scored by category, one of animals"),
        ("mjhq", {"category": "people"}, "mjhq needs --data"),
        ("geneval", {"category": "people"}, "geneval has no categories"),
        ("imagenet", {"ending": "jpg"}, "pictures of imagenet are png; not jpg"),
        ("geneval", {"seeds": "random"}, "seeds must be one of each, per-prompt, one"),
        ("geneval", {"images": 0}, "images must be 1 or more; not 0"),
    ],
)
def test_plans_that_do_not_fit_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        BenchmarkPlan(benchmarks.find(name), **options)


def test_a_killed_run_goes_on_where_it_was(small, made, tmp_path, monkeypatch):
    folder, job, written = tmp_path / "killed", MakeJob(TEN, fv.Dense()), []

    def write_few(path, picture, quality, real=making._write):
        if len(written) == 6:  # within the second batch
            raise KeyboardInterrupt
        written.append(path)
        real(path, picture, quality)

    monkeypatch.setattr(making, "_write", write_few)
    with pytest.raises(KeyboardInterrupt):
        make(small, job, folder)
    monkeypatch.undo()
    assert len(contents(folder)) == 6
    assert make(small, job, folder) == 4
    assert contents(folder) == contents(made)
    assert make(small, job, folder) == 0


def test_shards_together_equal_one_run(small, made, tmp_path):
    job = MakeJob(TEN, fv.Dense())
    counts = [make(small, job, tmp_path / "shards", (i, 2)) for i in (1, 0)]
    assert counts == [4, 6]
    assert contents(tmp_path / "shards") == contents(made)
    with pytest.raises(ValueError, match="a shard is i/n"):
        make(small, job, tmp_path / "shards", (2, 2))


def test_a_folder_is_never_mixed(small, made, tmp_path):
    for job, name in (
        (MakeJob(TEN, fv.Prune({-1: 0.5})), "method"),
        (MakeJob(BenchmarkPlan(WORLD, n=9), fv.Dense()), "prompts 10; now it is 9"),
        (MakeJob(BenchmarkPlan(WORLD, n=10, seed=1), fv.Dense()), "seed 0; now it is 1"),
        (MakeJob(TEN, fv.Dense(), fv.Sampling(guidance=3.0)), "guidance"),
    ):
        with pytest.raises(ValueError, match=f"holds pictures with {name}"):
            make(small, job, made)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds other files; name a new folder"):
        make(small, MakeJob(TEN, fv.Dense()), tmp_path)


@pytest.mark.parametrize("late", ["read_settings", "writable"])
@pytest.mark.parametrize("guidance", [None, 3.0])
def test_shards_that_start_at_once_share_a_new_folder(late, guidance, small, tmp_path, monkeypatch):
    """Another one writes its settings after this one has found none, or when it writes its own."""
    root, usual = tmp_path / "shared", getattr(making, late)
    root.mkdir()
    sampling = None if guidance is None else fv.Sampling(guidance=guidance)

    def beside_another(folder):
        monkeypatch.setattr(making, late, usual)
        found = usual(folder)
        making.prepare(small, MakeJob(TEN, fv.Dense(), sampling), root)
        return found

    monkeypatch.setattr(making, late, beside_another)
    if guidance is None:
        making.prepare(small, MakeJob(TEN, fv.Dense()), root)
    else:
        with pytest.raises(ValueError, match="holds pictures with guidance 3"):
            making.prepare(small, MakeJob(TEN, fv.Dense()), root)
    assert making.read_settings(root)["guidance"] == (guidance or small.sampling.guidance)


def test_jpeg_is_written_with_its_quality(small, tmp_path):
    (tmp_path / "prompts.txt").write_text("a red ring\n")
    plan = BenchmarkPlan(benchmarks.find("prompts"), tmp_path / "prompts.txt", ending="jpg")
    for quality in (95, 40):
        make(small, MakeJob(plan, fv.Dense(), quality=quality), tmp_path / f"q{quality}")
    sizes = [(tmp_path / f"q{q}" / "00000_0.jpg").stat().st_size for q in (95, 40)]
    assert sizes[0] > 1.5 * sizes[1]


def test_an_estimate_counts_what_is_missing(small, made, tmp_path):
    assert making.estimate(small, MakeJob(TEN, fv.Dense()), made) == (0, 0.0, 0.0)
    pictures_left, seconds, gigabytes = making.estimate(
        small, MakeJob(TEN, fv.Dense()), tmp_path, True
    )
    assert pictures_left == 10
    assert seconds > 0
    assert gigabytes == pytest.approx(10 * 64 * 64 * 1.5 / 1e9)
    untimed = (10, None, gigabytes)  # two batches of three would take most of the time
    assert making.estimate(small, MakeJob(TEN, fv.Dense()), tmp_path) == untimed


def test_an_estimate_generates_as_the_pictures_are_made(small, tmp_path, monkeypatch):
    given, generate = [], making.generate

    def noted(*args, **options):
        given.append(len(options["given"]))
        return generate(*args, **options)

    monkeypatch.setattr(making, "generate", noted)
    making.estimate(small, MakeJob(TEN, fv.Dense(), given=2), tmp_path, True)
    assert given == [2, 2]


def test_prompts_of_a_plan_are_read_once(tmp_path):
    (tmp_path / "prompts.txt").write_text("a red ring\n")
    plan = BenchmarkPlan(benchmarks.find("prompts"), tmp_path / "prompts.txt")
    first = plan.samples()
    (tmp_path / "prompts.txt").unlink()
    plan.prompts().clear()
    assert plan.samples() == first
    assert plan.record()["prompts"] == 1


def test_scores_are_cached_and_survive_a_kill(made, tmp_path):
    shutil.copytree(made, tmp_path / "p")
    folder, seen = PictureFolder(tmp_path / "p"), []

    def rows(batch, stop=99):
        def compute(part, places):
            if len(seen) >= stop:
                raise KeyboardInterrupt
            seen.extend(places)
            return np.array([[picture.mean(), i] for picture, i in zip(part, places)])

        return folder.rows("mean", compute, batch)

    with pytest.raises(KeyboardInterrupt):
        rows(3, stop=6)
    assert seen == [0, 1, 2, 3, 4, 5]
    whole = rows(4)
    assert seen == list(range(10))
    assert np.array_equal(whole[:, 1], np.arange(10))
    assert np.allclose(whole[:, 0], [folder.read(i).mean() for i in range(10)])
    path = tmp_path / "p" / folder.names[3]
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(path)
    assert rows(4)[3, 0] == 0
    assert seen[10:] == [3]


@pytest.fixture(scope="module")
def six(tmp_path_factory):
    """Pictures of six prompts of GenEval, of every task one, that were made elsewhere."""
    plan = BenchmarkPlan(benchmarks.find("geneval"), n=6, images=1)
    root = tmp_path_factory.mktemp("six") / "pictures"
    return PictureFolder(pictures(root, [sample.path for sample in plan.samples()]), plan)


@pytest.mark.parametrize("name", sorted(VERSIONS))
def test_rows_of_other_code_are_computed_anew(name, six, made, tiny_networks, monkeypatch):
    folder = PictureFolder(made) if name == "closed-world" else six
    scored, read = {"inception": "is"}.get(name, name), []

    def batches(places, size, real=folder.batches):
        read.append(len(places))
        return real(places, size)

    monkeypatch.setattr(folder, "batches", batches)
    for version in (1, 1, 2, 2, 1):
        monkeypatch.setitem(VERSIONS, name, version)
        score(folder, [scored], networks=tiny_networks)
    assert read[1:] == [0, len(folder), 0, 0]


def test_half_precision_is_of_clip_alone(six, tiny_networks, tmp_path, monkeypatch):
    monkeypatch.setattr(six, "cache", tmp_path)
    halved = dict[str, set[bool]]()
    for kind, names in {Inception: ["forward"], ImageReward: ["score"], Detector: ["detect"],
                        Clip: ["pictures", "texts"]}.items():  # fmt: skip
        for name in names:
            real = getattr(kind, name)

            def noted(self, *args, real=real, kind=kind.__name__, **options):
                halved.setdefault(kind, set()).add(torch.is_autocast_enabled("cpu"))
                return real(self, *args, **options)

            monkeypatch.setattr(kind, name, noted)
    names = ["is", "imagereward", "geneval", "clip", "hps"]
    results = score(six, names, Options(autocast=True), tiny_networks)
    assert halved == {"Inception": {False}, "ImageReward": {False}, "Detector": {False},
                      "Clip": {True}}  # fmt: skip
    assert [name for name in names if "autocast" in results[name].depends] == names[2:]


def test_pictures_of_one_prompt_count_once_in_intervals(tmp_path):
    """Equal pictures of each prompt tell as much as one does."""
    for images in (1, 4):
        for way in ("full", "half"):  # of the second, every other prompt's are black
            plan = BenchmarkPlan(WORLD, n=24, images=images)
            for i, sample in enumerate(plan.samples()):
                scene = compose(parse(sample.prompt), plan.prompts()[i // images][1].seed)
                picture = render(scene, 96)
                if way == "half" and i // images % 2:
                    picture[:] = 0
                (tmp_path / f"{way}{images}").mkdir(exist_ok=True)
                Image.fromarray(picture).save(tmp_path / f"{way}{images}" / sample.path)
    full, once, four = (
        PictureFolder(tmp_path / f"{way}{n}", BenchmarkPlan(WORLD, n=24, images=n))
        for way, n in (("full", 4), ("half", 1), ("half", 4))
    )
    one, several = (score(folder)["closed-world"] for folder in (once, four))
    assert 0.3 < one.value == several.value < 0.7
    assert (one.depends["interval"], several.depends["interval"]) == (
        "Wilson's", "bootstrap over prompts, task by task",
    )  # fmt: skip
    assert several.n == 4 * one.n == 96
    inside = [i for i, task in enumerate(once.groups) if task != "texture"]
    hits = [float(once.read(i).any()) for i in inside]
    tasks, names = [once.groups[i] for i in inside], [str(i) for i in inside]
    assert (several.low, several.high) == geneval.interval(tasks, names, hits)
    pairs = paired(four, full, ["psnr"])["psnr"]
    values = [METRICS["psnr"].columns(once.read(i), full.read(4 * i))["psnr"] for i in range(24)]
    assert (pairs.low, pairs.high) == pytest.approx(bootstrap(np.float32(values)), rel=1e-6)
    assert pairs.depends["interval"] == "bootstrap over prompts"
    assert (pairs.n, pairs.prompts) == (96, 24)


def test_damaged_rows_are_computed_anew(made, tmp_path):
    shutil.copytree(made, folder := tmp_path / "copy")
    opened, computed = PictureFolder(folder), []

    def rows(width=2):
        computed.clear()

        def compute(pictures, places):
            computed.extend(places)
            return np.outer(np.array(places) + 1.0, np.ones(width))

        return opened.rows("test", compute, 4)

    right = rows()
    assert len(computed) == 10
    assert np.array_equal(rows(), right)
    assert not computed
    (stamps,) = (tmp_path / "copy.scores").glob("test-*.stamps.npy")
    values = stamps.with_name(stamps.name.replace(".stamps", ""))
    held = values.read_bytes()
    values.write_bytes(held[:-8])  # the last row
    assert np.array_equal(rows(), right)
    assert len(computed) == 10
    np.load(values, mmap_mode="r+")[3] = 0.0
    assert np.array_equal(rows(), right)
    assert computed == [3]
    stamps.write_bytes(b"junk")
    assert np.array_equal(rows(), right)
    np.save(values, np.zeros(10, np.float32))
    assert np.array_equal(rows(), right)


def test_rows_that_two_processes_create_are_those_of_both(tmp_path):
    one, known = row_files.created(tmp_path / "rows", (4, 2))
    one[:2] = 5.0
    known[:2] = 7
    other, same = row_files.created(tmp_path / "rows", (4, 2))
    other[2:] = 6.0
    assert one.tolist() == other.tolist() == [[5, 5], [5, 5], [6, 6], [6, 6]]
    assert (same[:2] == 7).all()


def test_scores_beside_a_folder_from_inside_it(made, tmp_path, monkeypatch):
    shutil.copytree(made, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    assert score(PictureFolder("."))["closed-world"].n == 10
    assert (tmp_path / "here.scores" / "closed-world.json").exists()
    assert stored(Path("."))["closed-world"]["n"] == 10


def test_references_are_read_as_they_are_named_or_not(tmp_path, monkeypatch):
    pictures(tmp_path / "ref", ["a.png", "b.png"])
    (tmp_path / "ref" / "b.png").rename(tmp_path / "ref" / "b.jpg")
    (tmp_path / "ref" / "._a.png").write_bytes(b"of a file manager")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def locked(path):
        if "ref" in path.name and "cache" not in path.parts:
            raise OSError("may only be read")
        path.mkdir(parents=True, exist_ok=True)
        return path

    np.savez(tmp_path / "ref.npz", arr_0=np.zeros((2, 4, 4, 3), np.uint8))
    for opened in (PlainFolder(tmp_path / "ref"), PictureArray(tmp_path / "ref.npz")):
        assert opened.read(1).shape[2] == 3
        assert len(opened) == 2
    monkeypatch.setattr(row_files, "folder", locked)
    for opened in (PlainFolder(tmp_path / "ref"), PictureArray(tmp_path / "ref.npz")):
        assert opened.cache.parent == tmp_path / "cache" / "fastvar_lab" / "references"


def test_what_is_not_whole_is_refused(made, tmp_path):
    def copied(name):
        shutil.copytree(made, tmp_path / name)
        return PictureFolder(tmp_path / name), tmp_path / name

    folder, root = copied("missing")
    first = next(root.rglob("*.png"))
    first.unlink()
    with pytest.raises(ValueError, match=f"lacks 1 pictures, of 10: {first.name}"):
        score(folder)
    folder, root = copied("extra")
    pictures(root, ["stranger.png"])
    with pytest.raises(ValueError, match=r"also holds 1 pictures, of 10: stranger\.png"):
        score(folder)
    folder, root = copied("damaged")
    first = next(root.rglob("*.png"))
    first.write_bytes(first.read_bytes()[:90])
    with pytest.raises(ValueError, match=f"cannot read the picture .*{first.name}"):
        score(folder)
    folder, root = copied("jpeg")
    first = next(root.rglob("*.png"))
    Image.open(first).save(first, format="JPEG")
    with pytest.raises(ValueError, match="it is JPEG, named as PNG"):
        score(folder)
    for name, mode, side, message in (
        ("deep", "I;16", 256, "its mode I;16 is not of 8 bits a channel"),
        ("small", "RGB", 32, r"has \(32, 32\) pixels, .* has .*`make` writes one size"),
    ):
        folder, root = copied(name)
        Image.new(mode, (side, side)).save(root / folder.names[2])
        with pytest.raises(ValueError, match=message):
            score(folder)
    _, root = copied("prompts")
    text = (root / "samples.jsonl").read_text()
    (root / "samples.jsonl").write_text(text.replace('"prompt": "', '"prompt": "not '))
    with pytest.raises(ValueError, match=r"samples\.jsonl are not those recorded"):
        score(PictureFolder(root))
    with pytest.raises(ValueError, match=r"has no settings\.json: name its benchmark"):
        PictureFolder(pictures(tmp_path / "plain", ["a.png"]))


def test_scores_need_their_networks_and_references_before_they_begin(made, tmp_path, tiny_networks):
    folder = PictureFolder(made)
    with pytest.raises(WeightsError, match="network clip is not in"):
        score(folder, ["clip"], networks=tmp_path)
    with pytest.raises(ValueError, match="the score fid compares with a reference"):
        score(folder, ["fid"], networks=tiny_networks)
    with pytest.raises(ValueError, match="is compared with itself"):
        score(folder, ["fid"], Options(made), networks=tiny_networks)
    with pytest.raises(ValueError, match="no resize 'cleam'; nearest: clean"):
        Options(resize="cleam")


def test_what_a_score_reads_is_there_before_it_begins(made, tmp_path, tiny_networks, monkeypatch):
    folder = PictureFolder(made)
    monkeypatch.setattr(folder, "rows", None)
    with pytest.raises(ValueError, match="the score geneval reads an entry of its benchmark"):
        score(folder, ["geneval"], networks=tiny_networks)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"there is no picture in .*empty"):
        score(folder, ["fid"], Options(tmp_path / "empty"), tiny_networks)
    whole = {"arr_0": np.zeros((4, 8, 8, 3), np.uint8), "mu": np.ones(9), "sigma": np.eye(9)}
    np.savez_compressed(tmp_path / "damaged.npz", **whole)
    content, options = (tmp_path / "damaged.npz").read_bytes(), Options(tmp_path / "damaged.npz")
    for part in (b"", b"PK", content[: len(content) // 2], b"\x93NUMPY"):
        (tmp_path / "damaged.npz").write_bytes(part)
        with pytest.raises(ValueError, match=r"damaged\.npz is no npz file of pictures"):
            score(folder, ["fid"], options, tiny_networks)
    begin = content.index(b"sigma.npy") + 40
    (tmp_path / "damaged.npz").write_bytes(content[:begin] + b"\xff" * 20 + content[begin + 20 :])
    with pytest.raises(ValueError, match=r"cannot read .*damaged\.npz"):
        inception_scores.moments(Case(folder, options, tiny_networks), "pooled")
    with pytest.raises(ValueError, match="geneval has 553 prompts; not 9999999"):
        BenchmarkPlan(benchmarks.find("geneval"), n=9999999).samples()


def test_distances_of_a_folder_are_those_of_its_features(made, tmp_path, tiny_networks):
    reference = pictures(tmp_path / "reference", [f"{i}.png" for i in range(9)])
    folder, options = PictureFolder(made), Options(reference)
    names = ["fid", "kid", "sfid", "is", "precision", "recall"]
    results = score(folder, names, options, tiny_networks)
    case = Case(folder, options, tiny_networks)
    mine = tuple(inception_scores.activations(case, "pooled", pictures) for pictures in
                 (None, PlainFolder(reference)))  # fmt: skip
    assert mine[0].shape == (10, 128)
    expected = distances.frechet(*map(distances.moments, mine))
    assert results["fid"].value == pytest.approx(expected)
    assert results["fid"].low < results["fid"].value < results["fid"].high
    assert results["kid"].low < results["kid"].value < results["kid"].high
    assert results["fid"].depends["interval"] == "jackknife over 5 groups of pictures"
    assert np.isnan(score(folder, ["fid"], Options(reference, groups=0), tiny_networks)["fid"].low)
    assert results["precision"].value == distances.precision_recall(*mine).precision.mean()
    other = score(folder, ["fid"], Options(reference, "tensorflow"), tiny_networks)
    assert other["fid"].value != results["fid"].value
    # as guided-diffusion keeps a reference: its statistics are read, not computed
    arrays = [np.asarray(Image.open(p)) for p in sorted(reference.glob("*.png"))]
    moments = distances.moments(mine[1])
    np.savez(tmp_path / "ref.npz", arr_0=np.stack(arrays), mu=moments.mean + 1, sigma=moments[1])
    shifted = score(folder, ["fid", "precision"], Options(tmp_path / "ref.npz"),
                    tiny_networks)  # fmt: skip
    one = distances.moments(mine[0])
    moved = distances.frechet(one, distances.Moments(moments.mean + 1, moments[1]))
    assert shifted["fid"].value == pytest.approx(moved)
    assert shifted["precision"].value == results["precision"].value


def test_scores_of_text_and_picture(made, tiny_networks):
    folder = PictureFolder(made)
    results = score(folder, ["clip", "hps", "imagereward"], networks=tiny_networks)
    network = rehearsal_network("clip", tiny_networks)
    cosines = [
        float(network.pictures([folder.read(i)])[0] @ network.texts([folder.prompts[i]])[0])
        for i in range(10)
    ]
    assert results["clip"].value == pytest.approx(100 * np.mean(cosines), rel=1e-5)
    assert results["clip"].low < results["clip"].value < results["clip"].high
    assert set(results["clip"].parts) == set(folder.groups)
    alias = score(folder, ["hps"], Options(hps_resize="alias"), networks=tiny_networks)
    assert alias["hps"].value != results["hps"].value
    assert stored(made)["hps"]["depends"]["antialias"] is False


def rehearsal_network(name, networks):
    from fastvar_lab.networks.collection import open_network

    return open_network(name, networks)


def test_pairs_of_pictures(small, made, tmp_path, tiny_networks, monkeypatch):
    make(small, MakeJob(TEN, fv.Prune({-1: 0.5})), tmp_path / "pruned")
    one, other = PictureFolder(tmp_path / "pruned"), PictureFolder(made)
    results = paired(one, other, ["psnr", "ssim"])
    each = [METRICS["psnr"].columns(one.read(i), other.read(i))["psnr"] for i in range(10)]
    assert results["psnr"].value == pytest.approx(np.mean(each), rel=1e-6)
    monkeypatch.setattr("fastvar_lab.networks.collection.default_folder", lambda: tiny_networks)
    learned = paired(one, other, ["lpips", "clip_i", "dino"])
    assert learned["lpips"].value > 0
    assert paired(other, other, ["lpips", "clip_i"])["lpips"].value == 0
    assert 0 < learned["dino"].value <= 1
    assert METRICS["lpips"].address != METRICS["clip_i"].address
    with pytest.raises(ValueError, match="reads tokens, which folders do not hold"):
        paired(one, other, ["agree"])


def test_a_pair_is_read_once_for_all_metrics(small, made, tmp_path, tiny_networks, monkeypatch):
    make(small, MakeJob(TEN, fv.Prune({-1: 0.5})), tmp_path / "pruned")
    shutil.copytree(tmp_path / "pruned", tmp_path / "alone", copy_function=shutil.copy2)
    monkeypatch.setattr("fastvar_lab.networks.collection.default_folder", lambda: tiny_networks)
    names, other = ["psnr", "ssim", "lpips"], PictureFolder(made)
    alone = PictureFolder(tmp_path / "alone")
    apart = {name: paired_rows(alone, other, [METRICS[name]])[name] for name in names}
    one, read = PictureFolder(tmp_path / "pruned"), []

    def noted(folder):
        def read_one(i, real=folder.read):
            read.append((folder.root, i))
            return real(i)

        return read_one

    for folder in (one, other):
        monkeypatch.setattr(folder, "read", noted(folder))
    paired_rows(one, other, [METRICS["ssim"]], 4)
    together = paired_rows(one, other, [METRICS[name] for name in names], 3)
    assert list(together) == names
    assert all(np.array_equal(together[name], apart[name]) for name in names)
    assert sorted(read) == sorted(2 * [(f.root, i) for f in (one, other) for i in range(10)])
    kept = {p.name for p in one.cache.iterdir()}
    assert kept == {p.name for p in alone.cache.iterdir()}  # under the same addresses
    paired(one, other, names)
    assert len(read) == 40

    def paint(picture, reference):
        picture[:] = 0
        return 0.0

    with pytest.raises(ValueError, match="read-only"):
        paired_rows(one, other, [Metric("paint", "paint", paint)])


def test_gray_ground_and_cut():
    picture = np.arange(6 * 6 * 3, dtype=np.uint8).reshape(6, 6, 3)
    mask = np.zeros((1, 6, 6), bool)
    mask[0, 2:4, 1:5] = True
    mask[0, 2, 1] = False
    found = Objects(np.array([3]), np.array([0.9]), np.array([[1, 2, 5, 4]]), mask)
    cut = cut_out(picture, found, 0)
    assert cut.shape == (2, 4, 3)
    assert (cut[0, 0] == 0x99).all()
    assert np.array_equal(cut[1], picture[3, 1:5])


def test_the_picture_judge_counts_and_names_colors(tiny_networks):
    class Detector:
        def detect(self, picture, at_least):
            masks = np.zeros((2, 8, 8), bool)
            masks[:, :4, :4] = True
            boxes = np.array([[0, 0, 4, 4], [0, 0, 4, 4]])
            return Objects(np.array([15, 16]), np.array([0.8, 0.2]), boxes, masks)

    judge = PictureJudge(Detector(), rehearsal_network("clip", tiny_networks))
    picture = np.full((8, 8, 3), 200, np.uint8)
    cat = {"tag": "single_object", "include": [{"class": "cat", "count": 1}]}
    dog = {"tag": "single_object", "include": [{"class": "dog", "count": 1}]}
    assert judge.judge(cat, picture) == (True, "")
    assert judge.judge(dog, picture) == (False, "0 of 1 dog")
    (color,) = judge.colors("cat", [picture[:4, :4]])
    for name, right in ((color, True), ("plaid", False)):
        clause = {"class": "cat", "count": 1, "color": name}
        assert judge.judge({"tag": "colors", "include": [clause]}, picture)[0] is right


def test_geneval_is_a_prompt_set_with_a_judge(tiny_networks):
    prompts = GenEvalPrompts(str(tiny_networks))
    items = prompts.take(12)
    assert [item.group for item in items[:6]] == [item.group for item in items[6:]]
    picture = np.zeros((32, 32, 3), np.uint8)
    assert prompts.judge(items[0], picture) in (0.0, 1.0)
    with pytest.raises(ValueError, match="'a dog' is no prompt of GenEval"):
        prompts.judge(items[0]._replace(prompt="a dog"), picture)


def test_tables_print_ours_beside_theirs(small, made, tmp_path):
    table = printed_tables.find("1")
    frame = paper_tables.rows(table, [])
    assert len(frame) == 16
    assert set(frame.source) == {"printed"}
    with pytest.raises(ValueError, match="Table 1 has no column of closed-world"):
        paper_tables.rows(table, [made])
    folder = tmp_path / "ge"
    folder.mkdir()
    settings = {"benchmark": "geneval", "category": None, "model": "infinity-2b",
                "family": "infinity", "method": "Dense()", "guidance": 4.0, "temperature": 1.0,
                "rewritten_sha256": "ab", "sizes": [[64, 64]], "format": "jpg",
                "quality": 95, "seeds": "per-prompt", "top_p": 0.97}  # fmt: skip

    def write(settings, **changes):
        (folder / "settings.json").write_text(json.dumps(settings))
        kept = {**result, **changes, "settings_sha256": settings_sha256(settings),
                "pictures_sha256": pictures_sha256(folder)}  # fmt: skip
        (tmp_path / "ge.scores" / "geneval.json").write_text(json.dumps(kept))

    (folder / "settings.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"has no score geneval; `fastvar-lab score"):
        paper_tables.rows(table, [folder])
    parts = {task: [0.5, 0.4, 0.6] for task in ("two_object", "position", "color_attr")}
    result = {"value": 0.7, "low": 0.68, "high": 0.72, "n": 2212, "parts": parts, "depends": {}}
    (tmp_path / "ge.scores").mkdir()
    write(settings)
    frame = paper_tables.rows(table, [folder])
    ours = frame[frame.source == "ours"].set_index("column")
    assert ours.value["GenEval"] == 0.7
    assert (ours.differs == "").all()
    shown = paper_tables.wide(table, frame)
    assert shown.iloc[-1]["GenEval"] == "0.70 (0.68 to 0.72)"
    changed = {**settings, "guidance": 3.0, "rewritten_sha256": None}
    (folder / "settings.json").write_text(json.dumps(changed))
    with pytest.raises(ValueError, match="ge was made anew after the score geneval was computed"):
        paper_tables.rows(table, [folder])
    write(changed, depends={"rules": {"counting_threshold": 0.5}, "autocast": "float16"})
    gaps = paper_tables.rows(table, [folder]).differs.iloc[-1]
    assert gaps.endswith("precision of networks float16, not float32; "
                         "rule counting_threshold 0.5, not 0.9")  # fmt: skip
    write(changed)
    frame = paper_tables.rows(table, [folder])
    assert frame.differs.iloc[-1] == "guidance 3.0, not 4.0; rewritten no, not yes"
    write(changed, n=8)
    with pytest.raises(ValueError, match="has 8 pictures; Table 1 compares 2212"):
        paper_tables.rows(table, [folder])
    frame = paper_tables.rows(table, [folder], any_count=True)
    assert frame.differs.iloc[-1].endswith("8 pictures, not 2212")
    for text in ("{", "3", "{}"):
        (tmp_path / "ge.scores" / "geneval.json").write_text(text)
        with pytest.raises(ValueError, match=r"cannot read .*geneval\.json"):
            paper_tables.rows(table, [folder])
    write({})
    with pytest.raises(ValueError, match=r"settings\.json does not say the benchmark"):
        paper_tables.rows(table, [folder])


def test_tables_notice_pictures_that_were_replaced_after_scoring(tmp_path, monkeypatch):
    folder = pictures(tmp_path / "hps", ["photo/00000.png", "photo/00001.png"])
    settings = {"benchmark": "hps", "category": None, "model": "m", "method": "Dense()",
                "sizes": [[64, 64]]}  # fmt: skip
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "samples.jsonl").write_text("")
    keep(PictureFolder(folder), "hps", Result(28.0, n=3200), "cpu", pictures_sha256(folder))
    table, path = printed_tables.find("A.2"), folder / "photo" / "00001.png"
    with monkeypatch.context() as patch:  # only sizes and times are looked at
        patch.setattr(results, "digest_of_file", None)
        paper_tables.rows(table, [folder])
    held = path.read_bytes()
    path.write_bytes(held)
    paper_tables.rows(table, [folder])
    shutil.copytree(folder, tmp_path / "moved" / "hps", copy_function=shutil.copyfile)
    shutil.copytree(tmp_path / "hps.scores", tmp_path / "moved" / "hps.scores")
    paper_tables.rows(table, [tmp_path / "moved" / "hps"])
    pictures(folder, ["photo/00001.png"], seed=1)
    changed = r"holds other pictures than those that the score hps was computed of; `fastvar-lab"
    with pytest.raises(ValueError, match=changed):
        paper_tables.rows(table, [folder])
    path.write_bytes(held)
    (tmp_path / "hps.scores" / "pictures.json").write_text("[")
    paper_tables.rows(table, [folder])
    pictures(folder, ["photo/00002.png"])
    with pytest.raises(ValueError, match=changed):
        paper_tables.rows(table, [folder])


def test_scores_that_end_at_the_same_moment_are_all_kept(made, tmp_path, monkeypatch):
    shutil.copytree(made, tmp_path / "p")
    folder, write = PictureFolder(tmp_path / "p"), results.write_json

    def while_another_ends(path, content):
        monkeypatch.setattr(results, "write_json", write)
        keep(folder, "clip", Result(2.0), "cpu", None)
        write(path, content)

    monkeypatch.setattr(results, "write_json", while_another_ends)
    keep(folder, "fid", Result(1.0), "cpu", None)
    assert {name: kept["value"] for name, kept in stored(folder.root).items()} == {
        "fid": 1.0, "clip": 2.0,
    }  # fmt: skip


def run(capsys, *arguments):
    status = main(list(map(str, arguments)))
    found = capsys.readouterr()
    return status, found.out, found.err


def test_the_commands_from_prompts_to_a_table(tmp_path, capsys, tiny_networks, monkeypatch):
    out = tmp_path / "ge"
    shallow = fv.load("infinity-125m", weights="random", depth=1)
    shallow.sizes = shallow.sizes_to(2, 2)
    monkeypatch.setattr(release_options, "open_encoded", lambda args, prompts: shallow)
    model = ("--model", "infinity-125m", "--weights", "random", "--size", "2")
    benchmark = ("make", "geneval", "--n", "6", "--images", "1", "--out", out, *model)
    status, text, error = run(capsys, *benchmark)
    assert status == 0, error
    assert "6 pictures to make on cpu: 0.00 GB" in text
    assert "made 6 pictures" in text
    assert "random weights" in error
    assert json.loads((out / "00000" / "metadata.jsonl").read_text())["tag"] == "single_object"
    status, text, error = run(capsys, "score", out, "--networks", tiny_networks)
    assert status == 0, error
    assert "GenEval" in text
    assert "color_attr" in text
    status, text, error = run(capsys, "table", "1", out)
    assert (status, "has 6 pictures; Table 1 compares 2212" in error) == (2, True)
    for style, part in (("markdown", "| Infinity-2B "), ("latex", "Infinity-2B &"),
                        ("csv", "Infinity-2B,printed")):  # fmt: skip
        status, text, _ = run(capsys, "table", "1", out, "--any-count", "--format", style)
        assert status == 0
        assert part in text
    # pictures from elsewhere, without a record
    (out / "settings.json").unlink()
    status, text, error = run(capsys, "score", out, "--networks", tiny_networks, "--benchmark",
                              "geneval", "--n", "6", "--images", "1", "--json")  # fmt: skip
    assert status == 0, error
    assert json.loads(text)["scores"]["geneval"]["n"] == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["make", "genevall", "--out", "x"], "no benchmark 'genevall'; nearest: geneval"),
        (["make", "geneval", "--out", "x", "--shard", "4/4"], "--shard is i/n"),
        (["make", "geneval", "--out", "x", "--ratios", "-1:0.5", "--paper"], "exclude each other"),
        (["make", "mjhq", "--out", "x", "--category", "people"], "mjhq needs --data"),
        (["score", "nowhere"], "there is no folder nowhere"),
        (["make", "closed-world", "--out", "x", "--quality", "9"], "--quality is of JPEG files"),
        (["score", "nowhere", "--n", "2"], "--n is of pictures made elsewhere: name their"),
        (["score", "nowhere", "--metrics", "psnr"], "--metrics are of --against FOLDER"),
        (["table", "1", "x", "./x"], "x is named twice"),
        (["score", "nowhere", "--scores", "fidd"], "no score 'fidd'; nearest: fid"),
        (["table", "7"], "no table '7'"),
        (["networks", "--fetch", "clipp"], "no network 'clipp'; nearest: clip"),
        (["networks", "--rehearse"], "give --networks DIR"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_commands_refuse_in_one_sentence(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, error = run(capsys, *arguments)
    assert status == 2
    assert message in error
    assert error.count("\n") == 1


def test_networks_are_listed(capsys, tmp_path):
    status, text, _ = run(capsys, "networks", "--networks", tmp_path)
    assert status == 0
    assert "Apache-2.0" in text
    assert "SHA-256 6726825d..." in text
