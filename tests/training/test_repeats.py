"""Seeds are repeats: points, their means and standard errors, against NumPy by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.training.plotting import running_mean
from gdjax.training.repeats import lanes_of_points, mean_and_error, rank
from gdjax.training.result import SweepResult, final_losses
from gdjax.training.trials import column, columns

NAN, INF = np.nan, np.inf


def made(configs, values, *, score=None, diverged=(), started=None, kept=None, exchanges=None):
    """Return the result of a sweep of 10 steps that ended at these losses."""
    lanes = len(values)
    loss = np.broadcast_to(np.asarray(values, np.float32)[:, None], (lanes, 10)).copy()
    steps, at = np.full(lanes, 10), np.full(lanes, -1)
    for lane in diverged:
        at[lane] = steps[lane] = 4
        loss[lane, 5:] = NAN
    for lane in set(range(lanes)) - set(range(lanes) if started is None else started):
        loss[lane], steps[lane] = NAN, 0
    history = {"loss": loss}
    if score is not None:
        history |= {"step": np.array([5, 10]), "score": np.float32([[0.0, s] for s in score])}
    if exchanges is not None:
        history["exchanges"] = exchanges
    kept = np.flatnonzero(steps) if kept is None else np.array(kept)
    return SweepResult(
        configs=columns(configs) if isinstance(configs, list) else configs,
        params={"w": np.arange(lanes, dtype=np.float32)[kept]},
        state={"m": np.arange(lanes)[kept] * 10}, history=history, diverged_at=at,
        final_loss=final_losses(loss, at, steps), seconds=1.0, steps=steps, kept=kept,
    )  # fmt: skip


def crossed(rates, seeds, name="seed"):
    return [{"learning_rate": r, name: s} for r in rates for s in seeds]


def test_points_are_configs_without_their_seeds():
    rates, first, second = [0.1, 0.1, 0.2, 0.2], [0, 1, 0, 1], [5, 5, 5, 6]
    for table, points in [
        ({"rate": rates}, [[0], [1], [2], [3]]),  # the same config twice is two points
        ({"rate": rates, "seed": first}, [[0, 1], [2, 3]]),
        ({"seed": first, "rate": rates}, [[0, 1], [2, 3]]),
        ({"rate": rates, "init_seed": first, "batch_seed": second}, [[0, 1], [2, 3]]),
        ({"rate": rates, "batch_seed": second}, [[0], [1], [2, 3]]),  # as is the same run
        ({"seed": [0, 1, 2, 3]}, [[0, 1, 2, 3]]),
        ({"kind": [None, "None", None, "None"], "seed": first}, [[0], [1], [2], [3]]),
        ({"kind": [True, 1, True, 1], "seed": [0, 0, 1, 1]}, [[0, 2], [1, 3]]),
        ({"kind": [len, max, len, max], "seed": [0, 0, 1, 1]}, [[0, 2], [1, 3]]),
        ({"kind": [{"w": 0.1}] * 2 + [{"w": 0.2}] * 2, "seed": first}, [[0, 1], [2, 3]]),
    ]:
        found = lanes_of_points({k: column(v) for k, v in table.items()})
        assert [p.tolist() for p in found] == points, table
    each = lanes_of_points({"rate": np.array(rates), "seed": np.array(first)}, "each")
    assert [p.tolist() for p in each] == [[0], [1], [2], [3]]


def test_means_and_standard_errors_are_those_of_numpy():
    values = np.random.default_rng(0).normal(size=(5, 3))
    mean, error = mean_and_error(values)
    by_hand = np.sqrt(((values - values.mean(0)) ** 2).sum(0) / 4) / np.sqrt(5)
    np.testing.assert_allclose(mean, values.mean(0), rtol=1e-12)
    np.testing.assert_allclose(error, by_hand, rtol=1e-12)
    assert np.isnan(mean_and_error(values[:1])[1]).all()
    mean, error = mean_and_error(np.array([1.0, INF]))
    assert mean == INF and np.isnan(error)


def test_the_best_point_is_the_best_mean_not_the_luckiest_lane():
    losses = [1.0, 1.2, 1.4, 0.1, 3.0, 2.0, 1.1, 1.3, 1.5]
    result = made(crossed([0.1, 0.2, 0.3], [0, 1, 2]), losses)
    points = result.points()
    assert [p.config for p in points] == [{"learning_rate": r} for r in (0.1, 0.3, 0.2)]
    for point, lanes in zip(points, ([0, 1, 2], [6, 7, 8], [3, 4, 5]), strict=True):
        mine = np.float64(np.float32(losses))[lanes]
        assert point.lanes.tolist() == lanes and (point.diverged, point.steps) == (0, 10)
        np.testing.assert_allclose(point.values, mine, rtol=1e-6)
        np.testing.assert_allclose(point.mean, mine.mean(), rtol=1e-6)
        np.testing.assert_allclose(point.error, np.std(mine, ddof=1) / np.sqrt(3), rtol=1e-6)
    best = result.best()
    assert best.config == {"learning_rate": 0.1} and best.lanes.tolist() == [0, 1, 2]
    assert best.lane == 0 and best.params == {"w": 0.0} and best.state == {"m": 0}
    assert (best.value, best.error) == (points[0].mean, points[0].error)
    assert "value=1.2 ± 0.12, lanes=[0, 1, 2]" in repr(best)
    lucky = result.best(seeds="each")
    assert lucky.lane == 3 and lucky.config == {"learning_rate": 0.2, "seed": 0}
    assert lucky.value == pytest.approx(0.1) and np.isnan(lucky.error)
    most = result.best(mode="max")
    assert most.config == {"learning_rate": 0.2} and most.lane == 4


def test_a_point_with_a_diverged_repeat_is_behind_all_without():
    losses = [0.1, 0.2, 0.1, 5.0, 6.0, 7.0, 0.3, 0.3, 0.3, 1.0, 1.0, 1.0]
    result = made(
        crossed([1, 2, 3, 4], [0, 1, 2]), losses, score=-np.array(losses), diverged=[2, 9, 10, 11]
    )
    for points, worst in (
        (result.points(), INF),
        (result.points("score", "max"), -INF),
        (result.points("score", mode="min"), INF),
    ):
        means = {p.config["learning_rate"]: p.mean for p in points}
        assert means[1] == means[4] == worst and np.isfinite([means[2], means[3]]).all()
        failed = {p.config["learning_rate"]: (p.diverged, p.error) for p in points}
        assert failed[1][0] == 1 and failed[4][0] == 3 and np.isnan(failed[1][1])
    order = [p.config["learning_rate"] for p in result.points()]
    assert order == [3, 2, 1, 4]
    only = made(crossed([1, 2], [0, 1, 2]), losses[:6], diverged=[0, 3, 4])
    best = only.best()  # no other point: the one with the fewest, and a lane of it that is finite
    assert best.config == {"learning_rate": 1} and best.lane == 2 and best.value == INF
    assert "diverged=1" in repr(best)
    with pytest.raises(ValueError, match="every lane of the sweep diverged"):
        made(crossed([1], [0, 1]), [1.0, 1.0], diverged=[0, 1]).best()


def test_repeats_that_never_started_do_not_count():
    configs = crossed([1, 2, 3], [0, 1])
    result = made(configs, [2.0, 1.0, 3.0, NAN, NAN, NAN], started=[0, 1, 2])
    one, two, three = result.points()
    assert (one.mean, two.mean) == (1.5, 3.0) and np.isnan([three.mean, two.error]).all()
    assert np.isnan(two.values).tolist() == [False, True]
    assert (one.kept, two.kept, three.kept) == (True, True, False) and three.steps == 0
    assert result.best().lane == 1 and result.best(mode="max").lane == 2
    curve = result.curve(two.lanes)
    np.testing.assert_array_equal(curve.mean, np.full(10, 3.0))
    assert np.isnan(result.curve(three.lanes).mean).all()


def test_the_best_point_was_kept():
    result = made(crossed([1, 2], [0, 1]), [1.0, 1.0, 2.0, 3.0], kept=[2, 3])
    assert result.best().lanes.tolist() == [2, 3] and result.best().params == {"w": 2.0}


def test_points_of_a_population_are_those_that_it_started_with():
    rates, seeds = np.array([0.2, 0.2, 0.2, 0.2]), np.array([0, 0, 1, 1])
    track = np.array([[0.1, 0.2], [0.4, 0.2], [0.1, 0.2], [0.4, 0.2]])
    exchanges = {"learning_rate": track, "parent": np.array([[0], [0], [2], [2]])}
    result = made({"learning_rate": rates, "seed": seeds}, [1, 2, 3, 4], exchanges=exchanges)
    assert [p.lanes.tolist() for p in result.points()] == [[0, 2], [1, 3]]
    assert result.best().config == {"learning_rate": 0.2}


def test_ranks_are_means_then_shares_of_failures():
    points = [[1.0, INF], [3.0], [2.0, 2.0, 2.5], [NAN, NAN], [INF], [0.0, INF, INF], [NAN, 2.1]]
    assert rank([np.array(p) for p in points]) == [6, 2, 1, 0, 5, 4, 3]


def test_curves_have_the_mean_of_what_still_runs():
    rng = np.random.default_rng(1)
    result = made(crossed([1], [0, 1, 2]), [0.0] * 3, score=[1.0, 2.0, 6.0], diverged=[1])
    result.history["loss"][:] = np.where(
        np.isnan(result.history["loss"]), NAN, rng.normal(size=(3, 10))
    )
    loss = result.history["loss"].astype(float)
    curve = result.curve([0, 1, 2])
    np.testing.assert_allclose(curve.mean, loss.mean(0))
    np.testing.assert_allclose(curve.error, loss.std(0, ddof=1) / np.sqrt(3))
    assert np.isnan(curve.mean).tolist() == [False] * 5 + [True] * 5
    smooth = result.curve([0, 2], smooth=4)
    at_7 = loss[[0, 2], 4:8].mean(1)
    np.testing.assert_allclose(smooth.mean[7], at_7.mean())
    np.testing.assert_allclose(smooth.error[7], at_7.std(ddof=1) / np.sqrt(2))
    score = result.curve([0, 1, 2], "score")
    assert score.step.tolist() == [5, 10] and np.isnan(score.mean).all()  # frozen before step 5
    assert result.curve([0, 2], "score").mean.tolist() == [0.0, 3.5]
    with pytest.raises(ValueError, match="smooth=.*>= 1, got 0"):
        result.curve([0], smooth=0)


@pytest.mark.parametrize("width", [1, 2, 3, 7, 20, 50])
def test_a_running_mean_does_not_cancel(width):
    rows = np.logspace(12, -12, 20)[None] * np.ones((2, 1))
    rows[1, 15:] = NAN
    rows[1, 3] = INF
    found = running_mean(rows, width)
    for i, row in enumerate(rows):
        for t in range(20):
            part = row[max(0, t - width + 1) : t + 1]
            expected = part[np.isfinite(part)].mean() if np.isfinite(row[t]) else NAN
            np.testing.assert_allclose(found[i, t], expected, rtol=1e-12)


def test_a_metric_needs_a_mode():
    result = made(crossed([1, 2], [0, 1]), [1.0, 2.0, 3.0, 4.0], score=[1.0, 2.0, 3.0, 4.0])
    for call in (result.points, result.best):
        with pytest.raises(ValueError, match=r"\(by='score'\) needs mode=.*mode='max' for an acc"):
            call("score")
        with pytest.raises(ValueError, match=r"mode=...\) must be one of 'min', 'max', got 'most'"):
            call("score", "most")
        with pytest.raises(ValueError, match=r"seeds=...\) must be one of 'mean', 'each', got 3"):
            call(seeds=3)
        with pytest.raises(ValueError, match="by='typo' is not recorded; there is loss, score"):
            call("typo")
    assert result.best("score", "max").lanes.tolist() == [2, 3]


def test_seeds_of_a_sweep_are_repeats():
    x = jax.random.normal(jax.random.key(0), (32, 3))
    result = gdjax.sweep(
        lambda p, b: jnp.mean((b @ p - 1) ** 2), lambda key: jax.random.normal(key, (3,)),
        gdjax.sgd, {"learning_rate": [1e-3, 0.1, 1e20]}, x, batch_size=4, steps=20, seeds=3,
    )  # fmt: skip
    final = result.final_loss.reshape(3, 3).astype(float)
    points = {p.config["learning_rate"]: p for p in result.points()}
    for rate, mine in zip([1e-3, 0.1], final, strict=False):
        np.testing.assert_allclose(points[rate].mean, mine.mean())
        np.testing.assert_allclose(points[rate].error, mine.std(ddof=1) / np.sqrt(3))
    assert points[1e20].diverged == 3
    best = result.best()
    assert best.lane == best.lanes[np.argmin(result.final_loss[best.lanes])]
    np.testing.assert_array_equal(best.params, result.lane(best.lane)[0])
