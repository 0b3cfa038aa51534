"""The one loop of turns and the one estimator of speedups, under clocks that are made up."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from fastvar_lab.experiments import demo
from fastvar_lab.measure.speedup import WIDEST, Speedup, disturbed, undisturbed
from fastvar_lab.methods.prune import Dense, Prune
from fastvar_lab.plotting import charts
from fastvar_lab.plotting.tables import tabulate
from fastvar_lab.speed import bench, captured, suite
from fastvar_lab.speed.timed import ATTEMPTS, paired, speedups, speedups_between, timed, turns


def clock(*times):
    """Return a way that takes these times, one a call, and counts its calls."""
    left = iter(times)

    def way():
        way.calls += 1
        return next(left)

    way.calls = 0
    return way


def test_all_ways_take_their_turn_and_the_warm_up_is_dropped():
    order = []
    ways = {name: lambda name=name: order.append(name) or len(order) for name in "abc"}
    assert turns(ways, repeats=2, warm_up=2) == {"a": [7, 10], "b": [8, 11], "c": [9, 12]}
    assert "".join(order) == "abc" * 4
    with pytest.raises(ValueError, match="at least one turn; not 0"):
        turns(ways, repeats=0)


def test_the_median_of_paired_turns_is_not_the_ratio_of_medians():
    full, fast = [10.0, 20.0, 30.0], [5.0, 10.0, 10.0]
    found = Speedup.of(full, fast, widest=1)
    assert found.median == 2.0
    assert (found.q1, found.q3) == (2.0, 2.5)
    assert (found.low, found.high, found.n) == (2.0, 3.0, 3)  # too few for an interval


def test_what_slows_a_whole_turn_leaves_the_speedup_as_it_is():
    found = Speedup.of([2.0, 200.0, 4.0], [1.0, 100.0, 2.0])
    assert (found.median, found.spread, found.disturbed) == (2.0, 0.0, False)


def test_the_interval_of_the_median_is_of_order_statistics():
    ratios = [1 + i / 1000 for i in range(20)]
    found = Speedup.of(ratios, [1.0] * 20)
    # the 6th and 15th of 20: 1 - 2 * P(Binomial(20, 1/2) <= 5) = 95.9 %
    assert (found.low, found.high) == (ratios[5], ratios[14])


@pytest.mark.parametrize(
    ("full", "fast", "sentence"),
    [
        ([1.0], [], "not 1 and 0"),
        ([], [], "not 0 and 0"),
        ([1.0], [0.0], "finite and above 0; not 0"),
        ([float("nan")], [1.0], "above 0; not nan"),
        ([float("inf")], [1.0], "finite and above 0; not inf"),
    ],
)
def test_unpaired_times_are_refused(full, fast, sentence):
    with pytest.raises(ValueError, match=sentence):
        Speedup.of(full, fast)


def test_one_stalled_turn_of_many_is_left_to_the_median():
    steady, stalled = clock(*[2.0] * 8), clock(*[1.0] * 4, 50.0, *[1.0] * 3)
    found = speedups({"full": steady, "fast": stalled}, repeats=7)["fast"].speedup
    assert (found.median, found.disturbed) == (2.0, False)
    assert steady.calls == 8


def test_a_stalled_turn_of_few_is_measured_again():
    full = clock(2.0, 2.0, 2.0, 2.0, *[2.0] * 4)
    fast = clock(1.0, 1.0, 1.0, 9.0, *[1.0] * 4)
    found = speedups({"full": full, "fast": fast}, repeats=3)["fast"]
    assert (found.speedup.median, found.speedup.disturbed) == (2.0, False)
    assert (full.calls, fast.calls) == (8, 8)
    assert found.fast == [1.0, 1.0, 1.0]  # of the turns that count


def test_a_measurement_that_stays_wide_is_marked_after_a_few_attempts():
    full, fast = clock(*[2.0] * 99), clock(*[1.0, 2.0, 4.0] * 33)
    found = speedups({"full": full, "fast": fast}, repeats=3, warm_up=0)["fast"].speedup
    assert found.disturbed
    assert str(found).endswith("timing disturbed")
    assert full.calls == 3 * ATTEMPTS


@pytest.mark.parametrize("factor", [0.1, 1.0, 6.3])
def test_the_spread_alone_decides_never_the_value(factor):
    steady, wide = [1.0, 1.01, 1.02], [1.0, 1.3, 1.6]
    for ratios, calls in ((steady, 3), (wide, 3 * ATTEMPTS)):
        full, fast = clock(*[r * factor for r in ratios] * 9), clock(*[1.0] * 99)
        speedups({"full": full, "fast": fast}, repeats=3, warm_up=0)
        assert full.calls == calls


def test_only_disturbed_ways_are_measured_again_beside_the_base():
    full, steady = clock(*[2.0] * 9), clock(*[1.0] * 9)
    shaken = clock(1.0, 9.0, 1.0, 1.0, 1.0, 1.0)
    found = speedups({"full": full, "a": steady, "b": shaken}, repeats=3, warm_up=0)
    assert (full.calls, steady.calls, shaken.calls) == (6, 3, 6)
    assert [found[n].speedup.median for n in ("full", "a", "b")] == [1.0, 2.0, 2.0]
    assert not any(pairs.speedup.disturbed for pairs in found.values())


def test_of_disturbed_attempts_the_least_spread_one_counts():
    fast = clock(1.0, 2.0, 4.0, 1.0, 1.2, 1.5, 1.0, 3.0, 9.0)
    found = speedups({"full": clock(*[6.0] * 9), "fast": fast}, repeats=3, warm_up=0)["fast"]
    assert found.fast == [1.0, 1.2, 1.5]
    assert found.speedup.disturbed


def test_the_base_must_be_a_way():
    with pytest.raises(ValueError, match="base 'full' must be one of a"):
        speedups({"a": float}, repeats=1)


def test_the_middle_turn_adds_up_to_the_speedup():
    full, fast = [[1.0, 3.0], [2.0, 7.0], [1.0, 4.0]], [[1.0, 1.0], [1.0, 2.0], [1.0, 1.5]]
    found = paired(full, fast, sum)
    whole, part = found.middle
    assert found.speedup.median == sum(whole) / sum(part) == 2.0


def test_disturbed_rows_are_dropped_and_those_without_a_timing_stay():
    steady, shaken = Speedup.of([2.0] * 3, [1.0] * 3), Speedup.of([2.0] * 3, [1.0, 2.0, 3.0])
    rows = [
        {"method": "steady", **steady.columns()},
        {"method": "shaken", **shaken.columns()},
        {"method": "picture", "psnr": 30.0},
    ]
    assert undisturbed(pd.DataFrame(rows)).method.to_list() == ["steady", "picture"]
    assert disturbed(rows)
    assert disturbed([{"disturbed": np.True_}])
    assert not disturbed([rows[0], rows[2], {"disturbed": None}, {"disturbed": float("nan")}])
    plain = pd.DataFrame(rows[2:])
    assert undisturbed(plain) is plain
    assert shaken.spread > WIDEST


def test_a_demo_states_the_speedup_of_its_bars(small, monkeypatch):
    totals = iter([9.0, 9.0, 4.0, 2.0, 5.0, 2.1, 4.8, 2.0])  # full and fast, the first a warm-up

    def made_up(*args, **options):
        return replace(timed(*args, **options), step_ms=[0.0] * 4 + [next(totals)])

    monkeypatch.setattr(demo, "timed", made_up)
    report, *_ = demo.compare(small, "a red ring", Prune({-1: 0.5}), seed=0)
    assert report["speedup"] == 5.0 / 2.1  # of the turns 2, 2.38 and 2.4
    assert (sum(report["ms_full"]), sum(report["ms_fast"])) == (5.0, 2.1)
    assert not report["disturbed"]


def test_a_disturbed_timing_is_marked_wherever_it_is_shown():
    """Tables note it, bars and lines are named after it, and growth is not fitted to it."""
    times = {"full": [4.0, 4.1], "FastVAR 8x8: 50 %": [2.0, 3.9]}
    rows = [
        {"method": m, "family": m.split()[0], "size": "8x8", "ms": ms, "disturbed": m != "full"}
        for m, turns in times.items()
        for ms in turns
    ]
    frame = pd.DataFrame(rows)
    table = tabulate(frame).set_index("method").note
    assert table.to_list() == ["", "timing disturbed"]
    assert "note" not in tabulate(frame.assign(disturbed=False))
    labels = [text.get_text() for text in charts.latency(frame).axes[0].get_legend().get_texts()]
    assert labels == ["full", "FastVAR 8x8: 50 %, timing disturbed"]
    growing = frame.assign(what="time", tokens=[64, 256] * 2, kernel="fused")
    labels = [t.get_text() for t in charts.scaling(growing).axes[0].get_legend().get_texts()]
    assert "timing disturbed" in labels[1]
    cases = [
        {"model": "m", "group": "growth", "name": f"m {s} preset", "scales": [s],
         "ms_full": ms, "ms_fast": ms, "disturbed": wide}
        for s, ms, wide in (("8x8", 1.0, False), ("16x16", 4.0, False), ("32x32", 99.0, True))
    ]  # fmt: skip
    assert suite.growth(cases) == {"full": pytest.approx(1), "fast": pytest.approx(1)}


def test_methods_whose_timings_are_all_disturbed_leave_an_empty_front():
    """Nothing is recommended, and the figure still draws."""
    common = {"family": "FastVAR", "picture": 0, "psnr": 30.0, "speedup": 6.3}
    bounds = {"speedup_low": 1.0, "speedup_high": 9.0, "speedup_flop_bound": 1.35}
    rows = [
        {**common, **bounds, "kind": kind, "method": method, "family": family,
         "disturbed": family != "full"}
        for kind in ("quality", "time")
        for method, family in (("full", "full"), ("FastVAR 8x8: 50 %", "FastVAR"))
    ]  # fmt: skip
    frame = pd.DataFrame(rows)
    assert charts.tradeoff_points(frame).empty
    assert not len(charts.tradeoff(frame).axes[0].lines[-1].get_xdata())
    assert "6.30 [1.00 to 9.00], timing disturbed" in set(tabulate(frame).speedup)


def test_a_timing_takes_an_attempt_and_finite_times():
    with pytest.raises(ValueError, match="at least one attempt; not 0"):
        speedups({"full": float}, repeats=1, attempts=0)
    endless = clock(*[float("inf")] * 9)
    with pytest.raises(ValueError, match="finite and above 0; not inf"):
        speedups({"full": endless, "fast": endless}, repeats=3, warm_up=0)


def test_ratios_with_graphs_are_medians_over_turns(small, monkeypatch):
    half = Prune({-1: 0.5})
    seconds = {  # of three turns, whose medians have other ratios
        (Dense(), False): [10, 20, 30], (half, False): [5, 20, 10],
        (Dense(), True): [6, 8, 10], (half, True): [3, 8, 2],
    }  # fmt: skip
    warm = [1.0, 1.0]
    clocks = {key: clock(*(warm + times) * ATTEMPTS) for key, times in seconds.items()}

    def generate(model, condition, method, *, graphs, **options):
        return SimpleNamespace(seconds=clocks[method, graphs]())

    monkeypatch.setattr(captured, "generate", generate)
    row = captured.captured_times(small, small.sizes, {"half": half}, repeats=3)["half"]
    assert row["speedup_eager"] == 2.0  # of 2, 1 and 3
    assert row["speedup_graphs"] == 2.0  # of 2, 1 and 5; medians would say 8 / 3
    assert row["graphs_full"] == 0.4  # of 0.6, 0.4 and 1 / 3
    assert row["graphs_fast"] == 0.4  # of 0.6, 0.4 and 0.2; medians would say 0.3
    assert (row["ms_graphs_full"], row["ms_graphs_fast"]) == (8e3, 3e3)
    assert row["graphs_disturbed"]


def test_speedups_between_functions_run_those_that_they_need_alone():
    steady, other = clock(*[2.0] * 9), clock(*[1.0] * 9)
    shaken = clock(1.0, 9.0, 1.0, 1.0, 1.0, 1.0)
    over = {"steady": ("a", "b"), "shaken": ("b", "c")}
    functions = {"a": steady, "b": other, "c": shaken, "unused": clock()}
    found = speedups_between(functions, over, repeats=3, warm_up=0)
    assert (steady.calls, other.calls, shaken.calls) == (3, 6, 6)
    assert [found[name].speedup.median for name in over] == [2.0, 1.0]


@pytest.mark.parametrize(("rate", "side"), [(1e12, 2048), (1e10, 1024), (3e8, 256), (1e6, 256)])
def test_products_of_a_slow_type_are_small(rate, side, monkeypatch):
    sides = []

    def short_ms(works, device, repeats, progress=None):
        sides.append(len(works["product"].__closure__[0].cell_contents))
        return {"product": [1e3 * 2 * sides[-1] ** 3 / rate] * repeats}

    monkeypatch.setattr(bench, "short_ms", short_ms)
    assert bench.product_rate("cpu", torch.float16) == pytest.approx(rate)
    assert sides == [256, side]
