"""The state of a model, such as batch statistics: carried, kept per lane, used in evaluation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_fit import DATA, START, X, Y

import gdjax

STATS = {"mean": jnp.zeros((1, 10)), "count": jnp.zeros((), jnp.int32)}


def loss_fn(params, stats, batch):
    """Subtract the mean of the batch; keep a running one."""
    x, y = batch
    mean = x.mean(0, keepdims=True)
    loss = jnp.mean(((x - mean) @ params["w"] + params["b"] - y) ** 2)
    return loss, {"mean": 0.9 * stats["mean"] + 0.1 * mean, "count": stats["count"] + 1}


def with_aux(params, stats, batch):
    loss, stats = loss_fn(params, stats, batch)
    return loss, (stats, {"twice": 2 * loss})


def metric(params, stats, batch):
    x, y = batch
    return {"mse": jnp.mean(((x - stats["mean"]) @ params["w"] + params["b"] - y) ** 2)}


def by_hand(batches, rate=0.05):
    optimizer = gdjax.adam(rate)
    params, stats, state = START, STATS, optimizer.init(START)
    for batch in batches:
        (_, stats), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, stats, batch)
        updates, state = optimizer.update(grads, state, params)
        params = gdjax.apply_updates(params, updates)
    return params, stats


def test_it_is_carried_and_given_to_the_metric():
    batches = [(X[i : i + 50], Y[i : i + 50]) for i in range(0, 400, 50)]
    result = gdjax.fit(
        loss_fn, START, gdjax.adam(0.05), iter(batches), model_state=STATS, held_out=DATA,
        metric_fn=metric,
    )  # fmt: skip
    params, stats = by_hand(batches)
    assert result.model_state["count"] == 8
    np.testing.assert_allclose(result.model_state["mean"], stats["mean"], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(result.params["w"], params["w"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        result.history["mse"][-1], metric(params, stats, DATA)["mse"], rtol=1e-5
    )


def test_it_comes_with_aux_and_goes_on():
    options = dict(batch_size=32, model_state=STATS, has_aux=True, key=3)
    whole = gdjax.fit(with_aux, START, gdjax.adam(0.05), DATA, steps=12, **options)
    np.testing.assert_allclose(whole.history["aux"]["twice"], 2 * whole.history["loss"])
    part = gdjax.fit(with_aux, START, gdjax.adam(0.05), DATA, steps=7, **options)
    del options["model_state"]
    part = gdjax.fit(with_aux, START, gdjax.adam(0.05), DATA, steps=5, start=part, **options)
    for name in ("params", "state", "model_state", "history"):
        jax.tree.map(np.testing.assert_array_equal, getattr(part, name), getattr(whole, name))


@pytest.mark.parametrize("vectorize", [True, False])
def test_each_lane_has_its_own(vectorize):
    options = dict(
        batch_size=32, steps=9, model_state=STATS, held_out=DATA, metric_fn=metric, report_every=3
    )
    rates = [0.01, 0.1, 1e30]
    swept = gdjax.sweep(
        loss_fn, START, gdjax.sgd, {"learning_rate": rates}, DATA, vectorize=vectorize, **options
    )
    for lane, rate in enumerate(rates[:2]):
        alone = gdjax.fit(loss_fn, START, gdjax.sgd(rate), DATA, **options)
        got = swept.lane(lane)
        for name in ("params", "model_state"):
            jax.tree.map(
                lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6),
                getattr(got, name),
                getattr(alone, name),
            )
        np.testing.assert_allclose(swept.history["mse"][lane], alone.history["mse"], rtol=1e-5)
    assert swept.diverged_at[2] >= 0
    # It stays where it was before the step that was not taken.
    assert swept.model_state["count"][2] == swept.diverged_at[2]
    assert swept.best().model_state["count"] == 9


def test_it_may_be_made_from_the_key_of_a_lane():
    def init(key):
        return {"w": 0.1 * jax.random.normal(key, (10,)), "b": jnp.zeros(())}

    def stats(key):
        return STATS | {"mean": jax.random.normal(key, (1, 10))}

    def keep(params, stats, batch):
        return loss_fn(params, stats, batch)[0], stats

    swept = gdjax.sweep(
        keep, init, gdjax.sgd, {"learning_rate": [0.1], "seed": [1, 2]}, DATA, steps=1,
        model_state=stats,
    )  # fmt: skip
    for lane, seed in enumerate([1, 2]):
        key = jax.random.key(seed)
        np.testing.assert_allclose(swept.model_state["mean"][lane], stats(key)["mean"], rtol=1e-6)


def test_a_step_with_a_loss_that_is_not_finite_leaves_it():
    bad = [(X[:50], Y[:50]), (X[:50] * np.nan, Y[:50]), (X[:50], Y[:50])]
    optimizer = gdjax.apply_if_finite(gdjax.adam(0.05), 5)
    with pytest.warns(UserWarning, match="not finite at step 1"):
        result = gdjax.fit(
            loss_fn, START, optimizer, iter(bad), model_state=STATS, on_nonfinite="warn"
        )
    assert result.model_state["count"] == 2 and np.isfinite(result.history["loss"][2])
    params, stats = by_hand([bad[0], bad[2]])
    np.testing.assert_allclose(result.model_state["mean"], stats["mean"], rtol=1e-5, atol=1e-7)


def test_races_and_files_keep_it(tmp_path):
    race = gdjax.successive_halving(
        loss_fn, START, gdjax.sgd, {"learning_rate": [0.001, 0.01, 0.1, 0.2]}, DATA, steps=8,
        eta=2, batch_size=32, model_state=STATS,
    )  # fmt: skip
    assert race.model_state["count"].shape == race.kept.shape and race.best().model_state
    race.save(tmp_path / "race.npz")
    loaded = gdjax.SweepResult.load(tmp_path / "race.npz")
    jax.tree.map(np.testing.assert_array_equal, loaded.model_state, race.model_state)
    np.testing.assert_array_equal(loaded.stopped_at, -1)


def lost(params, stats, batch):
    return loss_fn(params, stats, batch)[0]


def fewer(params, stats, batch):
    loss, stats = loss_fn(params, stats, batch)
    return loss, {"mean": stats["mean"]}


def wider(params, stats, batch):
    loss, stats = loss_fn(params, stats, batch)
    return loss, stats | {"count": stats["count"] + 0.5}


@pytest.mark.parametrize(
    "loss, options, message",
    [
        (lost, {}, r"must return \(loss, model_state\)"),
        (loss_fn, {"has_aux": True}, r"must return \(loss, \(model_state, aux\)\)"),
        (fewer, {}, "structure of the one that it is given"),
        (wider, {}, r"int32\[\] at 'count', got float32\[\]"),
        (
            loss_fn,
            {"held_out": DATA},
            "metric_fn=...\\) must be given: loss_fn needs a model_state",
        ),
    ],
)
def test_mistakes(loss, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        gdjax.fit(loss, START, gdjax.sgd(0.1), DATA, steps=2, model_state=STATS, **options)
    with pytest.raises((TypeError, ValueError), match=message):
        gdjax.sweep(
            loss, START, gdjax.sgd, {"learning_rate": [0.1]}, DATA, steps=2, model_state=STATS,
            **options,
        )  # fmt: skip
