"""Random keys are never reset, whatever else is reset or skipped: no noise comes twice."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax

NOISY = {
    "noisy_sgd": lambda: gdjax.noisy_sgd(0.1, key=0),
    "add_noise": lambda: gdjax.chain(gdjax.add_noise(0.1, 0.0, key=0), gdjax.sgd(0.1)),
    "optax": lambda: optax.chain(optax.add_noise(0.1, 0.0, 0), optax.sgd(0.1)),
}
AROUND = {
    "lookahead": lambda opt: gdjax.lookahead(opt, 2, 1.0, reset_state=True),
    "lookahead of a guard": lambda opt: gdjax.lookahead(
        gdjax.apply_if_finite(opt, 9), 2, 1.0, reset_state=True
    ),
    "guard of lookahead": lambda opt: gdjax.apply_if_finite(
        gdjax.lookahead(opt, 2, 1.0, reset_state=True), 9
    ),
    "lookahead of accumulate": lambda opt: gdjax.lookahead(
        gdjax.accumulate(opt, 2), 2, 1.0, reset_state=True
    ),
    "sam": lambda opt: gdjax.sam(gdjax.sgd(0.0), opt, 3),
}


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("noisy", NOISY)
def test_no_noise_comes_twice(noisy, around):
    """jax #3646, lookahead(noisy_sgd(...), reset_state=True)."""
    opt = AROUND[around](NOISY[noisy]())
    params = jnp.zeros(3)

    def call(carry, grad):
        params, state = carry
        updates, state = opt.update(jnp.full(3, grad), state, params)
        return (gdjax.apply_updates(params, updates), state), updates

    grads = jnp.where(jnp.arange(14) % 4 == 2, jnp.nan if "guard" in around else 0.0, 0.0)
    _, updates = jax.jit(lambda c: jax.lax.scan(call, c, grads))((params, opt.init(params)))
    assert np.isfinite(updates).all()
    if around == "sam":  # the climbs; the third of a cycle leads back
        updates = updates[np.arange(14) % 3 != 2]
    seen = [tuple(row) for row in np.asarray(updates).tolist() if any(row)]
    assert len(seen) == len(set(seen)) >= 6


def test_counts_of_skipped_steps_are_not_reset():
    opt = gdjax.lookahead(gdjax.apply_if_finite(gdjax.adam(0.1), 9), 2, reset_state=True)
    params = jnp.ones(2)
    state = opt.init(params)
    for grad in (1.0, jnp.nan, 1.0, jnp.nan, 1.0, 1.0):
        _, state = opt.update(jnp.full(2, grad), state, params)
    assert int(gdjax.skipped_steps(state)) == 2
    assert int(state.slots.inner.slots.inner.count) == 0  # reset after steps 2 and 4
