"""Seeds are repeats: points, their means and standard errors, against NumPy by hand."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.training.plotting import limits, running_mean, spacing_of
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
        model_state=None, stopped_at=np.full(lanes, -1),
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
    assert np.isnan(result.curve([]).mean).all()
    with pytest.raises(ValueError, match="smooth=.*>= 1, got 0"):
        result.curve([0], smooth=0)
    with pytest.raises(ValueError, match=r"lanes=...\) must be in \[0, 2\], got \[3\]"):
        result.curve([3])


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


# --- tables and files ---


def noisy():
    """Return a sweep of 3 points of 3 seeds; a repeat of the last one diverged."""
    losses = [1.0, 1.2, 1.4, 0.1, 3.0, 2.0, 1.1, 1.3, 1.5]
    return made(crossed([0.1, 0.2, 0.3], [0, 1, 2]), losses, score=np.arange(9.0) % 4, diverged=[7])


def test_tables_have_a_row_for_each_point():
    pytest.importorskip("pandas")
    result = noisy()
    table = result.table("pandas")
    assert table.index.tolist() == [0, 3, 6] and table.index.name == "lane"
    assert table.columns.tolist() == [
        "learning_rate", "final loss", "final loss error", "score", "score error", "repeats",
        "steps", "diverged", "diverged at",
    ]  # fmt: skip
    loss, score = result.final_loss.astype(float), np.arange(9.0) % 4
    for lane in (0, 3):
        part = slice(lane, lane + 3)
        expected = [loss[part].mean(), loss[part].std(ddof=1) / 3**0.5]
        expected += [score[part].mean(), score[part].std(ddof=1) / 3**0.5]
        np.testing.assert_allclose(table.loc[lane].iloc[1:5].astype(float), expected, rtol=1e-6)
    bad = table.loc[6]
    assert bad["final loss"] == INF and np.isnan(bad["score"]) and np.isnan(bad["score error"])
    assert (bad["repeats"], bad["diverged"], bad["diverged at"]) == (3, 1, 4)
    assert result.table("pandas", "score", "max").index.tolist() == [3, 0, 6]
    each = result.table("pandas", seeds="each")
    assert each.index.tolist() == [3, 0, 6, 1, 2, 8, 5, 4, 7] and "seed" in each.columns
    lines = result.table().splitlines()
    assert lines[0].split() == ["learning_rate", "final", "loss", "score", "repeats"]
    assert "1.2 ± 0.12" in lines[2] and "1 of 3 diverged, first at step 4" in lines[4]
    for call in (result.table, result.plot, result.plot_all, result.plot_curves):
        with pytest.raises(ValueError, match=r"SweepResult.\w+\(by='score'\) needs mode="):
            call(by="score")
        with pytest.raises(ValueError, match=r"seeds=...\) must be one of 'mean', 'each'"):
            call(seeds="all")


def test_files_have_every_lane_and_the_points(tmp_path):
    result = noisy()
    lines = result.to_csv().splitlines()
    assert lines[0] == "learning_rate,seed,final loss,score,steps,diverged at" and len(lines) == 10
    lines = result.to_csv(tmp_path / "t.csv", "mean").splitlines()
    assert lines[0].startswith("learning_rate,final loss,final loss error") and len(lines) == 4
    data = json.loads(result.to_json())
    assert (len(data["lanes"]), len(data["points"])) == (9, 3)
    assert data["points"][0]["final loss"] == pytest.approx(1.2)
    assert data["points"][2]["final loss"] is None and data["points"][2]["diverged"] == 1
    result.save(tmp_path / "r.npz")
    again = SweepResult.load(tmp_path / "r.npz")
    for one, two in zip(result.points("score", "max"), again.points("score", "max"), strict=True):
        assert (one.config, one.diverged, one.kept) == (two.config, two.diverged, two.kept)
        np.testing.assert_array_equal(one.lanes, two.lanes)
        np.testing.assert_array_equal(one.values, two.values)
    assert repr(again.best()) == repr(result.best())


def test_a_hyperparameter_may_have_the_name_of_a_result():
    result = made([{"steps": 5}, {"steps": 6}], [1.0, 2.0])
    row = result.rows()[1]
    assert (row["steps"], row["steps (result)"]) == (6, 10)
    assert len(result.table().splitlines()) == 4


def test_a_population_survives_a_file(tmp_path):
    track = np.array([[0.1, 0.2], [0.4, 0.2], [0.1, 0.2], [0.4, 0.2]])
    exchanges = {"learning_rate": track, "parent": np.array([[0], [0], [2], [2]])}
    configs = {"learning_rate": track[:, 1], "seed": np.array([0, 0, 1, 1])}
    result = made(configs, [1, 2, 3, 4], exchanges=exchanges)
    result.save(tmp_path / "r.npz")
    again = SweepResult.load(tmp_path / "r.npz")
    assert [p.lanes.tolist() for p in again.points()] == [[0, 2], [1, 3]]


# --- pictures ---


@pytest.fixture
def pictures():
    pytest.importorskip("matplotlib").use("Agg")
    return pytest.importorskip("matplotlib.pyplot")


def named(ax, label):
    """Return what the legend names so: lines and sets of points."""
    found = dict(zip(*ax.get_legend_handles_labels()[::-1], strict=True))
    return next(artist for text, artist in found.items() if text.startswith(label))


def test_a_plot_has_means_with_bars_and_a_star(pictures):
    result = noisy()
    ax = result.plot()
    loss = result.final_loss.astype(float).reshape(3, 3)
    mean, error = loss[:2].mean(1), loss[:2].std(1, ddof=1) / 3**0.5
    np.testing.assert_allclose(ax.lines[0].get_ydata()[:2], mean)
    bars = np.array(ax.collections[0].get_segments())
    np.testing.assert_allclose(
        bars[:, :, 1], np.stack([mean - error, mean + error], 1).clip(max=mean.max())
    )
    star = named(ax, "least final loss, 1.2 ± 0.1:\nlearning_rate = 0.1")
    np.testing.assert_allclose(star.get_offsets(), [[0.1, mean[0]]])
    ring = named(ax, "a repeat diverged: mean of the others")
    np.testing.assert_allclose(np.ravel(ring.get_data()), [0.3, loss[2, [0, 2]].mean()])
    assert ax.get_xlabel() == "learning_rate" and "final loss, mean ± standard" in ax.get_ylabel()
    ax = result.plot(by="score", mode="max", seeds="each")
    star = named(ax, "greatest final score, 3:\nlearning_rate = 0.2, seed = 0")
    np.testing.assert_allclose(star.get_offsets(), [[0.2, 3.0]])
    with pytest.raises(ValueError, match="color='typo' must be one of learning_rate"):
        result.plot(color="typo")


def test_curves_have_bands(pictures):
    result = noisy()
    rng = np.random.default_rng(0)
    result.history["loss"][:] = result.history["loss"] + rng.uniform(size=(9, 10))
    ax = result.plot_curves(smooth=3)
    assert [line.get_label().split(":")[0] for line in ax.lines] == [
        "least final loss, 1.2 ± 0.1", "learning_rate = 0.2", "learning_rate = 0.3"
    ]  # fmt: skip
    curve = result.curve([0, 1, 2], smooth=3)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), curve.mean)
    band = ax.collections[0].get_paths()[0].get_extents()
    assert band.ymin == pytest.approx((curve.mean - curve.error).min())
    assert band.ymax == pytest.approx((curve.mean + curve.error).max())
    end = named(ax, "a repeat diverged").get_offsets()
    assert end[0][0] == 5.0 and len(end) == 1
    assert "running mean of 3, mean ± standard error" in ax.get_ylabel()
    ax = result.plot_curves("score", mode="max")
    assert ax.lines[1].get_label().startswith("greatest final score") and len(ax.lines) == 3
    np.testing.assert_allclose(ax.lines[1].get_ydata(), [0.0, np.mean([3.0, 0.0, 1.0])])
    assert len(result.plot_curves(seeds="each").lines) == 9


def test_many_points_have_colours_and_no_names(pictures):
    rates = np.logspace(-3, 1, 30).tolist()
    configs = [
        {"learning_rate": r, "momentum": m, "seed": s}
        for r in rates
        for m in (0.0, 0.9)
        for s in (0, 1)
    ]
    result = made(configs, np.linspace(1.0, 2.0, 120))
    ax = result.plot_curves()
    assert len(ax.lines) == 60 and len(ax.collections) == 60
    assert len(ax.get_legend().get_texts()) == 1  # the best
    bar = ax.figure.axes[1]
    assert bar.get_ylabel() == "learning_rate" and bar.get_yscale() == "log"
    assert result.plot_curves(color="momentum").figure.axes[1].get_yscale() == "linear"
    few, many = result.plot(), result.plot("momentum")
    assert [t.get_text() for t in few.get_legend().get_texts()][:2] == [
        "momentum = 0",
        "momentum = 0.9",
    ]
    assert (
        len(many.get_legend().get_texts()) == 1
        and many.figure.axes[1].get_ylabel() == "learning_rate"
    )
    figure = result.plot_all()
    assert [ax.get_xlabel() for ax in figure.axes] == ["learning_rate", "momentum"]
    for thing in (ax, few, many):
        thing.figure.canvas.draw()


def test_dropped_points_are_marked(pictures):
    result = made(crossed([0.1, 0.2, 0.3], [0, 1]), [3.0, 3, 2, 2, 1, 1], kept=[2, 3])
    for x in (None, ("learning_rate", "learning_rate")):
        result.plot(x).figure.canvas.draw()
    ax = result.plot()
    assert named(ax, "dropped").get_xdata().tolist() == [0.1, 0.3]
    assert named(ax, "least final loss, 2").get_offsets().tolist() == [[0.2, 2.0]]  # kept
    curves = result.plot_curves()
    assert len(named(curves, "dropped").get_offsets()) == 2


@pytest.mark.parametrize("name", ["one", "gone", "never", "words", "huge", "equal", "negative"])
def test_odd_sweeps_can_be_drawn(name, pictures):
    rates = [{"learning_rate": r} for r in (0.1, 0.2, 0.3)]
    words = [{"kind": k, "learning_rate": 0.1} for k in ("a long name" * 3, "another", "none")]
    result = {
        "one": lambda: made([{"learning_rate": 0.1}], [1.0]),
        "gone": lambda: made(rates, [1.0, 2.0, 3.0], diverged=[0, 1, 2]),
        "never": lambda: made(rates, [NAN, NAN, 1.0], started=[2]),
        "words": lambda: made(words, [1.0, 2.0, 3.0]),
        "huge": lambda: made(rates, [1e-3, 1e30, 1e-2], diverged=[]),
        "equal": lambda: made(rates, [0.0, 0.0, 0.0]),
        "negative": lambda: made(rates, [-1e30, -2.0, -3.0]),
    }[name]()
    pair = tuple(result.configs)[:2] if name == "words" else ("learning_rate", "learning_rate")
    for ax in (result.plot(), result.plot(pair), result.plot_curves()):
        ax.figure.canvas.draw()
    result.plot_all().canvas.draw()
    best = {"gone": None, "never": 2, "negative": 0}.get(name, 0)
    if best is None:
        assert "diverged" in [t.get_text() for t in result.plot().get_legend().get_texts()]
    else:
        assert result.points()[0].lanes == [best]
        assert named(result.plot(), "least final loss")
    if name == "huge":
        assert named(result.plot(), "beyond the axis").get_xdata().tolist() == [0.2]


def test_a_sweep_of_seeds_alone_says_how_to_draw_it(pictures):
    result = made([{"seed": s} for s in range(3)], [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match=r"plot: lanes differ only in their seeds; .*seeds='each'"):
        result.plot()
    assert result.plot(seeds="each").get_xlabel() == "seed"
    curve = result.plot_curves()
    assert len(curve.lines) == len(curve.collections) == 1
    assert result.best().config == {} and result.best().value == 2.0


def test_only_extremely_bad_values_are_cut_off():
    values = np.array([1e-9, 1e-3, 1.0, 2.0, 1e10])
    np.testing.assert_allclose(limits(values, "min"), [1e-9, 1e3])
    np.testing.assert_allclose(limits(values, "max"), [1e-3, 1e10])
    assert limits(np.array([0.0, 1.0, 2.0, 3.0, NAN]), "min") == (0.0, 3.0)
    assert limits(np.array([-1e9, 1.0, 2.0, 3.0]), "max") == (1.5 - 100 * 0.75, 3.0)
    assert limits(np.array([1.0, 1.0, 1.0, 9e9]), "min") == (1.0, 1e3)
    assert limits(np.array([0.0, 0.0, 0.0, 9.0]), "min") == (0.0, 9.0)
    for kind, spread in (
        ("log", np.logspace(-4, 0, 9)), ("linear", np.linspace(0.01, 1.0, 9)),
        ("linear", np.array([0.0, 0.9])), ("log", np.array([0.01, 0.05, 0.1, 0.5])),
        ("linear", np.array([3.0, 3.0])),
    ):  # fmt: skip
        assert spacing_of(spread) == kind


def test_metrics_with_names_of_hyperparameters_and_columns():
    options = dict(seeds=2, steps=2, held_out=jnp.ones(4), batch_size=2)

    def named(name):
        return gdjax.sweep(
            lambda x, batch: jnp.mean((x - batch) ** 2), lambda key: jax.random.normal(key),
            gdjax.sgd, {"learning_rate": [0.125, 0.25]}, jnp.ones(4),
            metric_fn=lambda x, batch: {name: jnp.mean(x - batch)}, **options,
        )  # fmt: skip

    table = named("learning_rate").table(by="learning_rate", mode="max").splitlines()
    rate, result = (table[0].index(name) for name in ("learning_rate", "learning_rate (result)"))
    assert rate < result and table[-1].count("±") == 2
    assert float(table[-1].split()[0]) in (0.125, 0.25)
    for name in ("final loss", "repeats", "steps"):
        with pytest.raises(ValueError, match=f"column '{name}'|entry '{name}'"):
            named(name)


@pytest.mark.parametrize("seeds", [[1, 1], [0, 2**32], [2**40]])
def test_seeds_that_are_no_repeats(seeds):
    with pytest.raises(ValueError, match=r"sweep\(seeds=...\) must"):
        gdjax.sweep(
            lambda x, batch: jnp.sum(x), jnp.ones(2), gdjax.sgd, {"learning_rate": [0.1]},
            jnp.ones(4), steps=1, seeds=seeds,
        )  # fmt: skip
    with pytest.raises(ValueError, match=r"fit\(key=...\) must be an integer of 32 bits"):
        gdjax.fit(lambda x, batch: jnp.sum(x), jnp.ones(2), gdjax.sgd(0.1), jnp.ones(4), steps=1,
                  key=2**40)  # fmt: skip
