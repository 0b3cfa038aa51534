"""The scores of folders of pictures: distances by closed forms, GenEval by a slow reading."""

import hashlib
import io
import itertools
import json
import math

import numpy as np
import pytest

from fastvar_lab.evaluators import distances, geneval, jackknife
from fastvar_lab.evaluators.case import over_prompts
from fastvar_lab.evaluators.geneval import Detected
from fastvar_lab.measure.statistics import bootstrap

RNG = np.random.default_rng(0)


def test_frechet_distance_of_known_gaussians():
    a, b = np.array([0.5, 2.0, 1.0]), np.array([1.5, 0.1, 4.0])
    one = distances.Moments(np.zeros(3), np.diag(a))
    other = distances.Moments(np.array([1.0, 0.0, 2.0]), np.diag(b))
    expected = 5.0 + float(((np.sqrt(a) - np.sqrt(b)) ** 2).sum())
    assert distances.frechet(one, other) == pytest.approx(expected, rel=1e-12)
    assert distances.frechet(one, one) == pytest.approx(0, abs=1e-12)
    turn = np.linalg.qr(RNG.normal(size=(3, 3)))[0]
    turned = [distances.Moments(turn @ m, turn @ c @ turn.T) for m, c in (one, other)]
    assert distances.frechet(*turned) == pytest.approx(expected, rel=1e-12)
    with pytest.raises(ValueError, match="features of 3 and of 2 numbers"):
        distances.frechet(one, distances.Moments(np.zeros(2), np.eye(2)))


@pytest.mark.parametrize("n", [12, 60])
def test_frechet_distance_equals_torchmetrics_with_fewer_pictures_than_features_too(n):
    torch = pytest.importorskip("torch")
    from torchmetrics.image.fid import _compute_fid

    one, other = (distances.moments(RNG.normal(size=(n, 20)) * s + s) for s in (1.0, 1.3))
    theirs = _compute_fid(*(torch.from_numpy(x) for x in (*one, *other)))
    assert distances.frechet(one, other) == pytest.approx(float(theirs), rel=1e-5)


def test_kernel_distance_equals_torchmetrics_and_has_no_bias():
    torch = pytest.importorskip("torch")
    from torchmetrics.image.kid import poly_mmd

    x, y = RNG.normal(size=(2, 40, 8))
    mine, spread = distances.kernel_distance(x, y, subsets=1, size=40)
    assert mine == pytest.approx(float(poly_mmd(torch.from_numpy(x), torch.from_numpy(y))))
    assert spread == 0
    same = [distances.kernel_distance(*RNG.normal(size=(2, 30, 4)), 1)[0] for _ in range(300)]
    assert abs(np.mean(same)) < 3 * np.std(same) / math.sqrt(300)


def test_left_out_groups_are_what_they_would_be_alone():
    x, y = RNG.normal(size=(30, 6)), RNG.normal(size=(20, 6)) + 0.3
    parts = jackknife.groups_of(30, 4)
    assert sorted(np.concatenate(parts)) == list(range(30))
    alone = [distances.moments(x[stays]) for stays in jackknife.without(parts)]
    for one, other in zip(jackknife.moments_without(x, parts), alone, strict=True):
        assert np.allclose(one.mean, other.mean)
        assert np.allclose(one.covariance, other.covariance)
    shifted = jackknife.kernel_distances_without(x, y, parts)
    expected = []
    for stays in jackknife.without(parts):
        z = x[stays]
        zz, zy = (z @ z.T / 6 + 1) ** 3, (z @ y.T / 6 + 1) ** 3
        n = len(z)
        expected.append((zz.sum() - np.trace(zz)) / (n * (n - 1)) - 2 * zy.mean())
    assert np.allclose(shifted, expected)


