"""SAM in its two modes, against optax and the papers, and at a zero gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import test_oracles
from oracles import sam as oracles
from parity import assert_same
from registry import BY_NAME

import gdjax


def adversaries(rho):
    ours = gdjax.chain(gdjax.normalize(), gdjax.sgd(rho))
    return ours, optax.chain(optax.contrib.normalize(), optax.sgd(rho))


def slope(params, i):
    return jax.tree.map(lambda x: (0.8 + 0.1 * i) * x + 0.3 * x * x, params)


def test_adaptive_sam_follows_the_paper():
    def make(learning_rate, **numbers):
        adversary = gdjax.sam_adversary(adaptive=True, **numbers)
        return gdjax.sam(gdjax.sgd(learning_rate), adversary, opaque_mode=True)

    numbers = dict(learning_rate=0.05, rho=0.3, eta=0.1)
    case = BY_NAME["sam"]._replace(make=make, numbers=numbers, oracle=oracles.sam)
    test_oracles.test_follows_the_paper(case)


@pytest.mark.parametrize(
    "structure",
    [
        dict(),
        dict(sync_period=3),
        dict(sync_period=3, reset_state=False),
        dict(opaque_mode=True, sync_period=3),
    ],
    ids=str,
)
def test_same_as_optax(structure):
    mine, theirs = adversaries(0.2)
    momentum = (
        functools.partial(gdjax.sgd, momentum=0.8),
        functools.partial(optax.sgd, momentum=0.8),
    )
    if not structure.get("reset_state", True):  # an adversary that remembers
        mine, theirs = momentum[0](0.05), momentum[1](0.05)
    ours = gdjax.sam(momentum[0](0.1), mine, **structure)
    theirs = optax.contrib.sam(momentum[1](0.1), theirs, **structure)
    if structure.get("opaque_mode"):

        def with_slope(opt):  # functions do not pass through jit
            def update(grads, state, params, **extra):
                return opt.update(grads, state, params, grad_fn=slope)

            return gdjax.Optimizer(opt.init, update)

        ours, theirs = with_slope(ours), with_slope(theirs)
    assert_same(ours, theirs, steps=7)


def test_a_zero_gradient_gives_no_climb():
    params = {"w": jnp.ones((2, 2)), "z": jnp.ones((0, 3))}
    zeros = jax.tree.map(jnp.zeros_like, params)
    for adversary in (
        gdjax.normalize(),
        gdjax.sam_adversary(),
        gdjax.sam_adversary(adaptive=True),
    ):
        updates, _ = adversary.update(zeros, adversary.init(params), params)
        np.testing.assert_array_equal(updates["w"], 0)  # optax: nan
    opt = gdjax.sam(gdjax.sgd(0.1), opaque_mode=True)
    updates, _ = opt.update(zeros, opt.init(params), params, grad_fn=lambda p, i: p)
    np.testing.assert_allclose(updates["w"], -0.1, rtol=1e-6)


@pytest.mark.parametrize("opaque_mode", [False, True])
def test_a_cycle_of_one_is_the_optimizer_itself(opaque_mode):
    """optax returns to the parameters of the cycle before."""
    opt = gdjax.sam(gdjax.sgd(0.1), sync_period=1, opaque_mode=opaque_mode)
    params = jnp.array([1.0, -2.0])
    state = opt.init(params)
    for _ in range(3):
        updates, state = opt.update(params, state, params, grad_fn=slope)
        np.testing.assert_allclose(updates, -0.1 * params, rtol=1e-5)
        params = gdjax.apply_updates(params, updates)


def test_the_two_modes_agree_and_eval_params_does_not_climb():
    params = start = jnp.array([1.0, -2.0])
    once = gdjax.sam(gdjax.sgd(0.1), opaque_mode=True)
    updates, _ = once.update(slope(start, 0), once.init(start), start, grad_fn=slope)
    turns = gdjax.sam(gdjax.sgd(0.1))
    state = turns.init(start)
    climb, state = turns.update(slope(params, 0), state, params)
    params = params + climb
    np.testing.assert_allclose(jnp.linalg.norm(climb), 0.05, rtol=1e-5)
    np.testing.assert_array_equal(gdjax.eval_params(state, params), start)
    back, state = turns.update(slope(params, 0), state, params)
    params = params + back
    np.testing.assert_allclose(params, start + updates, rtol=1e-6)
    np.testing.assert_array_equal(gdjax.eval_params(state, params), params)
    assert (state.count, state.slots.inner.count) == (1, 1)  # a climb is no step


def test_eval_params_reaches_the_optimizer_inside():
    params = jnp.array([1.0, -2.0])
    opt = gdjax.sam(gdjax.schedule_free_sgd(0.1), opaque_mode=True)
    state = opt.init(params)
    for _ in range(3):
        updates, state = opt.update(slope(params, 0), state, params, grad_fn=slope)
        params = gdjax.apply_updates(params, updates)
    inner = gdjax.eval_params(state.slots.inner, params)
    np.testing.assert_array_equal(gdjax.eval_params(state, params), inner)
    assert not np.allclose(inner, params)


def test_gradients_are_asked_for_in_the_dtype_of_the_parameters():
    params = {"w": jnp.ones(2, jnp.bfloat16), "b": jnp.ones(2)}
    seen = []

    def grad_fn(params, i):
        seen.append((i, params["w"].dtype, params["b"].dtype))
        return params

    opt = gdjax.sam(gdjax.sgd(0.1), sync_period=3, opaque_mode=True)
    updates, _ = opt.update(params, opt.init(params), params, grad_fn=grad_fn)
    assert seen == [(i, jnp.bfloat16, jnp.float32) for i in (0, 1)]
    assert updates["w"].dtype == jnp.bfloat16


def test_gradients_are_averaged_over_the_batch_axis():
    opt = gdjax.sam(gdjax.sgd(1.0), opaque_mode=True, batch_axis_name="batch")
    params = jnp.ones(1)

    def lane(pull):
        grad_fn = lambda params, i: pull * jnp.ones(1)  # noqa: E731
        return opt.update(params, opt.init(params), params, grad_fn=grad_fn)[0]

    updates = jax.vmap(lane, axis_name="batch")(jnp.array([1.0, 3.0]))
    np.testing.assert_allclose(updates, -2.0)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"sam\(sync_period=...\) must be an integer >= 1, got 0"):
        gdjax.sam(gdjax.sgd(1.0), sync_period=0)
    opt = gdjax.sam(gdjax.sgd(1.0), opaque_mode=True)
    with pytest.raises(ValueError, match="grad_fn=lambda params, i"):
        opt.update(jnp.ones(2), opt.init(jnp.ones(2)), jnp.ones(2))
    opt = gdjax.sam_adversary(adaptive=True)
    with pytest.raises(ValueError, match="adaptive=True. needs the parameters"):
        opt.update(jnp.ones(2), opt.init(jnp.ones(2)))
