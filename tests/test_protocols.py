"""Differences of protocols by name, known answers, folders as frames, and what is refused."""

import json
import shutil
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

import fastvar_lab as fv
from fastvar_lab import files
from fastvar_lab.cli import options
from fastvar_lab.cli.main import main
from fastvar_lab.evaluators import benchmarks, known_answers
from fastvar_lab.evaluators.benchmark_plans import BenchmarkPlan
from fastvar_lab.evaluators.case import Options
from fastvar_lab.evaluators.closed_world import reconstruction_psnr, true_tokens
from fastvar_lab.evaluators.geneval import Rules
from fastvar_lab.evaluators.geneval_pictures import GenEvalPrompts, cut_out
from fastvar_lab.evaluators.known_answers import Inputs, KnownAnswer
from fastvar_lab.evaluators.picture_array import SampleArray
from fastvar_lab.evaluators.picture_folder import PictureFolder
from fastvar_lab.evaluators.results import pictures_sha256, settings_sha256
from fastvar_lab.evaluators.scoring import paired, score, table
from fastvar_lab.experiments import evaluation, making, paper_tables, printed_tables
from fastvar_lab.experiments.evaluation import evaluate
from fastvar_lab.experiments.folder_frames import compare_folders
from fastvar_lab.experiments.making import MakeJob, make
from fastvar_lab.experiments.run import compare
from fastvar_lab.frames import holds_hits, not_larger, titles
from fastvar_lab.generation import generate
from fastvar_lab.measure.quality import MOST_PSNR, Metric
from fastvar_lab.networks.pretrained import Objects
from fastvar_lab.plotting.tables import tabulate
from fastvar_lab.prompts import world_judge
from fastvar_lab.store import Store
from fastvar_lab.world.tasks import questions

WORLD = benchmarks.find("closed-world")
EIGHT = BenchmarkPlan(WORLD, n=8)
MAPS = ((1, 1), (2, 2), (4, 4))
LOOK = fv.Scope("look", prompts=2, repeats=1)


@pytest.fixture(scope="module")
def shallow():
    model = fv.load("infinity-125m", weights="random", depth=1)
    model.sizes = model.sizes_to(3, 3)
    return model


@pytest.fixture(scope="module")
def folders(small, tmp_path_factory):
    root = tmp_path_factory.mktemp("folders")
    for name, method in {"full": fv.Dense(), "pruned": fv.Prune({-1: 0.5})}.items():
        make(small, MakeJob(EIGHT, method), root / name)
    return root


def run(capsys, *arguments):
    status = main(list(map(str, arguments)))
    found = capsys.readouterr()
    return status, found.out, found.err


def test_evaluate_is_make_and_score(small, tmp_path):
    store = Store(tmp_path / "store")
    result = evaluate(small, fv.Prune({-1: 0.5}), 8, 3, folder=tmp_path / "kept", store=store)
    folder = PictureFolder(tmp_path / "kept")
    scored = score(folder, ["closed-world"])["closed-world"]
    assert result["overall"] == scored.value
    asked = questions(8, 3)
    assert folder.prompts == [q.prompt.text for q in asked]
    assert [s.seed for s in folder.samples] == [q.seed for q in asked]
    for q, i in zip(asked, range(8)):
        alone = generate(small, q.prompt.text, fv.Prune({-1: 0.5}), seed=q.seed)
        gap = folder.read(i).astype(int) - fv.to_uint8(small.decode(alone.canvas))[0]
        assert abs(gap).max() <= 1
    assert set(result["tasks"]) == set(folder.groups)
    assert result["tasks"]["single_object"]["n"] == 2
    again = evaluate(small, fv.Prune({-1: 0.5}), 8, 3, folder=tmp_path / "kept", store=store)
    assert again == result
    with pytest.raises(ValueError, match="holds pictures with method"):
        evaluate(small, fv.Dense(), 8, 3, folder=tmp_path / "kept", store=store)


def test_the_tokenizers_reconstruction_is_measured_once_for_a_model(small, tmp_path, monkeypatch):
    store, measured, shorter = Store(tmp_path), [], copy(small)
    shorter.sizes = small.sizes[:4]

    def noted(model, n, seed, real=evaluation.reconstruction_psnr):
        measured.append((n, seed))
        return real(model, n, seed)

    monkeypatch.setattr(evaluation, "reconstruction_psnr", noted)
    values = [
        evaluation._reconstruction(model, n, seed, store)
        for model, n, seed in ((small, 2, 0), (small, 2, 0), (small, 2, 1), (small, 3, 0),
                               (shorter, 2, 0))
    ]  # fmt: skip
    assert measured == [(2, 0), (2, 1), (3, 0), (2, 0)]
    assert values[0] == values[1] == reconstruction_psnr(small, 2, 0)


