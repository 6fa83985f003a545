"""Lookahead against optax, and what it resets."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest

import gdjax


@pytest.mark.parametrize("reset_state", [False, True])
def test_same_as_optax(reset_state):
    """optax keeps the slow weights in the parameters."""
    ours = gdjax.lookahead(gdjax.adam(0.1), 3, 0.4, reset_state)
    theirs = optax.lookahead(optax.adam(0.1), 3, 0.4, reset_state)
    mine = jax.tree.map(jnp.float32, problems.parameters())
    params = optax.LookaheadParams.init_synced(mine)
    state, their_state = ours.init(mine), theirs.init(params)
    their_step = jax.jit(theirs.update)
    for t in range(1, 9):
        grads = problems.gradients(jax.tree.map(np.asarray, params.fast), t)
        grads = jax.tree.map(jnp.float32, grads)
        updates, state = ours.update(grads, state, mine)
        their_updates, their_state = their_step(grads, their_state, params)
        mine = gdjax.apply_updates(mine, updates)
        params = optax.apply_updates(params, their_updates)
        slow = gdjax.eval_params(state, mine)
        for k in mine:
            np.testing.assert_allclose(mine[k], params.fast[k], rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(slow[k], params.slow[k], rtol=1e-5, atol=1e-5)


def test_a_reset_keeps_the_numbers():
    params = jnp.ones(2)
    opt = gdjax.lookahead(
        gdjax.chain(gdjax.clip(9.0), gdjax.adam(0.1)), sync_period=2, reset_state=True
    )
    state = gdjax.with_hyperparams(opt.init(params), learning_rate=0.3)
    names = gdjax.hyperparams(state).keys()
    for expected in (1, 0, 1, 0):
        _, state = opt.update(params, state, params)
        clip, adam = state.slots.inner
        assert (clip.count, adam.count) == (expected, expected)
        assert bool((adam.slots.mu == 0).all()) is (expected == 0)
        assert gdjax.hyperparams(state).keys() == names
        np.testing.assert_allclose(gdjax.hyperparams(state)["learning_rate"], 0.3)


def test_one_period_is_read_from_the_state():
    """Fractions are cut off; a schedule may change it."""
    params = jnp.array([4.0])
    opt = gdjax.lookahead(gdjax.sgd(1.0), sync_period=2.9, slow_step_size=0.5)
    state = opt.init(params)
    seen = []
    for _ in range(4):
        updates, state = opt.update(jnp.ones(1), state, params)
        params = gdjax.apply_updates(params, updates)
        seen.append(float(params[0]))
    assert seen == [3.0, 3.0, 2.0, 2.0]


def test_an_outer_optimizer_moves_the_slow_weights():
    """Plain gradient descent is the interpolation; its numbers are leaves like all others."""

    def walk(opt, dtype=jnp.float32):
        params = jnp.array([1.0, -2.0], dtype)
        state = opt.init(params)
        for _ in range(4):
            updates, state = opt.update(params, state, params)
            params = gdjax.apply_updates(params, updates)
        return gdjax.eval_params(state, params), state

    plain, _ = walk(gdjax.lookahead(gdjax.sgd(0.1), 2, 0.4))
    outer, state = walk(gdjax.lookahead(gdjax.sgd(0.1), 2, outer_optimizer=gdjax.sgd(0.4)))
    np.testing.assert_allclose(outer, plain, rtol=1e-6)
    assert state.slots.outer.count == 2  # one update for each synchronization
    names = gdjax.hyperparams(state).keys()
    assert names == {"sync_period", "outer.learning_rate", "inner.learning_rate"}
    snoo = gdjax.sgd(0.7, momentum=0.5, nesterov=True)
    _, state = walk(gdjax.lookahead(gdjax.sgd(0.1), 2, outer_optimizer=snoo), jnp.bfloat16)
    assert state.slots.outer.slots.trace.dtype == jnp.float32


def test_bad_arguments_are_named():
    outer = gdjax.sgd(0.7)
    with pytest.raises(ValueError, match="slow_step_size=...\\) has no effect"):
        gdjax.lookahead(gdjax.sgd(1.0), 3, 0.4, outer_optimizer=outer)
    skips = gdjax.lookahead(gdjax.sgd(1.0), outer_optimizer=gdjax.apply_if_finite(outer, 3))
    with pytest.raises(ValueError, match="must take a step in each of its updates"):
        skips.init(jnp.ones(2))
    with pytest.raises(ValueError, match=r"lookahead\(sync_period=...\) must be finite and >= 1"):
        gdjax.lookahead(gdjax.sgd(1.0), 0)
    opt = gdjax.lookahead(gdjax.sgd(1.0))
    with pytest.raises(ValueError, match="lookahead needs the parameters"):
        opt.update(jnp.ones(2), opt.init(jnp.ones(2)))
