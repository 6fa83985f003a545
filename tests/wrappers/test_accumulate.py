"""Accumulation: the optimizer runs once per k, on the float32 mean, and counts its own steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity import falling

import gdjax


def gradient(t, dtype=jnp.float32):
    rng = np.random.default_rng(t)
    return {"w": jnp.asarray(rng.normal(0.3, 1.0, (3, 2)), dtype), "b": jnp.asarray(t, dtype)}


def run(opt, grads, params=None, **extra):
    """Return all updates and the last state, in one compiled scan."""
    params = jax.tree.map(jnp.zeros_like, grads[0]) if params is None else params

    def step(state, grad):
        updates, state = opt.update(grad, state, params, **extra)
        return state, updates

    stacked = jax.tree.map(lambda *x: jnp.stack(x), *grads)
    state, updates = jax.jit(lambda: jax.lax.scan(step, opt.init(params), stacked))()
    return [jax.tree.map(lambda x, i=i: x[i], updates) for i in range(len(grads))], state


def mean(grads):
    return jax.tree.map(lambda *x: sum(np.asarray(y, np.float64) for y in x) / len(x), *grads)


def _counting(grads, slots, params, count, *, seen):
    jax.debug.callback(seen, count)
    return grads, slots


@pytest.mark.parametrize("k", [1, 4])
def test_the_inner_optimizer_runs_once_per_k(k):
    """optax #472, #320: there it runs at every call."""
    calls = []
    inner = gdjax.treewise(_counting, seen=calls.append)
    run(gdjax.accumulate(inner, k), [gradient(t) for t in range(8)])
    jax.effects_barrier()
    assert sorted(int(c) for c in calls) == list(range(1, 8 // k + 1))


def test_one_step_along_the_mean_as_if_it_were_one_batch():
    grads = [gradient(t) for t in range(6)]
    means = [jax.tree.map(jnp.float32, mean(grads[i : i + 3])) for i in (0, 3)]
    inner = gdjax.adam(falling)
    updates, state = run(gdjax.accumulate(inner, 3), grads)
    expected, inner_state = run(inner, means)
    for i, update in enumerate(updates):
        for name, x in update.items():
            like = expected[i // 3][name] if i % 3 == 2 else jnp.zeros_like(x)
            np.testing.assert_allclose(x, like, rtol=2e-6)
    assert int(state.slots.inner.count) == int(state.slots.steps.count) == int(inner_state.count)


def test_low_precision_gradients_have_a_float32_mean():
    """optax #1567."""
    grads = [gradient(t, jnp.bfloat16) for t in range(8)]
    updates, state = run(gdjax.accumulate(gdjax.sgd(1.0), 8), grads)
    assert state.slots.acc_grads["w"].dtype == jnp.float32
    for name, x in mean(grads).items():
        np.testing.assert_allclose(state.slots.acc_grads[name], x, rtol=1e-6)
        assert updates[-1][name].dtype == jnp.bfloat16
        np.testing.assert_array_equal(updates[-1][name], jnp.asarray(-x, jnp.bfloat16))


def test_no_buffer_at_one():
    params = gradient(0)
    size = lambda tree: sum(x.size for x in jax.tree.leaves(tree))  # noqa: E731
    alone = size(gdjax.adam(0.1).init(params))
    one, two = (gdjax.accumulate(gdjax.adam(0.1), k).init(params) for k in (1, 2))
    assert size(one) == alone + 5  # four counts and a flag
    assert size(two) == size(one) + size(params) + 1  # the mean, and k


def test_k_from_a_schedule_of_the_steps_done_and_from_the_state():
    schedule = lambda step: jnp.where(step < 2, 1, 3)  # noqa: E731
    opt = gdjax.accumulate(gdjax.sgd(1.0), schedule)
    grads = [gradient(t) for t in range(8)]
    updates, _ = run(opt, grads)
    stepped = [bool(u["w"].any()) for u in updates]
    assert stepped == [True, True, False, False, True, False, False, True]
    np.testing.assert_allclose(updates[4]["w"], -mean(grads[2:5])["w"], rtol=1e-6)
    assert float(gdjax.hyperparams(opt.init(grads[0]))["every_k"]) == 1.0

    opt = gdjax.accumulate(gdjax.sgd(1.0), 4)
    step, state = jax.jit(opt.update), opt.init(grads[0])
    flags = []
    for t in range(6):
        if t == 2:  # k falls below what has been gathered already: the next call takes the step
            state = gdjax.with_hyperparams(state, every_k=2)
        _, state = step(grads[t], state)
        flags.append(bool(state.slots.updated))
    assert flags == [False, False, True, False, True, False]
    assert step._cache_size() == 1


def test_a_rejected_gradient_is_as_if_it_had_not_been():
    grads = [gradient(t) for t in range(5)]
    bad = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), grads[0])
    opt = gdjax.accumulate(gdjax.adam(0.1), 2, should_skip_update_fn=gdjax.skip_not_finite)
    with_bad, state = run(opt, [grads[0], bad, grads[1], bad, grads[2], grads[3]])
    without, plain = run(opt, grads[:4])
    for i, j in ((0, 0), (2, 1), (4, 2), (5, 3)):
        jax.tree.map(np.testing.assert_array_equal, with_bad[i], without[j])
    assert not any(np.any(x) for i in (1, 3) for x in with_bad[i].values())
    jax.tree.map(np.testing.assert_array_equal, state.slots.inner, plain.slots.inner)
    assert int(gdjax.skipped_steps(state)) == 2
    assert int(state.slots.skip_state["num_not_finite"]) == 0


def test_vmapped_lanes_with_different_k():
    grads = [gradient(t) for t in range(6)]

    def lane(k):
        return jnp.stack([u["w"] for u in run(gdjax.accumulate(gdjax.adam(0.1), k), grads)[0]])

    ks = jnp.array([1, 2, 3])
    for k, row in zip(ks, jax.jit(jax.vmap(lane))(ks), strict=True):
        np.testing.assert_allclose(row, lane(int(k)), rtol=1e-5, atol=1e-7)


def test_functions_among_the_extras_run_un_jitted():
    opt = gdjax.accumulate(gdjax.sgd(1.0), 2)
    state = opt.init(gradient(0))
    for t in range(2):
        updates, state = opt.update(gradient(t), state, value_fn=lambda p: 0.0)
    np.testing.assert_allclose(updates["w"], -mean([gradient(0), gradient(1)])["w"], rtol=1e-6)