def selecting(sign):
    """Return a pruning by a rule whose code is another one for each sign."""

    @dataclass(frozen=True)
    class Mine:
        def scores(self, x, grid, site):
            return sign * x.float().norm(dim=-1)

    return fv.Prune({-1: 0.5}, select=Mine())


def test_edited_code_of_a_method_needs_another_folder(small, tmp_path):
    store = Store(tmp_path / "store")
    first = evaluate(small, selecting(1), 2, folder=tmp_path / "mine", store=store)
    assert evaluate(small, selecting(1), 2, folder=tmp_path / "mine", store=store) == first
    assert first["method"] == repr(selecting(-1))
    with pytest.raises(ValueError, match=r"holds pictures of other code of Prune.*select=Mine"):
        evaluate(small, selecting(-1), 2, folder=tmp_path / "mine", store=store)
    evaluate(small, selecting(-1), 2, folder=tmp_path / "edited", store=store)
    settings = [
        json.loads((tmp_path / name / "settings.json").read_text()) for name in ("mine", "edited")
    ]
    assert [name for name in settings[0] if settings[0][name] != settings[1][name]] == ["code"]
    assert "code" not in MakeJob(EIGHT, fv.Prune({-1: 0.5})).settings(small)


def test_given_scales_are_those_of_a_correct_picture(tmp_path):
    model = fv.load("tiny")
    model.sizes = model.sizes[:4]
    job = MakeJob(BenchmarkPlan(WORLD, n=2), fv.Dense(), given=4)
    make(model, job, tmp_path / "given")
    tokens = true_tokens(model, questions(2, 0))
    run = generate(model, [q.prompt.text for q in questions(2, 0)], fv.Dense(), given=tokens)
    expected = fv.to_uint8(model.decode(run.canvas))
    folder = PictureFolder(tmp_path / "given")
    assert all(np.array_equal(folder.read(i), expected[i]) for i in range(2))
    with pytest.raises(ValueError, match="0 to 4 scales can be given; not 5"):
        make(model, MakeJob(EIGHT, fv.Dense(), given=5), tmp_path / "more")
    with pytest.raises(ValueError, match="geneval has no correct pictures"):
        MakeJob(BenchmarkPlan(benchmarks.find("geneval")), fv.Dense(), given=1)


def test_pixels_are_rounded_or_cut_off_and_people_get_a_suffix(shallow, tmp_path):
    (tmp_path / "p.txt").write_text("a man\na tree\n")
    mark = benchmarks.find("prompts")
    plan = BenchmarkPlan(mark, tmp_path / "p.txt", suffix=", sharp")
    assert [s.written for s in plan.samples()] == ["a man, sharp", "a tree"]
    assert plan.record()["positive_prompt"]
    plain = BenchmarkPlan(mark, tmp_path / "p.txt")
    for pixels in making.PIXELS:
        make(shallow, MakeJob(plain, fv.Dense(), pixels=pixels), tmp_path / pixels)
    whole, cut = (PictureFolder(tmp_path / p).read(0).astype(int) for p in making.PIXELS)
    assert set(np.unique(whole - cut)) == {0, 1}
    with pytest.raises(ValueError, match="no way from values to pixels 'floor'"):
        MakeJob(plain, fv.Dense(), pixels="floor")


