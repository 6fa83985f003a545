"""fit: the same numbers as a loop by hand, on real data, with clear errors and nothing lost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_diabetes

import gdjax


def diabetes():
    x, y = load_diabetes(return_X_y=True)
    return np.float32((x - x.mean(0)) / x.std(0)), np.float32((y - y.mean()) / y.std())


X, Y = diabetes()
DATA = (X, Y)
START = {"w": jnp.zeros(10), "b": jnp.zeros(())}


def loss_fn(params, batch):
    x, y = batch
    return jnp.mean((x @ params["w"] + params["b"] - y) ** 2)


def aux_loss(params, batch):
    loss = loss_fn(params, batch)
    return loss, {"norm": jnp.sum(params["w"] ** 2), "seen": len(batch[0])}


def by_hand(optimizer, batches):
    params, state, losses = START, optimizer.init(START), []
    for batch in batches:
        loss, grads = jax.value_and_grad(loss_fn)(params, batch)
        updates, state = optimizer.update(grads, state, params)
        params = gdjax.apply_updates(params, updates)
        losses.append(loss)
    return params, np.array(losses)


def test_full_batch_equals_a_loop_by_hand():
    opt = gdjax.adam(0.05)
    result = gdjax.fit(loss_fn, START, opt, DATA, steps=7)
    params, losses = by_hand(opt, [DATA] * 7)
    np.testing.assert_allclose(result.history["loss"], losses, rtol=1e-5)
    np.testing.assert_allclose(result.params["w"], params["w"], rtol=1e-5, atol=1e-6)
    assert result.steps == 7 and result.first_nonfinite is None


def test_full_batch_descent_reaches_the_least_squares_solution():
    exact = np.linalg.lstsq(np.c_[X, np.ones(len(X))], Y, rcond=None)[0]
    result = gdjax.fit(loss_fn, START, gdjax.adam(0.05), DATA, steps=3000)
    best = np.mean((np.c_[X, np.ones(len(X))] @ exact - Y) ** 2)
    np.testing.assert_allclose(result.history["loss"][-1], best, rtol=1e-4)


@pytest.mark.parametrize("batch_size", [1, 100])
def test_an_epoch_draws_every_example_at_most_once_and_shuffles_anew(batch_size):
    seen = np.arange(442, dtype=np.float32)

    def record(params, batch):
        return jnp.sum(params * 0.0), batch

    epoch = 442 // batch_size
    result = gdjax.fit(
        record, jnp.zeros(()), gdjax.sgd(0.1), seen, batch_size=batch_size, epochs=2, has_aux=True
    )
    assert result.steps == 2 * epoch
    drawn = result.history["aux"]
    first, second = drawn[:epoch].ravel(), drawn[epoch:].ravel()
    for order in (first, second):
        assert len(np.unique(order)) == epoch * batch_size
    assert not np.array_equal(first, second) and not np.array_equal(first, np.sort(first))


def test_chunks_do_not_change_the_numbers():
    opt = gdjax.sgd(0.01, momentum=0.9)
    more = dict(batch_size=32, steps=50, key=3)
    one = gdjax.fit(loss_fn, START, opt, DATA, **more)
    cut = gdjax.fit(loss_fn, START, opt, DATA, report_every=7, **more)
    np.testing.assert_array_equal(one.history["loss"], cut.history["loss"])
    np.testing.assert_array_equal(one.params["w"], cut.params["w"])


def test_a_stream_of_batches_equals_a_loop_by_hand():
    batches = [(X[i : i + 50], Y[i : i + 50]) for i in range(0, 400, 50)]
    opt = gdjax.adam(0.05)
    for steps, taken in ((None, 8), (5, 5)):
        result = gdjax.fit(loss_fn, START, opt, iter(batches), steps=steps, report_every=3)
        _, losses = by_hand(opt, batches[:taken])
        np.testing.assert_allclose(result.history["loss"], losses, rtol=1e-5)
        assert result.steps == taken


def test_aux_held_out_callbacks_and_stopping():
    reports = []

    def callback(report):
        reports.append(report)
        return report.step >= 20

    result = gdjax.fit(
        aux_loss, START, gdjax.adam(0.05), DATA, batch_size=64, steps=100, report_every=10,
        has_aux=True, held_out=DATA, callbacks=[callback],
    )  # fmt: skip
    assert [r.step for r in reports] == [10, 20] == list(result.history["step"])
    assert result.steps == 20 and result.history["aux"]["norm"].shape == (20,)
    np.testing.assert_array_equal(result.history["aux"]["seen"], 64)
    np.testing.assert_allclose(
        result.history["held_out"][-1], loss_fn(reports[-1].params, DATA), rtol=1e-6
    )
    assert reports[0].metrics["held_out"] > reports[1].metrics["held_out"]


def test_a_metric_may_be_a_dict_and_reports_are_copies():
    kept = []
    gdjax.fit(
        loss_fn, START, gdjax.adam(0.05), DATA, steps=6, report_every=2, held_out=DATA,
        metric_fn=lambda p, d: {"mse": loss_fn(p, d), "w0": p["w"][0]}, callbacks=[kept.append],
    )  # fmt: skip
    assert [set(r.metrics) for r in kept] == [{"mse", "w0"}] * 3
    assert len({float(r.params["w"][0]) for r in kept}) == 3  # not deleted by donation


def test_fit_continues_from_a_state():
    opt = gdjax.adam(0.05)
    whole = gdjax.fit(loss_fn, START, opt, DATA, steps=10)
    half = gdjax.fit(loss_fn, START, opt, DATA, steps=5)
    rest = gdjax.fit(loss_fn, half.params, opt, DATA, steps=5, state=half.state)
    np.testing.assert_allclose(rest.params["w"], whole.params["w"], rtol=1e-6)


def test_a_second_rate_compiles_nothing():
    traced = []

    def counted(params, batch):
        traced.append(1)
        return loss_fn(params, batch)

    gdjax.fit(counted, START, gdjax.adam(0.05), DATA, steps=3)
    before = len(traced)
    gdjax.fit(counted, START, gdjax.adam(0.01), DATA, steps=3)
    assert before > 0 and len(traced) == before


def test_a_loss_with_a_key_gets_a_new_one_each_step():
    def noisy(params, batch, key):
        return jnp.sum(params) * 0 + jax.random.normal(key)

    result = gdjax.fit(noisy, jnp.zeros(2), gdjax.sgd(0.1), X, steps=5, needs_key=True, key=4)
    assert len(np.unique(result.history["loss"])) == 5


def test_extras_reach_the_optimizer():
    def _by_value(grads, slots, params, count, *, value, grad, value_fn, key):
        same = value_fn(params) == value
        return jax.tree.map(lambda g: jnp.where(same, -0.1 * g, jnp.nan), grad), slots

    result = gdjax.fit(loss_fn, START, gdjax.treewise(_by_value), DATA, steps=3)
    assert result.history["loss"][-1] < result.history["loss"][0]


def test_divergence_stops_before_the_bad_step_and_loses_nothing():
    def cubic(params, batch):
        return jnp.sum(params**4)

    with pytest.raises(gdjax.NonfiniteError, match="Lower the learning rate") as error:
        gdjax.fit(cubic, jnp.ones(2), gdjax.sgd(10.0), X, steps=50)
    result = error.value.result
    assert np.isfinite(result.params).all() and 0 < result.steps < 10
    assert result.first_nonfinite <= result.diverged_at == result.steps
    assert len(result.history["loss"]) == result.steps + 1
    with pytest.warns(UserWarning, match=f"step {result.steps}"):
        again = gdjax.fit(cubic, jnp.ones(2), gdjax.sgd(10.0), X, steps=50, on_nonfinite="warn")
    np.testing.assert_array_equal(again.params, result.params)


def test_a_nonfinite_loss_with_finite_parameters_is_not_silent():
    def sometimes(params, batch):
        return jnp.sum(params) * 0 + jnp.where(batch[0, 0] == X[3, 0], jnp.inf, 1.0)

    stream = [X[i : i + 1] for i in range(6)]
    with pytest.warns(UserWarning, match="not finite at step 3"):
        result = gdjax.fit(sometimes, jnp.zeros(2), gdjax.sgd(0.1), iter(stream))
    assert result.first_nonfinite == 3 and result.steps == 6 and result.diverged_at is None


def test_low_precision_parameters_keep_their_dtype():
    start = jax.tree.map(lambda x: x.astype(jnp.bfloat16), START)
    result = gdjax.fit(loss_fn, start, gdjax.adam(0.05), DATA, steps=3)
    assert result.params["w"].dtype == jnp.bfloat16


def test_a_foreign_optimizer():
    import optax

    result = gdjax.fit(loss_fn, START, optax.adam(0.05), DATA, steps=5)
    ours = gdjax.fit(loss_fn, START, gdjax.adam(0.05), DATA, steps=5)
    np.testing.assert_allclose(result.params["w"], ours.params["w"], rtol=1e-3, atol=1e-5)


BAD = X.copy()
BAD[7, 2] = np.nan


@pytest.mark.parametrize(
    ("data", "more", "error", "message"),
    [
        ((BAD, Y), dict(steps=1), ValueError, r"nan at index \(7, 2\) of '0'"),
        ((X, Y[:-1]), dict(steps=1), ValueError, "same number of examples.*442.*441"),
        (DATA, dict(steps=1, batch_size=500), ValueError, r"in \[1, 442\].*got 500"),
        (DATA, dict(steps=1, batch_size=0), ValueError, "got 0"),
        (DATA, {}, ValueError, "exactly one of steps"),
        (DATA, dict(steps=1, epochs=1), ValueError, "exactly one of steps"),
        (DATA, dict(steps=0), ValueError, "integer >= 1, got 0"),
        (
            DATA,
            dict(steps=1.5),
            ValueError,
            r"fit\(steps=...\) must be an integer or None, got 1.5",
        ),
        (DATA, dict(steps=1, report_every=0), ValueError, "report_every=.*integer >= 1, got 0"),
        ((X[:0], Y[:0]), dict(steps=1), ValueError, "no examples"),
        ((), dict(steps=1), ValueError, "no arrays"),
        ({"x": 1.0}, dict(steps=1), TypeError, "examples along axis 0"),
        (iter([]), {}, ValueError, "gave no batch"),
        (iter([DATA]), dict(epochs=1), ValueError, "can be read only once"),
        (DATA, dict(steps=1, held_out=(BAD, Y)), ValueError, "held_out"),
        (DATA, dict(steps=1, on_nonfinite="ignore"), ValueError, "'raise', 'warn', 'stop'"),
        (DATA, dict(steps=1, has_aux=True), TypeError, "must return .loss, aux."),
    ],
)
def test_bad_input_is_named(data, more, error, message):
    with pytest.raises(error, match=message):
        gdjax.fit(loss_fn, START, gdjax.sgd(0.1), data, **more)


@pytest.mark.parametrize(
    ("bad_loss", "message"),
    [
        (lambda p, b: (b[0] @ p["w"] - b[1]) ** 2, r"one real number, got float32\[442\].*mean"),
        (lambda p, b: (loss_fn(p, b), 0), "has_aux=True"),
        (lambda p, b: jnp.sum(b[0]).astype(int), "got int32"),
    ],
)
def test_a_loss_that_is_no_number_is_named(bad_loss, message):
    with pytest.raises(TypeError, match=message):
        gdjax.fit(bad_loss, START, gdjax.sgd(0.1), DATA, steps=1)


def test_integer_parameters_are_named():
    with pytest.raises(TypeError, match="int32 at 'n'"):
        gdjax.fit(
            lambda p, b: 0.0 * p["w"], {"n": jnp.arange(2), "w": 0.0}, gdjax.sgd(0.1), X, steps=1
        )


def test_progress_bar_and_plot(capsys):
    result = gdjax.fit(loss_fn, START, gdjax.sgd(0.1), DATA, steps=4, progress=True)
    assert "4/4" in capsys.readouterr().err
    import matplotlib

    matplotlib.use("Agg")
    ax = result.plot()
    np.testing.assert_allclose(ax.lines[0].get_ydata(), result.history["loss"])
    assert len(ax.lines) == 1  # too short to smooth
    longer = gdjax.fit(
        loss_fn, START, gdjax.sgd(0.1), DATA, steps=120, held_out=DATA, report_every=40,
        metric_fn=lambda p, d: {"score": -loss_fn(p, d), "half": loss_fn(p, d) / 2},
    )  # fmt: skip
    ax = longer.plot()
    raw, smooth = ax.lines
    np.testing.assert_allclose(
        smooth.get_ydata()[1:], (raw.get_ydata()[1:] + raw.get_ydata()[:-1]) / 2
    )
    assert [panel.get_ylabel() for panel in ax.figure.axes] == ["loss", "half", "score"]
    for panel in ax.figure.axes[1:]:
        (line,) = panel.lines
        assert line.get_xdata().tolist() == [40, 80, 120]
        np.testing.assert_allclose(line.get_ydata(), longer.history[panel.get_ylabel()])
    assert longer.plot(ax.figure.axes[1]) is ax.figure.axes[1] and len(ax.figure.axes) == 3
    ax.figure.canvas.draw()


def test_a_result_prints_as_a_few_lines():
    model = gdjax.models.mlp((10, 64, 32, 1))

    def loss(params, batch):
        return jnp.mean((model.apply(params, batch[0])[:, 0] - batch[1]) ** 2)

    reports = []
    result = gdjax.fit(
        loss, model.init(jax.random.key(0)), gdjax.adam(1e-3), DATA, steps=20, held_out=DATA,
        callbacks=[reports.append],
    )  # fmt: skip
    text = repr(result)
    assert len(text) < 600 and text.count("\n") <= 3
    losses = result.history["loss"]
    for part in ("20 steps", f"{losses[0]:.6g} -> {losses[-1]:.6g}", "first_nonfinite=None"):
        assert part in text
    assert "params={6 arrays, 11,268 bytes}" in text and "loss, step, held_out" in text
    assert len(repr(reports[0])) < 600


@pytest.mark.parametrize("bad", [0, 1, 6, 7, 11])
@pytest.mark.parametrize("report_every", [1, 4, 12])
def test_the_first_bad_step_is_found_within_a_chunk(bad, report_every):
    """A step at which the gradient is infinite, wherever it lies: what is before it is kept."""

    def fails(params, batch):
        factor = jnp.where(params["n"] == bad, jnp.inf, 1.0)
        return factor * jnp.sum((params["x"] - batch) ** 2), params["n"]

    def count(grads, state, params):
        return {"x": -0.1 * grads["x"], "n": jnp.ones(())}, state + 1

    result = gdjax.fit(
        fails, {"x": jnp.ones(3), "n": jnp.zeros(())}, (lambda params: jnp.zeros(()), count),
        np.full(3, 3.0, np.float32), steps=12, report_every=report_every, has_aux=True,
        on_nonfinite="stop",
    )  # fmt: skip
    assert result.diverged_at == result.steps == bad == result.state == result.params["n"]
    np.testing.assert_allclose(result.params["x"], 3 - 2 * 0.8**bad, rtol=1e-5)
    np.testing.assert_array_equal(result.history["aux"], np.arange(bad + 1))
    assert np.isfinite(result.history["loss"][:-1]).all() and len(result.history["loss"]) == bad + 1