@pytest.mark.parametrize("n", [100, 400])
def test_intervals_of_distances_reach_as_far_as_draws_differ(n):
    rng, reference = np.random.default_rng(3), distances.Moments(np.zeros(20), 2 * np.eye(20))
    values, widths = [], []
    for _ in range(40):
        x = rng.normal(size=(n, 20)) * 1.2 + 0.2
        value = distances.frechet(reference, distances.moments(x))
        left = [distances.frechet(reference, m)
                for m in jackknife.moments_without(x, jackknife.groups_of(n))]  # fmt: skip
        low, high = jackknife.interval(value, left)
        values.append(value)
        widths.append((high - low) / 2)
    assert np.mean(widths) / 2.26 == pytest.approx(np.std(values), rel=0.35)  # Student's, 9 degrees


def test_distances_in_half_precision_are_near_and_fall_back_where_they_overflow():
    x, y = RNG.normal(size=(2000, 3)), RNG.normal(size=(1500, 3))
    whole, half = (distances.precision_recall(x, y, half=h) for h in (False, True))
    changed = (whole.recall != half.recall).mean()
    assert 0 < changed < 0.02
    assert all(
        np.array_equal(a, b)
        for a, b in zip(*(distances.precision_recall(2e4 * x, 2e4 * y, half=h) for h in (0, 1)))
    )


def test_inception_score_of_known_posteriors():
    logits = np.repeat(np.eye(10) * 1e4, 50, axis=0)
    assert distances.inception_score(logits)[0] == pytest.approx(10)
    assert distances.inception_score(np.ones((500, 10)))[0] == pytest.approx(1)
    shuffled, ordered = (distances.inception_score(logits, 50, seed)[0] for seed in (0, None))
    assert ordered == pytest.approx(1)  # a split holds one class
    assert shuffled > 8


def test_precision_and_recall_of_point_sets():
    cluster = RNG.normal(size=(40, 6)).astype(np.float32)
    far = cluster + 100
    for samples, reference, precision, recall in (
        (cluster, cluster, 1, 1),
        (far, cluster, 0, 0),
        (cluster, np.concatenate((cluster, far)), 1, 0.5),
        (np.concatenate((cluster, far)), cluster, 0.5, 1),
    ):
        covered = distances.precision_recall(samples, reference)
        assert (covered.precision.mean(), covered.recall.mean()) == (precision, recall)
    with pytest.raises(ValueError, match="3 neighbours need more than 3 samples"):
        distances.precision_recall(cluster[:3], cluster)


def test_precision_and_recall_by_hand(monkeypatch):
    x, y = RNG.normal(size=(17, 3)), RNG.normal(size=(23, 3)) + 0.7
    radius = [sorted(np.linalg.norm(y - p, axis=1))[3] for p in y]
    inside = [any(np.linalg.norm(p - q) <= r for q, r in zip(y, radius)) for p in x]
    assert distances.precision_recall(x, y).precision.tolist() == inside
    whole = distances.precision_recall(x, y)
    monkeypatch.setattr(distances, "BLOCK", 5)
    parts = distances.precision_recall(x, y)
    assert all(np.array_equal(a, b) for a, b in zip(whole, parts))


def test_slow_distances_show_a_bar_that_ends(monkeypatch):
    bars = []

    def noted(*args, real=distances.tqdm, **options):
        bars.append(real(*args, **options, file=io.StringIO()))
        return bars[-1]

    for module in (distances, jackknife):
        monkeypatch.setattr(module, "tqdm", noted)
    monkeypatch.setattr(distances, "BLOCK", 5)
    x, y = RNG.normal(size=(17, 3)), RNG.normal(size=(23, 3))
    distances.precision_recall(x, y)
    distances.kernel_distance(x, y, subsets=7)
    parts = jackknife.groups_of(17, 4)
    jackknife.kernel_distances_without(x, y, parts)
    list(jackknife.moments_without(x, parts))
    assert [bar.total for bar in bars] == [80, 7, 4, 4]
    assert all(bar.n == bar.total and bar.delay == 2 for bar in bars)


def test_the_published_prompts_of_geneval():
    items = geneval.metadata()
    text = "".join(json.dumps(item) + "\n" for item in items)
    assert hashlib.sha256(text.encode()).hexdigest() == geneval.METADATA_SHA256
    counts = [sum(item["tag"] == task for item in items) for task in geneval.TASKS]
    assert counts == [80, 99, 80, 94, 100, 100]
    assert len(geneval.CLASSES) == 80


