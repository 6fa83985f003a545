"""Optimistix: `OptaxMinimiser`, which calls the pair in a while loop of its own."""

import jax.numpy as jnp
import optax
import optimistix as optx

RTOL = 1e-8


def losses():
    def rosenbrock(y, scale):
        value = (1 - y[0]) ** 2 + scale * jnp.sum((y[1:] - y[:-1] ** 2) ** 2)
        return value, value

    found = []
    for tx in (optax.adam(1e-2), optax.lbfgs(), optax.chain(optax.clip(1.0), optax.sgd(1e-3))):
        for scale in (10.0, 20.0):
            solver = optx.OptaxMinimiser(tx, rtol=0.0, atol=0.0)
            solution = optx.minimise(
                rosenbrock,
                solver,
                jnp.array([-1.0, 1.5, 0.5]),
                args=scale,
                has_aux=True,
                max_steps=200,
                throw=False,
            )
            found += [solution.aux, *solution.value]
    return found