def test_a_run_that_is_killed_at_every_write_ends_the_same(shallow, tmp_path, monkeypatch):
    plan = BenchmarkPlan(benchmarks.find("geneval"), n=3, images=1)
    job, real = MakeJob(plan, fv.Dense(), sizes=MAPS, batch=2), files.write
    make(shallow, job, tmp_path / "whole")

    def contents(root):
        return {
            p.relative_to(root).as_posix(): p.read_bytes()
            for p in root.rglob("*")
            if p.is_file() and p.name != "settings.json" and files.PARTIAL not in p.name
        }

    whole = contents(tmp_path / "whole")
    assert len(whole) == 3 + 3 + 1  # pictures, metadata, samples
    for moment in range(len(whole) + 1):  # and settings
        left = [moment]

        def killed(path, fill, *options, left=left):
            if not left[0]:
                path.with_name(f"{files.PARTIAL}x{path.suffix}").write_bytes(b"")
                raise KeyboardInterrupt
            left[0] -= 1
            real(path, fill, *options)

        folder = tmp_path / f"killed{moment}"
        for module in (files, making):  # settings are written by `files` itself
            monkeypatch.setattr(module, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            make(shallow, job, folder)
        for module in (files, making):
            monkeypatch.setattr(module, "write", real)
        make(shallow, job, folder)
        assert contents(folder) == whole, moment
        assert json.loads((folder / "settings.json").read_text())["images"] == 1


def test_folders_make_the_frame_of_a_comparison(folders, small, tmp_path):
    paths = {"full": folders / "full", "pruned": folders / "pruned"}
    frame = compare_folders(paths, ["psnr", "ssim"])
    assert len(frame) == 16
    pruned = frame[frame.method == "pruned"]
    one, other = (PictureFolder(path) for path in paths.values())
    assert pruned.psnr.mean() == pytest.approx(paired(other, one, ["psnr"])["psnr"].value)
    assert (frame[frame.method == "full"].psnr == MOST_PSNR).all()
    item = GenEvalPrompts().take(1)[0]._replace(prompt=one.prompts[0])
    assert pruned.right.iloc[0] == world_judge(item, other.read(0))
    assert list(tabulate(frame)["method"]) == ["full", "pruned"]
    same = Metric("same", "same", lambda a, b: float((a == b).all()), hits=True, larger=False)
    own = compare_folders(paths, {"red": lambda a, b: float(a[..., 0].mean()), "same": same})
    assert holds_hits(own, "same")
    assert not_larger(own) == {"same": False}
    assert titles(own)["red"] == ("red", 3)
    mean = paired(other, one, {"red": lambda a, b: float(a[..., 0].mean())})
    assert mean["red"].value == pytest.approx(own[own.method == "pruned"].red.mean())
    assert table(mean).splitlines()[1].startswith("red  ")
    with pytest.raises(ValueError, match="by metrics of one value; detail gives 6: detail_contr"):
        compare_folders(paths, ["detail"])
    make(small, MakeJob(BenchmarkPlan(WORLD, n=8, seeds="one"), fv.Dense()), tmp_path / "others")
    shutil.copytree(tmp_path / "others", tmp_path / "shifted")
    text = (tmp_path / "shifted" / "samples.jsonl").read_text()
    rows = [{**json.loads(line), "seed": 1} for line in text.splitlines()]
    (tmp_path / "shifted" / "samples.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows)
    )
    with pytest.raises(ValueError, match="are not of the same seeds"):
        compare_folders({"full": tmp_path / "others", "pruned": tmp_path / "shifted"})


def test_geneval_and_clip_score_are_metrics_of_experiments(
    shallow, tiny_networks, tmp_path, monkeypatch
):
    monkeypatch.setattr("fastvar_lab.networks.collection.default_folder", lambda: tiny_networks)
    names = ["clip_score", "hps", "imagereward", "lpips", "clip_i", "dino"]
    frame = compare(
        shallow,
        {"half": fv.Prune({-1: 0.5})},
        LOOK,
        prompts=GenEvalPrompts(),
        metrics=names,
        store=Store(tmp_path),
        progress=False,
        note=lambda text: None,
    )
    rows = frame[frame.kind == "quality"]
    assert set(rows.right) <= {0.0, 1.0}
    assert rows[names].notna().all(axis=None)
    assert set(rows.group) == {"single_object", "two_object"}
    assert (rows[rows.method == "full"].lpips == 0).all()


def test_prompt_sets_are_named_on_the_command_line(tmp_path):
    def chosen(name):
        return options.prompts(Namespace(prompts=name, device="cpu"))

    (tmp_path / "p.txt").write_text("a ring\n")
    assert chosen(None) is None
    assert chosen("geneval") == GenEvalPrompts()
    assert chosen("closed-world") == fv.ClosedWorld()
    assert chosen(str(tmp_path / "p.txt")).take(1)[0].prompt == "a ring"


def test_pairs_are_compared_by_the_networks_that_are_named(
    folders, tiny_networks, tmp_path, capsys
):
    names = ("--metrics", "lpips,clip_score", "--scores", "closed-world")
    command = ("score", folders / "pruned", "--against", folders / "full", *names)
    status, text, error = run(capsys, *command, "--networks", tiny_networks)
    assert status == 0, error
    assert "LPIPS" in text
    assert "CLIP score" in text
    status, _, error = run(capsys, *command, "--networks", tmp_path)
    assert (status, f"lpips is not in {tmp_path / 'lpips'}" in error) == (2, True)


def test_workers_make_the_same_pictures(tmp_path):
    job, spec = MakeJob(EIGHT, fv.Dense(), sizes=MAPS, batch=3), fv.ModelSpec("tiny", "random")
    assert make(spec, job, tmp_path / "alone") == 8
    with ThreadPoolExecutor(2) as pool:
        assert make(spec, job, tmp_path / "workers", executor=pool) == 8
        with pytest.raises(ValueError, match="workers open a model by a ModelSpec"):
            make(spec.open(), job, tmp_path / "other", executor=pool)
    one, other = (PictureFolder(tmp_path / name) for name in ("alone", "workers"))
    assert all(np.array_equal(one.read(i), other.read(i)) for i in range(8))


def test_categories_are_never_mixed(shallow, tiny_networks, tmp_path):
    table = {f"{c}{i}": {"category": c, "prompt": f"{c} {i}"} for c in ("people", "food")
             for i in range(4)}  # fmt: skip
    (tmp_path / "meta_data.json").write_text(json.dumps(table))
    for category in ("people", "food"):
        (tmp_path / "real" / category).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (48, 48), (9 * i, 90, 200)).save(
                tmp_path / "real" / category / f"{category}{i}.jpg"
            )
    mjhq = benchmarks.find("mjhq")
    make(shallow, MakeJob(BenchmarkPlan(mjhq, tmp_path, "people"), fv.Dense()), tmp_path / "made")
    with pytest.raises(ValueError, match="holds pictures with category people; now it is food"):
        make(shallow, MakeJob(BenchmarkPlan(mjhq, tmp_path, "food"), fv.Dense()), tmp_path / "made")
    folder = PictureFolder(tmp_path / "made")
    score(folder, ["fid"], Options(tmp_path / "real" / "people"), tiny_networks)
    for name, message in (
        ("real", r"holds the category food, people; .* is of people"),
        ("real/food", r"holds the category food; .* is of people"),
    ):
        with pytest.raises(ValueError, match=message):
            score(folder, ["fid"], Options(tmp_path / name), tiny_networks)
    shutil.copytree(tmp_path / "made" / "people", tmp_path / "made" / "food")
    with pytest.raises(ValueError, match=r"also holds 4 pictures, of 4: food/people0\.png"):
        score(folder, ["fid"], Options(tmp_path / "real" / "people"), tiny_networks)


