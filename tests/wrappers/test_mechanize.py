"""Mechanic against optax, and what it keeps."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from parity import assert_same

import gdjax


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_same_as_optax_where_the_scale_is_large(weight_decay):
    """optax's displacement is too small by a factor of S / (S + eps): nothing for S >= 0.6."""
    numbers = dict(weight_decay=weight_decay, s_init=0.1)
    ours = gdjax.mechanize(gdjax.sgd(0.1), **numbers)
    theirs = optax.contrib.mechanize(optax.sgd(0.1), **numbers)
    assert_same(ours, theirs)


def test_any_optimizer_and_its_extras():
    params = jnp.array([1.0, -2.0])
    opt = gdjax.mechanize(gdjax.momo(0.5), s_init=0.1)
    grads, value = 2 * params, jnp.float32(5.0)
    _, state = opt.update(grads, opt.init(params), params, value=value)
    step = gdjax.momo(0.5).update(grads, gdjax.momo(0.5).init(params), params, value=value)[0]
    np.testing.assert_allclose(state.slots.displacement, step)
    with pytest.raises(TypeError, match="momo needs value="):
        opt.update(grads, state, params)


def test_small_steps_of_low_precision_parameters_add_up():
    """Each is below the resolution of bfloat16; the displacement keeps them."""

    def update(grads, state, params):  # a base that takes one step, whatever the gradient
        return jnp.full_like(grads, -1e-3), state

    params = jnp.ones(1, jnp.bfloat16)
    opt = gdjax.mechanize(gdjax.Optimizer(lambda params: (), update), s_init=1.0)
    state = opt.init(params)
    for _ in range(40):
        updates, state = opt.update(jnp.zeros_like(params), state, params)
        params = gdjax.apply_updates(params, updates)
    np.testing.assert_allclose(params.astype(jnp.float32), 0.96, atol=2.0**-8)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"mechanize\(num_betas=...\) must be an integer >= 1"):
        gdjax.mechanize(gdjax.sgd(1.0), num_betas=0)
    opt = gdjax.mechanize(gdjax.sgd(1.0))
    with pytest.raises(ValueError, match="mechanize needs the parameters"):
        opt.update(jnp.ones(2), opt.init(jnp.ones(2)))
