"""JAXopt: `OptaxSolver`."""

import warnings

import jax.numpy as jnp
import optax

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it says that it is no longer developed
    from jaxopt import OptaxSolver

RTOL = 1e-8


def losses():
    x = jnp.linspace(-1.0, 1.0, 32)
    solver = OptaxSolver(
        lambda w, x, y: jnp.mean((jnp.polyval(w, x) - y) ** 2), optax.lamb(1e-2), maxiter=200
    )
    w = jnp.zeros(4)
    state = solver.init_state(w, x, jnp.sin(3.0 * x))
    found = []
    for _ in range(200):
        w, state = solver.update(w, state, x, jnp.sin(3.0 * x))
        found.append(state.value)
    return found