def test_styles_of_unequal_numbers_are_averaged_over_pictures(tiny_networks, tmp_path):
    rng = np.random.default_rng(0)
    for style, n in zip(benchmarks.STYLES, (1, 2, 3, 1)):
        (tmp_path / f"{style}.json").write_text(json.dumps([f"{style} {i}" for i in range(n)]))
        (tmp_path / "made" / style).mkdir(parents=True)
        for i in range(n):
            picture = Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8))
            picture.save(tmp_path / "made" / style / f"{i:05d}.jpg")
    folder = PictureFolder(tmp_path / "made", BenchmarkPlan(benchmarks.find("hps"), tmp_path))
    result = score(folder, ["hps"], networks=tiny_networks)["hps"]
    counts = [folder.groups.count(style) for style in benchmarks.STYLES]
    means = [result.parts[style][0] for style in benchmarks.STYLES]
    assert result.value == pytest.approx(np.average(means, weights=counts), rel=1e-6)
    assert result.value != pytest.approx(np.mean(means), rel=1e-6)
    (tmp_path / "made" / "anime" / "00000.jpg").unlink()
    with pytest.raises(ValueError, match=r"lacks 1 pictures, of 7: anime/00000\.jpg"):
        score(folder, ["hps"], networks=tiny_networks)


def test_samples_in_an_npz_file_are_scored(tiny_networks, tmp_path, capsys):
    rng = np.random.default_rng(0)
    for name in ("samples", "reference"):
        np.savez(tmp_path / f"{name}.npz", arr_0=rng.integers(0, 256, (9, 32, 32, 3), np.uint8))
    samples, reference = tmp_path / "samples.npz", tmp_path / "reference.npz"
    options = Options(reference)
    results = score(SampleArray(samples, "imagenet"), ["fid", "is"], options, tiny_networks)
    assert results["fid"].n == 9
    plan = ("--benchmark", "imagenet", "--networks", tiny_networks, "--reference", reference)
    status, _, error = run(capsys, "score", samples, *plan)
    assert (status, "holds 9 pictures; 50000 are to be scored" in error) == (2, True)
    status, text, error = run(capsys, "score", samples, *plan, "--n", "3", "--images", "3")
    assert status == 0, error
    assert f"{results['fid'].value:9.2f}" in text
    assert run(capsys, "score", samples, "--networks", tiny_networks)[0] == 2
    with pytest.raises(ValueError, match=r"the score clip reads prompts, which .*npz lacks"):
        score(SampleArray(samples, "imagenet"), ["clip"], networks=tiny_networks)