def box(x, y, side=10):
    return (x, y, x + side, y + side)


def name_colors(table):
    return lambda name, objects: [table[o.index] for o in objects]


ONE = {"tag": "single_object", "include": [{"class": "cat", "count": 1}]}
TWO = {"tag": "counting", "include": [{"class": "cat", "count": 2}],
       "exclude": [{"class": "cat", "count": 3}]}  # fmt: skip
RED = {"tag": "colors", "include": [{"class": "cat", "count": 1, "color": "red"}]}
LEFT = {"tag": "position", "include": [{"class": "dog", "count": 1},
        {"class": "cat", "count": 1, "position": ["left of", 0]}]}  # fmt: skip


@pytest.mark.parametrize(
    ("item", "objects", "colors", "right"),
    [
        (ONE, {"cat": [Detected(0.31, box(0, 0))]}, {}, True),
        (ONE, {"cat": [Detected(0.30, box(0, 0))]}, {}, False),
        (ONE, {"dog": [Detected(0.99, box(0, 0))]}, {}, False),
        (TWO, {"cat": [Detected(0.91, box(0, 0)), Detected(0.95, box(9, 9))]}, {}, True),
        (TWO, {"cat": [Detected(0.91, box(0, 0)), Detected(0.90, box(9, 9))]}, {}, False),
        (TWO, {"cat": [Detected(0.95, box(9 * i, 9)) for i in range(3)]}, {}, False),
        (RED, {"cat": [Detected(0.9, box(0, 0), 4)]}, {4: "red"}, True),
        (RED, {"cat": [Detected(0.9, box(0, 0), 4)]}, {4: "blue"}, False),
        # only the best object is asked for its color
        (RED, {"cat": [Detected(0.5, box(0, 0), 1), Detected(0.9, box(0, 0), 2)]},
         {1: "red", 2: "blue"}, False),
        (LEFT, {"cat": [Detected(0.5, box(0, 0))], "dog": [Detected(0.5, box(40, 0))]}, {}, True),
        (LEFT, {"cat": [Detected(0.5, box(40, 0))], "dog": [Detected(0.5, box(0, 0))]}, {}, False),
        (LEFT, {"cat": [Detected(0.5, box(0, 0))]}, {}, False),
    ],
)  # fmt: skip
def test_verdicts(item, objects, colors, right):
    assert geneval.verdict(item, objects, name_colors(colors))[0] is right


def test_relations_at_their_limits():
    def at(x, y):
        return geneval.relations(Detected(1, box(x, y)), Detected(1, box(0, 0)))

    assert at(-20, 0) == {"left of"}
    assert at(20, 0) == {"right of"}
    assert at(0, -20) == {"above"}
    assert at(0, 20) == {"below"}
    assert at(-20, -20) == {"left of", "above"}
    assert at(2, 0) == set()  # 0.1 of both sizes
    assert at(0, 0) == set()
    # the rest after the margin is compared with the whole distance: half of it is not enough
    assert at(4, 0) == set()
    assert at(4.01, 0) == {"right of"}


def slow_verdict(item, objects, colors, rules):
    """Read the protocol word by word."""
    limit = 0.9 if item["tag"] == "counting" else 0.3
    kept = {}
    for name, found in objects.items():
        found = sorted([o for o in found if o.score > limit], key=lambda o: o.score)[::-1]
        kept[name] = found[:16]
    right, groups = True, []
    for clause in item["include"]:
        found = kept.get(clause["class"], [])
        ok = len(found) >= clause["count"]
        found = found[: clause["count"]]
        if ok and "color" in clause:
            ok = sum(c == clause["color"] for c in colors(clause["class"], found)) >= \
                clause["count"]  # fmt: skip
        if ok and "position" in clause:
            wanted, target = clause["position"]
            if groups[target] is None:
                ok = False
            else:
                for a, b in itertools.product(found, groups[target]):
                    ax, ay = (a.box[0] + a.box[2]) / 2, (a.box[1] + a.box[3]) / 2
                    bx, by = (b.box[0] + b.box[2]) / 2, (b.box[1] + b.box[3]) / 2
                    rest = []
                    for k, gap in ((0, ax - bx), (1, ay - by)):
                        sizes = a.box[k + 2] - a.box[k] + b.box[k + 2] - b.box[k]
                        rest.append(math.copysign(max(abs(gap) - 0.1 * sizes, 0), gap))
                    length, names = math.hypot(ax - bx, ay - by), []
                    if max(abs(rest[0]), abs(rest[1])) >= 1e-3:
                        x, y = rest[0] / length, rest[1] / length
                        names += ["left of"] * (x < -0.5) + ["right of"] * (x > 0.5)
                        names += ["above"] * (y < -0.5) + ["below"] * (y > 0.5)
                    ok = ok and wanted in names
        groups.append(found if ok else None)
        right = right and ok
    for clause in item.get("exclude", []):
        right = right and len(kept.get(clause["class"], [])) < clause["count"]
    return right


