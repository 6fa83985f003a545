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


INF, NAN = np.inf, np.nan
SIGNS = {  # losses, and how often in a row of two of them the scale is halved
    "constant, negative": ([-1.0] * 9, 4),
    "constant, positive": ([1.0] * 9, 4),
    "constant, zero": ([0.0] * 9, 4),
    "rising from -1": (-1 + 1e-5 * np.arange(9), 4),
    "falling from -1 by less than rtol": (-1 - 1e-6 * np.arange(9), 4),
    "falling from -1": (-1 - 1e-2 * np.arange(9), 0),
    "falling from 1": (1 - 1e-2 * np.arange(9), 0),
    "falling through 0": (0.04 - 1e-2 * np.arange(9), 0),
    "infinite at first": ([INF, 3.0, 2.0, 1.0, -1.0, -2.0, -3.0, -4.0, -5.0], 0),
    "never finite": ([NAN, INF, -INF, NAN, INF, -INF, NAN, INF], 4),
    "not finite once": ([3.0, 2.0, NAN, 1.0, 0.0, -INF, -1.0, -2.0, -3.0], 0),
}


def test_the_sign_of_the_loss_does_not_matter():
    """optax #1767: there, a negative loss that rises counts as improving, and one never reduces."""
    opt, params = gdjax.reduce_on_plateau(0.5, patience=2, rtol=1e-4), jnp.ones(1)

    def lane(losses):
        def step(state, loss):
            return opt.update(params, state, value=loss)[::-1]

        return jax.lax.scan(step, opt.init(params), losses)[1][-1]

    longest = max(len(losses) for losses, _ in SIGNS.values())
    rows = np.array([[*losses[:1], *losses][-longest:] for losses, _ in SIGNS.values()])
    ends = jax.jit(jax.vmap(lane))(rows.astype(np.float32))[:, 0]
    for name, end, (_, halvings) in zip(SIGNS, ends, SIGNS.values(), strict=True):
        assert end == 0.5**halvings, name


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