def test_the_command_of_pairs_refuses_before_it_scores(folders, tmp_path, capsys):
    shutil.copytree(folders / "full", full := tmp_path / "full")
    for other, message in ((full, "is compared with itself"), (tmp_path / "less", "of the same")):
        if other != full:
            make(fv.load("tiny"), MakeJob(BenchmarkPlan(WORLD, n=1), fv.Dense(), sizes=MAPS), other)
        assert main(["score", str(full), "--against", str(other)]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "full.scores").exists()
    assert main(["score", str(full), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert printed["scores"]["closed-world"]["n"] == 8


def test_tables_know_the_scripts_of_each_benchmark():
    hart = {"benchmark": "geneval", "model": "hart-0.7b", "family": "hart", "sizes": [[64, 64]],
            "guidance": 4.5, "smooth": True, "pixels": "truncate", "format": "png",
            "quality": None, "seeds": "each", "rewritten_sha256": None}  # fmt: skip
    result = {"n": 2212, "depends": {}}
    gaps = paper_tables.differences(printed_tables.find("A.4"), hart, result, 2212)
    assert gaps == ["format png, not jpg", "seeds each, not one"]
    people = {**hart, "benchmark": "mjhq", "seeds": "one"}
    result = {"n": 3000, "depends": {"references": 2999, "half": True, "resize": "antialias"}}
    gaps = paper_tables.differences(printed_tables.find("A.4"), people, result, 3000)
    assert gaps == ["resize of Inception antialias, not clean",
                    "distances in float16 yes, not no", "references 2999, not 3000"]  # fmt: skip
    var = {"benchmark": "imagenet", "model": "var-d30", "family": "var", "sizes": [[16, 16]],
           "guidance": 1.5, "top_p": 0.95, "top_k": 900, "smooth": False}  # fmt: skip
    result = {"n": 50_000, "depends": {"references": None, "order": None}}
    gaps = paper_tables.differences(printed_tables.find("A.1"), var, result, 50_000)
    assert gaps == ["top_p 0.95, not 0.96", "order of the IS none, not 0"]


def test_known_answers_are_compared_with_what_is_computed(
    tiny_networks, tmp_path, capsys, monkeypatch
):
    rng = np.random.default_rng(0)
    for i in range(1, 5):
        Image.fromarray(rng.integers(0, 256, (40, 48, 3), np.uint8)).save(tmp_path / f"{i}.webp")
    command = ("score", tmp_path, "--check", "imagereward", "--networks", tiny_networks)
    status, text, error = run(capsys, *command)
    assert status == 2
    assert text.count("DIFFERS") == 4
    assert "imagereward differs from what was published in 1.webp, 2.webp" in error
    own = known_answers.check("imagereward", Inputs(tmp_path, networks=tiny_networks))
    mine = {row.name: (row.value, 1e-6) for row in own}
    answer = KnownAnswer("", "", mine, known_answers.KNOWN["imagereward"].compute)
    monkeypatch.setitem(known_answers.KNOWN, "imagereward", answer)
    status, text, _ = run(capsys, *command)
    assert (status, text.count("agrees")) == (0, 4)
    for name, message in (
        ("geneval", "no published answer is known for geneval: no pictures were published"),
        ("imagenett", "no known answer 'imagenett'; nearest: imagenet"),
    ):
        status, _, error = run(capsys, "score", tmp_path, "--check", name)
        assert (status, message in error) == (2, True)
    (tmp_path / "3.webp").unlink()
    assert "has no picture 3.webp" in run(capsys, *command)[2]


def test_known_answers_of_arrays_and_of_styles(tiny_networks, tmp_path):
    rng = np.random.default_rng(0)
    pair = tmp_path / "samples.npz", tmp_path / "reference.npz"
    for path in pair:
        np.savez(path, arr_0=rng.integers(0, 256, (9, 32, 32, 3), np.uint8))
    inputs = Inputs(pair[0], options=Options(pair[1]), networks=tiny_networks)
    names = [row.name for row in known_answers.check("imagenet", inputs)]
    assert names == ["is", "fid", "sfid", "precision", "recall"]
    for style in benchmarks.STYLES:
        (tmp_path / f"{style}.json").write_text(json.dumps(["a cat"]))
        (tmp_path / "xl" / style).mkdir(parents=True)
        path = tmp_path / "xl" / style / "00000.jpg"
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    rows = known_answers.check("hps", Inputs(tmp_path / "xl", tmp_path, networks=tiny_networks))
    assert [row.name for row in rows] == ["antialias", "alias"]
    assert rows[0].value != rows[1].value


def test_half_precision_of_networks_is_recorded_and_near(folders, tiny_networks, tmp_path):
    shutil.copytree(folders / "full", tmp_path / "full")
    folder = PictureFolder(tmp_path / "full")
    exact, half = (
        score(folder, ["clip"], Options(autocast=on), tiny_networks)["clip"] for on in (False, True)
    )
    assert 0 < abs(exact.value - half.value) < 0.5
    assert half.depends["autocast"] == "float16"
    assert "autocast" not in exact.depends


def test_rules_of_the_judge_by_name():
    picture = np.arange(6 * 6 * 3, dtype=np.uint8).reshape(6, 6, 3)
    mask = np.zeros((1, 6, 6), bool)
    mask[0, 2:4, 1:5] = True
    found = Objects(np.array([3]), np.array([0.9]), np.array([[1, 2, 5, 4]]), mask)
    assert np.array_equal(cut_out(picture, found, 0, Rules(ground=-1)), picture[2:4, 1:5])
    assert cut_out(picture, found, 0, Rules(crop=False)).shape == (6, 6, 3)
    with pytest.raises(ValueError, match="no rule 'margn'; nearest: margin"):
        Rules.read(["margn=1"])
    with pytest.raises(ValueError, match="the rule crop is yes or no; not 'maybe'"):
        Rules.read(["crop=maybe"])


def test_a_table_holds_scores_of_one_network(tmp_path):
    settings = {"benchmark": "hps", "category": None, "model": "m", "method": "Dense()",
                "sizes": [[64, 64]]}  # fmt: skip
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "settings.json").write_text(json.dumps(settings))
        result = {"value": 28.0, "low": 27.0, "high": 29.0, "n": 3200, "parts": {},
                  "depends": {"hps": name * 16},
                  "settings_sha256": settings_sha256(settings),
                  "pictures_sha256": pictures_sha256(tmp_path / name)}  # fmt: skip
        (tmp_path / f"{name}.scores").mkdir(exist_ok=True)
        (tmp_path / f"{name}.scores" / "hps.json").write_text(json.dumps(result))
    table = printed_tables.find("A.2")
    paper_tables.rows(table, [tmp_path / "a"])
    with pytest.raises(ValueError, match="scored by the network hps of weights bbbb"):
        paper_tables.rows(table, [tmp_path / "a", tmp_path / "b"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--order", "shuffled"], "--order is a seed from 0, or files; not 'shuffled'"),
        (["--split", "0"], "split must be 1 or more; not 0"),
        (["--groups", "-1"], "groups must be 0 or more; not -1"),
        (["--rule", "most=few"], "the rule most is a whole number; not 'few'"),
        (["--rule", "threshold=nan"], "the rule threshold is 0 to 1; not nan"),
        (["--rule", "ground=300"], "the rule ground is -1 to 255; not 300"),
        (["--rule", "most=0"], "the rule most is 1 or more; not 0"),
        (["--resize", "bicubic"], "no resize 'bicubic'"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_protocols_are_refused_in_one_sentence(arguments, message, capsys):
    status, _, error = run(capsys, "score", "nowhere", *arguments)
    assert (status, message in error, error.count("\n")) == (2, True, 1)
