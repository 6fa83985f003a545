"""The scale falls when optax's does, and its numbers are data."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax

SETTINGS = [
    dict(factor=0.5, patience=2),
    dict(factor=0.5, patience=3, cooldown=2, rtol=0.05, min_scale=0.2),
    dict(factor=0.3, patience=2, accumulation_size=3, atol=0.1, rtol=0.0),
]


def losses(n=60):
    rng = np.random.default_rng(0)
    return (2 * np.exp(-np.arange(n) / 8) + 0.3 + 0.05 * rng.normal(size=n)).astype(np.float32)


def scales(opt):
    params = jnp.ones(2)

    def step(state, value):
        updates, state = opt.update(params, state, params, value=value)
        return state, updates[0]

    return jax.jit(lambda xs: jax.lax.scan(step, opt.init(params), xs)[1])(losses())


@pytest.mark.parametrize("settings", SETTINGS)
def test_same_as_optax(settings):
    ours = scales(gdjax.reduce_on_plateau(**settings))
    theirs = scales(optax.contrib.reduce_on_plateau(**settings))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    assert len(set(ours.tolist())) > 2


def test_its_numbers_are_data():
    factors = jnp.array([0.3, 0.6])
    lanes = jax.vmap(lambda f: scales(gdjax.reduce_on_plateau(f, patience=2)))(factors)
    for factor, lane in zip((0.3, 0.6), lanes, strict=True):
        expected = scales(gdjax.reduce_on_plateau(factor, patience=2))
        np.testing.assert_allclose(lane, expected, rtol=1e-6)
    opt = gdjax.chain(gdjax.adam(0.1), gdjax.reduce_on_plateau())
    numbers = gdjax.hyperparams(opt.init(jnp.ones(2)))
    assert {"factor", "patience", "cooldown", "accumulation_size"} <= numbers.keys()


def test_low_precision_parameters_have_a_float32_scale():
    params = jnp.ones(2, jnp.bfloat16)
    opt = gdjax.reduce_on_plateau(0.7, patience=1)
    state = opt.init(params)
    for _ in range(3):
        updates, state = opt.update(params, state, value=jnp.bfloat16(1.0))
    np.testing.assert_allclose(state.slots.scale, 0.49, rtol=1e-6)
    assert updates.dtype == jnp.bfloat16


def test_bad_input_is_named():
    opt = gdjax.reduce_on_plateau()
    with pytest.raises(TypeError, match="reduce_on_plateau needs value="):
        opt.update(jnp.ones(2), opt.init(jnp.ones(2)))
    with pytest.raises(ValueError, match="at least one must be positive"):
        gdjax.reduce_on_plateau(rtol=0.0)
    with pytest.raises(ValueError, match=r"factor=...\) must be in \(0, 1\), got 1.0"):
        gdjax.reduce_on_plateau(1.0)
