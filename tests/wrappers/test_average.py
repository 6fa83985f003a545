"""Averages of the parameters, and `eval_params` through any nesting."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from x64 import enable_x64

import gdjax

STEPS = 9


def trajectory(opt, params, steps=STEPS):
    """Return what the parameters and what `eval_params` were after each update."""
    state, path, read = opt.init(params), [], []
    for t in range(steps):
        grads = jax.tree.map(lambda x, t=t: x + jnp.cos(3.0 * x + t), params)
        updates, state = opt.update(grads, state, params)
        params = gdjax.apply_updates(params, updates)
        path.append(params)
        read.append(gdjax.eval_params(state, params))
    return path, read


def weighted(path, weights):
    return sum(w * x for w, x in zip(weights, path, strict=True)) / sum(weights)


AVERAGES = {  # name -> the wrapper, and the weights of x_1, ..., x_t
    "average": (
        lambda opt: gdjax.average(opt, 0.7),
        lambda t: [0.7 ** (t - i) for i in range(1, t + 1)],
    ),
    "average of a schedule": (
        lambda opt: gdjax.average(opt, lambda count: 1 - 1 / (count + 1.0)),
        lambda t: [1.0] * t,
    ),
    "polynomial": (
        lambda opt: gdjax.polynomial_average(opt, 1.0),  # c = 2 / (t + 1): weights 1, 2, 3, ...
        lambda t: list(range(1, t + 1)),
    ),
    "uniform": (lambda opt: gdjax.polynomial_average(opt, 0.0), lambda t: [1.0] * t),
    "tail": (
        lambda opt: gdjax.tail_average(opt, start=4),
        lambda t: [0.0] * 4 + [1.0] * (t - 4) if t > 4 else [0.0] * (t - 1) + [1.0],
    ),
}


@pytest.mark.parametrize("name", AVERAGES)
def test_the_mean_is_the_weighted_mean_of_the_path(name):
    wrap, weights = AVERAGES[name]
    with enable_x64():
        start = jnp.array([1.0, -2.0, 0.5])
        path, read = trajectory(wrap(gdjax.sgd(0.3, momentum=0.5)), start)
        plain, _ = trajectory(gdjax.sgd(0.3, momentum=0.5), start)
        np.testing.assert_array_equal(path, plain)
        for t in range(1, STEPS + 1):
            expected = weighted([np.asarray(x) for x in path[:t]], weights(t))
            np.testing.assert_allclose(read[t - 1], expected, rtol=1e-13, atol=1e-13)


def test_without_debias_it_starts_at_the_first_parameters():
    start = jnp.array([1.0, -2.0])
    path, read = trajectory(gdjax.average(gdjax.sgd(0.3), 0.9, debias=False), start, 2)
    expected = 0.81 * start + 0.09 * path[0] + 0.1 * path[1]
    np.testing.assert_allclose(read[1], expected, rtol=1e-6)


def test_share_mixes_in_the_parameters():
    start = jnp.array([1.0, -2.0])
    path, whole = trajectory(gdjax.average(gdjax.sgd(0.3), 0.9), start, 3)
    _, mixed = trajectory(gdjax.average(gdjax.sgd(0.3), 0.9, share=0.6), start, 3)
    np.testing.assert_allclose(mixed[2], 0.4 * path[2] + 0.6 * whole[2], rtol=1e-6)


def test_a_fresh_state_gives_the_parameters():
    params = {"w": jnp.array([1.0, -2.0]), "b": jnp.array(0.5, jnp.bfloat16)}
    for wrap in (
        gdjax.average,
        gdjax.tail_average,
        gdjax.polynomial_average,
        gdjax.lookahead,
        gdjax.sam,
        gdjax.gpa,
        gdjax.ema_nesterov,
    ):
        x = gdjax.eval_params(wrap(gdjax.sgd(0.1)).init(params), params)
        assert x["b"].dtype == jnp.bfloat16
        np.testing.assert_array_equal(x["w"], params["w"])
        np.testing.assert_array_equal(x["b"], params["b"])


def test_low_precision_parameters_have_a_float32_mean():
    params = jnp.ones(1, jnp.bfloat16)
    opt = gdjax.tail_average(gdjax.sgd(1.0))
    state = opt.init(params)
    for _ in range(4):
        updates, state = opt.update(jnp.full(1, 2.0**-8, jnp.bfloat16), state, params)
        params = gdjax.apply_updates(params, updates)
    assert state.slots.mean.dtype == jnp.float32
    np.testing.assert_array_equal(params, 1 - 4 * 2.0**-8)
    np.testing.assert_allclose(state.slots.mean, 1 - 2.5 * 2.0**-8, rtol=1e-7)


# --- eval_params ---------------------------------------------------------------------------------


def test_nothing_to_read_gives_the_parameters_back():
    params = {"w": jnp.ones(2), "n": None}
    opt = gdjax.chain(gdjax.clip(1.0), gdjax.adam(0.1))
    assert gdjax.eval_params(opt.init(params), params) is params


def test_it_is_found_in_chains_and_in_wrappers():
    start = jnp.array([1.0, -2.0])
    _, expected = trajectory(gdjax.schedule_free_sgd(0.3), start)
    for nested in (
        gdjax.chain(gdjax.identity(), gdjax.schedule_free_sgd(0.3)),
        gdjax.named_chain(("a", gdjax.chain(gdjax.identity(), gdjax.schedule_free_sgd(0.3)))),
    ):
        _, read = trajectory(nested, start)
        np.testing.assert_allclose(read[-1], expected[-1], rtol=1e-6)
    in_scale = gdjax.mechanize(gdjax.average(gdjax.sgd(0.3), 0.5), s_init=0.1)
    state = in_scale.init(start)
    _, state = in_scale.update(start, state, start)
    mean = state.slots.inner.slots.mean
    np.testing.assert_array_equal(gdjax.eval_params(state, start), mean)


def test_the_outermost_decides():
    start = jnp.array([1.0, -2.0])
    path, read = trajectory(gdjax.tail_average(gdjax.schedule_free_sgd(0.3)), start, 3)
    np.testing.assert_allclose(read[-1], sum(path) / 3, rtol=1e-6)


def test_leaves_of_another_group_stay():
    """A group's state holds None where the parameters belong to another."""
    params = {"a": jnp.ones(2), "b": {"c": jnp.full(2, 3.0)}}
    opt = gdjax.average(gdjax.sgd(1.0), 0.5, debias=False)
    part = {"a": params["a"], "b": None}
    _, state = opt.update(part, opt.init(part), part)
    x = gdjax.eval_params({"one": state, "rest": gdjax.sgd(1.0).init(params["b"])}, params)
    np.testing.assert_allclose(x["a"], 0.5)
    np.testing.assert_array_equal(x["b"]["c"], 3.0)


def test_it_is_pure_and_vmaps():
    start = jnp.array([1.0, -2.0])

    def run(rate):
        return trajectory(gdjax.schedule_free_sgd(rate), start, 3)[1][-1]

    rates = jnp.array([0.1, 0.3])
    lanes = jax.jit(jax.vmap(run))(rates)
    np.testing.assert_allclose(lanes, jnp.stack([run(r) for r in rates]), rtol=1e-6)
