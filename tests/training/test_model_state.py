"""The state of a model, such as batch statistics: carried, kept per lane, used in evaluation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_fit import DATA, START, X, Y

import gdjax
from gdjax.training.checkpoint import Checkpoints

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


class Once:
    """A node that, as Equinox's `State`, is invalid once it was used."""

    def __init__(self, count):
        self.count = count

    def plus(self, one):
        old, self.count = self.count, None
        return Once(old + one)


def _flatten(node):
    if node.count is None:
        raise ValueError("used before")
    return (node.count,), None


jax.tree_util.register_pytree_node(Once, _flatten, lambda _, leaves: Once(*leaves))


def using_up(params, once, batch):
    return loss_fn(params, STATS, batch)[0], once.plus(1)


@pytest.mark.parametrize("optimizer", [gdjax.sgd(0.05), gdjax.sam(gdjax.sgd(0.05))])
def test_trees_that_can_be_used_once(optimizer):
    once = Once(jnp.zeros((), jnp.int32))
    options = dict(
        model_state=once, held_out=DATA, held_out_batch_size=150, report_every=3,
        metric_fn=lambda params, once, batch: once.plus(2).count,
    )  # fmt: skip
    result = gdjax.fit(using_up, START, optimizer, DATA, steps=6, **options)
    assert result.model_state.count == 6 and once.count == 0
    np.testing.assert_array_equal(result.history["held_out"], [5, 8])
    space = {"init_seed": [0]}
    swept = gdjax.sweep(using_up, lambda key: START, optimizer, space, DATA, steps=6, **options)
    np.testing.assert_array_equal(swept.history["held_out"], [[5, 8]])


def keyed(params, state, batch):
    noise = 0.1 * jax.random.normal(state["key"], ())
    state = state | {"key": jax.random.split(state["key"])[0], "weak": state["weak"] * 0.5}
    return loss_fn(params, STATS, batch)[0] + noise * params["b"], state


class Killed(Exception):
    pass


@pytest.mark.slow
def test_keys_none_and_numbers_in_files(tmp_path, monkeypatch):
    state = {"key": jax.random.key(1, impl="rbg"), "none": None, "weak": 1.0}
    space, rates = {"learning_rate": [0.01, 0.1]}, gdjax.sgd
    options = dict(batch_size=32, model_state=state, report_every=2)
    whole = gdjax.sweep(keyed, START, rates, space, DATA, steps=8, **options)
    save = Checkpoints.save

    def save_some(self, group, run):
        save(self, group, run)
        if run.done == 4:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Checkpoints, "save", save_some)
        gdjax.sweep(keyed, START, rates, space, DATA, steps=8, directory=tmp_path / "a", **options)
    resumed = gdjax.sweep(
        keyed, START, rates, space, DATA, steps=8, directory=tmp_path / "a", **options
    )
    resumed.save(tmp_path / "sweep.npz")
    loaded = gdjax.SweepResult.load(tmp_path / "sweep.npz", model_state=state)
    for result in (resumed, loaded):
        same(result.model_state, whole.model_state)
        np.testing.assert_array_equal(result.history["loss"], whole.history["loss"])

    run = functools.partial(gdjax.fit, keyed, START, gdjax.sgd(0.1), DATA, batch_size=32)
    whole = run(steps=8, model_state=state)
    run(steps=3, model_state=state).save(tmp_path / "fit.npz")
    loaded = gdjax.FitResult.load(
        tmp_path / "fit.npz", START, gdjax.sgd(0.1).init(START), model_state=state
    )
    same(run(steps=5, start=loaded).model_state, whole.model_state)


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            assert jax.random.key_impl(x) == jax.random.key_impl(y)
            x, y = map(jax.random.key_data, (x, y))
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("empty", [{}, (), {"a": None}])
def test_it_may_have_no_arrays(empty, tmp_path):
    def loss(params, state, batch):
        return loss_fn(params, STATS, batch)[0], state

    options = dict(steps=2, held_out=DATA, metric_fn=lambda params, state, batch: params["b"])
    result = gdjax.fit(loss, START, gdjax.sgd(0.1), DATA, model_state=empty, **options)
    result.save(tmp_path / "fit.npz")
    start = gdjax.FitResult.load(tmp_path / "fit.npz", START, result.state)
    start = gdjax.fit(loss, START, gdjax.sgd(0.1), DATA, start=start, **options)
    assert result.model_state == empty and start.model_state is not None and start.steps == 4
    swept = gdjax.sweep(
        loss, START, gdjax.sgd, {"learning_rate": [0.1]}, DATA, model_state=empty, **options
    )
    assert swept.model_state == empty