def test_the_judge_agrees_with_a_slow_reading_of_the_protocol():
    rng, rules, outcomes = np.random.default_rng(1), geneval.Rules(), []
    for item in geneval.metadata():
        for _ in range(6):
            objects, colors, index = {}, {}, 0
            for clause in item["include"]:
                found = []
                for _ in range(rng.choice([0, clause["count"], clause["count"] + 1, 20],
                                          p=[0.1, 0.6, 0.2, 0.1])):  # fmt: skip
                    corner = rng.integers(0, 100, 2)
                    size = rng.integers(5, 40, 2)
                    place = (*map(float, corner), *map(float, corner + size))
                    score = float(rng.choice([0.2, 0.5, 0.89, 0.95]) + rng.random() / 50)
                    found.append(Detected(score, place, index))
                    likely = clause.get("color", "red")
                    colors[index] = (
                        likely if rng.random() < 0.7 else str(rng.choice(geneval.COLORS))
                    )
                    index += 1
                objects.setdefault(clause["class"], []).extend(found)
            mine, reason = geneval.verdict(item, objects, name_colors(colors), rules)
            assert mine == slow_verdict(item, objects, name_colors(colors), rules)
            assert mine == (reason == "")
            outcomes.append(mine)
    assert 0.1 < np.mean(outcomes) < 0.6


def test_intervals_of_prompts_of_unequal_counts_are_those_of_the_mean_over_pictures():
    numbers, values = np.array([0] * 9 + [1, 2]), np.array([0.0] * 9 + [1.0, 1.0])
    low, high = over_prompts(numbers, values)
    assert (low, high) == (0.0, 1.0)
    many, hits = np.repeat(np.arange(400), [1, 9] * 200), np.tile([1.0] + [0.0] * 9, 200)
    low, high = over_prompts(many, hits)
    assert low < hits.mean() == 0.1 < high < 0.13
    equal = np.repeat(np.arange(4), 2), np.array([1.0, 0, 0, 0, 1, 1, 0, 1])
    assert over_prompts(*equal) == bootstrap(equal[1].reshape(4, 2).mean(1))


def test_overlapping_objects_are_dropped_only_where_asked():
    found = [Detected(0.9, box(0, 0)), Detected(0.8, box(1, 0)), Detected(0.7, box(50, 50))]
    assert len(geneval.kept(found, False, geneval.Rules())) == 3
    assert [o.score for o in geneval.kept(found, False, geneval.Rules(overlap=0.5))] == [0.9, 0.7]


def test_overall_is_the_mean_of_tasks_and_its_interval_is_over_prompts():
    tasks = ["colors"] * 8 + ["position"] * 4
    hits = [1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 1]
    assert geneval.overall(tasks, hits) == pytest.approx((0.75 + 0.25) / 2)
    agreeing = [float(i % 2) for i in range(50) for _ in range(4)]
    prompts = [f"p{i}" for i in range(50) for _ in range(4)]
    low, high = geneval.interval(["colors"] * 200, prompts, agreeing)
    alone = geneval.interval(["colors"] * 200, [f"p{i}" for i in range(200)], agreeing)
    assert (high - low) / (alone[1] - alone[0]) == pytest.approx(2, rel=0.15)
