"""BlackJAX: variational inference, SVGD and its L-BFGS, which reads the fields of the state."""

import blackjax
import jax
import jax.numpy as jnp
import optax
from blackjax.optimizers.lbfgs import minimize_lbfgs

RTOL = 1e-8


def logdensity(x):
    return -0.5 * jnp.sum((x - jnp.array([1.0, -2.0])) ** 2 / jnp.array([1.0, 0.25]))


def losses():
    vi = blackjax.meanfield_vi(logdensity, optax.adam(0.02), num_samples=8)
    state = vi.init(jnp.zeros(2))
    step = jax.jit(vi.step)
    found = []
    for key in jax.random.split(jax.random.key(0), 200):
        state, info = step(key, state)
        found.append(info.elbo)

    svgd = blackjax.svgd(jax.grad(logdensity), optax.adagrad(0.5))
    state = svgd.init(jax.random.normal(jax.random.key(1), (8, 2)))
    step = jax.jit(svgd.step)
    for _ in range(200):
        state = step(state)
        found.append(jnp.mean(jax.vmap(logdensity)(state.particles)))

    (_, status), history = minimize_lbfgs(
        lambda x: jnp.sum((x[1:] - x[:-1] ** 2) ** 2) + (1 - x[0]) ** 2, jnp.array([-1.0, 1.5, 0.5])
    )
    return [*found, *history.f[:10], status.s_history.shape[0]]
