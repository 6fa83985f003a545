"""Gradients through training: finite differences, both modes, memory, the batches of fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from x64 import enable_x64

import gdjax

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3))
Y = X @ np.array([1.0, -2.0, 0.5]) + 0.1 * RNG.normal(size=40)


def loss_fn(params, batch):
    x, y = batch
    return jnp.mean((jnp.tanh(x @ params["w"]) + params["b"] - y) ** 2)


def data(dtype):
    train = jnp.asarray(X[:24], dtype), jnp.asarray(Y[:24], dtype)
    return train, (jnp.asarray(X[24:], dtype), jnp.asarray(Y[24:], dtype))


def fit_fn(values, steps=17, dtype=jnp.float64, checkpoint=True):
    train, held_out = data(dtype)
    schedule = gdjax.piecewise_interpolate_schedule(
        "linear", values["peak"], {8: values["drop"], 17: 0.1}
    )
    rates = {"w": schedule, "b": values["bias_rate"]}
    opt = gdjax.adamw(rates, b1=values["b1"], weight_decay=values["decay"])
    start = {"w": jnp.full(3, 0.1, dtype), "b": jnp.zeros((), dtype)}
    params = gdjax.unroll(
        loss_fn, start, opt, train, steps=steps, batch_size=8, key=3, checkpoint=checkpoint
    )
    return loss_fn(params, held_out)


VALUES = {"peak": 0.1, "drop": 0.5, "bias_rate": 0.03, "b1": 0.8, "decay": 0.2}


@pytest.mark.slow
def test_both_modes_equal_finite_differences():
    with enable_x64():
        values = {k: jnp.asarray(v, jnp.float64) for k, v in VALUES.items()}
        run = jax.jit(fit_fn)
        loss, reverse = jax.jit(lambda v: gdjax.hypergradient(fit_fn, v, mode="reverse"))(values)
        _, forward = jax.jit(lambda v: gdjax.hypergradient(fit_fn, v, mode="forward"))(values)
        np.testing.assert_allclose(loss, run(values), rtol=1e-12)
        for name in VALUES:
            step = 1e-5  # central differences: their error is of the order of step^2
            up, down = (run({**values, name: values[name] + s}) for s in (step, -step))
            np.testing.assert_allclose(reverse[name], (up - down) / (2 * step), rtol=1e-5)
            np.testing.assert_allclose(reverse[name], forward[name], rtol=1e-9)
            assert reverse[name] != 0


def test_unroll_takes_the_steps_of_fit():
    train, _ = data(jnp.float32)
    start = {"w": jnp.full(3, 0.1), "b": jnp.zeros(())}
    more = dict(steps=11, batch_size=8, key=5)
    fitted = gdjax.fit(loss_fn, start, gdjax.adam(0.1), train, **more).params
    for checkpoint in (True, False):
        params = gdjax.unroll(loss_fn, start, gdjax.adam(0.1), train, checkpoint=checkpoint, **more)
        np.testing.assert_allclose(params["w"], fitted["w"], rtol=1e-5)


def test_memory_grows_with_the_root_of_the_steps():
    def used(steps, checkpoint):
        def train(rate):
            opt = gdjax.sgd(rate, momentum=0.9)
            x = jnp.ones(10_000)
            start = jnp.zeros(10_000)
            out = gdjax.unroll(
                lambda p, b: jnp.mean((p - b[0]) ** 4), start, opt, x[None], steps=steps,
                checkpoint=checkpoint,
            )  # fmt: skip
            return jnp.mean((out - 1) ** 2)

        compiled = jax.jit(jax.grad(train)).lower(0.1).compile()
        return compiled.memory_analysis().temp_size_in_bytes / 80_000  # in states of p and momentum

    small, large, plain = used(100, True), used(1600, True), used(1600, False)
    assert large / small < 5 < 16  # 16 times the steps: 4 times the memory
    assert large < 3 * 40 + 10 and plain > 1500


def test_data_may_be_numpy_arrays():
    train = jax.tree.map(np.asarray, data(jnp.float32)[0])
    start = {"w": jnp.full(3, 0.1), "b": jnp.zeros(())}
    more = dict(steps=5, batch_size=8, key=3)
    trained = [gdjax.unroll(loss_fn, start, gdjax.sgd(0.1), d, **more) for d in (
        train, jax.tree.map(jnp.asarray, train))]  # fmt: skip
    np.testing.assert_array_equal(trained[0]["w"], trained[1]["w"])


def test_bad_values_are_named():
    with pytest.raises(TypeError, match=r"fit_fn=.*one number.*float32\[2\]"):
        gdjax.hypergradient(lambda v: jnp.ones(2) * v, 1.0)
    with pytest.raises(TypeError, match="fit cannot be traced.*unroll"):
        gdjax.hypergradient(
            lambda v: gdjax.fit(loss_fn, {}, gdjax.sgd(v), data(jnp.float32)[0], steps=1), 1.0
        )
    with pytest.raises(TypeError, match="must be floats, got 3"):
        gdjax.hypergradient(lambda v: v["a"], {"a": 3})
    with pytest.raises(ValueError, match="'auto', 'forward', 'reverse'"):
        gdjax.hypergradient(lambda v: v, 1.0, mode="typo")
    with pytest.raises(ValueError, match="steps=.*got 0"):
        gdjax.unroll(loss_fn, {}, gdjax.sgd(0.1), data(jnp.float32)[0], steps=0)


@pytest.mark.parametrize("run", [gdjax.fit, gdjax.sweep, gdjax.search, gdjax.successive_halving])
def test_runs_that_talk_to_the_host_refuse_to_be_traced(run):
    """Whichever of their arguments is traced."""
    start, x = {"w": jnp.zeros(3), "b": jnp.zeros(())}, data(jnp.float32)[0]

    def trained(rate=0.1, scale=1.0):
        opt = gdjax.sgd(rate) if run is gdjax.fit else gdjax.sgd
        space = {} if run is gdjax.fit else {"space": {"learning_rate": rate * jnp.ones(2)}}
        more = {"trials": 2} if run is gdjax.search else {}
        scaled = jax.tree.map(lambda a: a * scale, x)
        run(loss_fn, start, opt, data=scaled, steps=2, **space, **more)

    for argument in ("rate", "scale"):
        with pytest.raises(TypeError, match=f"{run.__name__} cannot be traced.*Use unroll"):
            jax.jit(lambda v, name=argument: trained(**{name: v}))(1.0)
