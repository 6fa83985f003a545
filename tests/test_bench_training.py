"""The scores of bench/training, against small cases computed by hand."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

PATH = Path(__file__).parents[1] / "bench" / "training" / "scoring.py"
spec = importlib.util.spec_from_file_location("bench_training_scoring", PATH)
if spec is None or spec.loader is None or not PATH.exists():  # an installed package has no bench/
    pytest.skip("bench/ is not here", allow_module_level=True)
scoring = importlib.util.module_from_spec(spec)
spec.loader.exec_module(scoring)


def test_the_first_report_at_the_target_counts_and_nan_never_does():
    steps = [10, 20, 30, 40]
    assert scoring.steps_to_target([3.0, 2.0, 1.0, 0.5], steps, 1.0) == 30
    assert scoring.steps_to_target([1.0, 2.0, 1.0, 0.5], steps, 1.0) == 10
    assert scoring.steps_to_target([3.0, np.nan, np.nan, 2.0], steps, 1.0) == np.inf


def test_a_study_counts_its_best_trial_and_a_method_the_median_study():
    times = [[30, 20, np.inf], [50, 60, 70], [np.inf, np.inf, np.inf]]  # best: 20, 50, inf
    assert scoring.time_of_method(times) == 50
    assert scoring.time_of_method([times[0], times[2], times[2]]) == np.inf


def test_scores_are_areas_under_profiles():
    # Ratios: a = (1, 2, inf), b = (2, 1, 1). Each workload gives (4 - ratio) / 3, at least 0:
    # a: (1 + 2/3 + 0) / 3 = 5/9, b: (2/3 + 1 + 1) / 3 = 8/9.
    times = {"a": {"x": 10, "y": 40, "z": np.inf}, "b": {"x": 20, "y": 20, "z": 7}}
    np.testing.assert_array_equal(scoring.ratios(times)["a"], [1, 2, np.inf])
    assert scoring.scores(times) == pytest.approx({"a": 5 / 9, "b": 8 / 9}, rel=1e-12)
    # The same from the profile itself, integrated by the trapezoidal rule on a fine grid.
    taus = np.linspace(1, 4, 300001)
    profile = np.mean([1 <= taus, 2 <= taus, 0 * taus > 0], 0)
    assert np.trapezoid(profile, taus) / 3 == pytest.approx(5 / 9, abs=1e-5)
    # A ratio of more than 4 gives nothing, and a workload that nobody solves gives nothing to all.
    assert scoring.profile_score([1, 4.5]) == 0.5
    nobody = {"a": {"x": np.inf}, "b": {"x": np.inf}}
    assert scoring.scores(nobody) == {"a": 0, "b": 0}


def test_a_method_that_fails_a_variant_loses_the_base_workload():
    times = {"a": {"x": 10, "y": 10}, "b": {"x": 20, "y": 20}, "c": {"x": 30, "y": 30}}
    variants = {"a": {"x": np.inf, "y": 40}, "b": {"x": 10, "y": 10}, "c": {"x": 41, "y": 39}}
    kept = scoring.after_held_out_rule(times, variants)
    assert kept["a"] == {"x": np.inf, "y": 10}  # missed; exactly 4 times the fastest is allowed
    assert kept["b"] == times["b"]
    assert kept["c"] == {"x": np.inf, "y": 30}


def test_pairs_are_compared_by_their_logarithms_and_misses_count_as_the_budget():
    pytest.importorskip("scipy")
    ours = np.array([[10.0, 20.0], [40.0, np.inf]])
    theirs = np.array([[20.0, 20.0], [80.0, np.inf]])
    found = scoring.paired_test(ours, theirs, budget=[100, 160], draws=200)
    # Ratios 2, 1, 2, 1 (both missed), so the mean is the square root of 2.
    assert found["speedup"] == pytest.approx(2**0.5)
    assert found["pairs"] == 2 and found["p"] == 0.5  # both signs agree: 2 of the 4 outcomes
    assert 1 <= found["low"] <= found["speedup"] <= found["high"] <= 2
    # One that misses where the reference needs a quarter of the budget: the ratio is at most 1/4.
    found = scoring.paired_test([[np.inf]], [[25.0]], budget=[100], draws=10)
    assert found["speedup"] == pytest.approx(0.25)
    assert scoring.paired_test(ours, ours, [100, 160], draws=10)["p"] == 1
