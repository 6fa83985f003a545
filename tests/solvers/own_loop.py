"""A user's own loop around a solver: a fixed number of updates in one `scan`."""

import jax

import gdjax


def run(opt, fun, params, steps, residual_fn=None):
    """Return the parameters to evaluate with and the state; jit it."""
    more = {} if residual_fn is None else {"residual_fn": residual_fn}

    def step(carry, _):
        params, state = carry
        value, grads = jax.value_and_grad(fun)(params)
        updates, state = opt.update(grads, state, params, value=value, value_fn=fun, **more)
        return (gdjax.apply_updates(params, updates), state), value

    (params, state), values = jax.lax.scan(step, (params, opt.init(params)), length=steps)
    return gdjax.eval_params(state, params), state, values