def test_arrays_of_the_caller_may_be_shared_and_stay():
    """The carry is donated: what is in it twice must be two buffers."""
    shared = jnp.zeros(10)
    params = {"w": shared, "b": jnp.zeros(())}

    def loss(params, state, batch):
        return loss_fn(params, STATS, batch)[0], {"a": params["w"], "b": state["a"]}

    options = dict(steps=4, report_every=2, model_state={"a": shared, "b": shared})
    result = gdjax.fit(loss, params, gdjax.sgd(0.1), DATA, **options)
    swept = gdjax.sweep(loss, params, gdjax.sgd, {"learning_rate": [0.1]}, DATA, **options)
    np.testing.assert_allclose(swept.lane(0).model_state["a"], result.model_state["a"], rtol=1e-5)
    np.testing.assert_array_equal(shared, 0.0)


def test_micro_steps_and_averages():
    """It follows every batch, also those after which the parameters stay."""
    options = dict(batch_size=32, steps=6, model_state=STATS, held_out=DATA, metric_fn=metric)
    result = gdjax.fit(loss_fn, START, gdjax.accumulate(gdjax.sgd(0.1), 3), DATA, **options)
    assert result.model_state["count"] == 6 and gdjax.hyperparams(result.state)
    averaged = gdjax.fit(loss_fn, START, gdjax.average(gdjax.sgd(0.1)), DATA, **options)
    by_hand = metric(averaged.eval_params, averaged.model_state, DATA)["mse"]
    np.testing.assert_allclose(averaged.history["mse"][-1], by_hand, rtol=1e-6)
    assert not np.isclose(by_hand, metric(averaged.params, averaged.model_state, DATA)["mse"])


def test_lr_find_and_unroll_take_it():
    test = gdjax.lr_find(loss_fn, START, gdjax.sgd, DATA, steps=20, model_state=STATS)
    plain = gdjax.lr_find(
        lambda params, batch: loss_fn(params, STATS, batch)[0], START, gdjax.sgd, DATA, steps=20
    )
    np.testing.assert_allclose(test.losses, plain.losses, rtol=1e-6)
    options = dict(batch_size=32, steps=7, model_state=STATS, key=3)
    result = gdjax.fit(loss_fn, START, gdjax.sgd(0.05), DATA, **options)

    @jax.jit
    def evaluated(rate):
        trained = gdjax.unroll(loss_fn, START, gdjax.sgd(rate), DATA, **options)
        return metric(*trained, DATA)["mse"], trained

    value_and_slope = jax.jit(jax.value_and_grad(evaluated, has_aux=True))
    (_, trained), slope = value_and_slope(0.05)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6),
        trained,
        (result.params, result.model_state),
    )
    numeric = (value_and_slope(0.051)[0][0] - value_and_slope(0.049)[0][0]) / 0.002
    np.testing.assert_allclose(slope, numeric, rtol=1e-2)


@pytest.mark.parametrize("state", ["text", {"a": object()}, lambda key: STATS])
def test_what_is_no_tree_of_arrays(state):
    for run in (gdjax.fit, gdjax.lr_find, gdjax.unroll):
        with pytest.raises(TypeError, match=rf"{run.__name__}\(model_state=...\) must be a tree"):
            run(loss_fn, START, gdjax.sgd(0.1), DATA, steps=10, model_state=state)


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
    if not options:
        with pytest.raises(TypeError, match=message):
            gdjax.unroll(loss, START, gdjax.sgd(0.1), DATA, steps=2, model_state=STATS)
