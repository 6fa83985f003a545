"""Compare trajectories with optax's: both see the same gradients, and take the same steps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems

import gdjax


def trajectories(ours, theirs, steps=6, keys=tuple(problems.SHAPES), extra=lambda t: {}):
    """Yield both parameter trees after each step; both see the gradients at optax's parameters."""
    params = {k: jnp.asarray(problems.parameters()[k], jnp.float32) for k in keys}
    theirs = optax.with_extra_args_support(theirs)
    mine, state, their_state = params, ours.init(params), theirs.init(params)
    step, their_step = jax.jit(ours.update), jax.jit(theirs.update)
    for t in range(1, steps + 1):
        at = {k: np.zeros(s) for k, s in problems.SHAPES.items()} | jax.tree.map(np.asarray, params)
        grads = problems.gradients(at, t)
        grads = {k: jnp.asarray(grads[k], jnp.float32) for k in keys}
        updates, state = step(grads, state, mine, **extra(t))
        their_updates, their_state = their_step(grads, their_state, params, **extra(t))
        mine = gdjax.apply_updates(mine, updates)
        params = optax.apply_updates(params, their_updates)
        yield mine, params


def assert_same(ours, theirs, rtol=1e-5, **options):
    for t, (mine, params) in enumerate(trajectories(ours, theirs, **options), 1):
        for name, x in params.items():
            np.testing.assert_allclose(
                mine[name], x, rtol=rtol, atol=rtol, err_msg=f"{name}, step {t}"
            )


def falling(count):
    """A schedule: half the rate after each update."""
    return 0.1 * 0.5**count


MASK = {"scalar": True, "vector": False, "tall": True, "wide": False, "kernel": True, "still": True}
