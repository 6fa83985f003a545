"""evosax: strategies that give their search direction to an optimizer."""

import jax
import jax.numpy as jnp
import optax
from evosax.algorithms import PGPE, Open_ES

RTOL = 1e-8


def losses():
    x = jnp.full(4, 0.5)
    found = []
    schedule = optax.cosine_decay_schedule(0.1, 200)
    for strategy in (
        Open_ES(16, x, optimizer=optax.adam(0.05), std_schedule=schedule),
        PGPE(16, x),  # its default, ClipUp, is a chain of optax's
    ):
        params = strategy.default_params
        state = strategy.init(jax.random.key(0), x, params)

        @jax.jit
        def step(state, key, strategy=strategy, params=params):
            ask, tell = jax.random.split(key)
            population, state = strategy.ask(ask, state, params)
            fitness = jnp.sum((population - jnp.arange(4.0)) ** 2, axis=-1)
            state, _ = strategy.tell(tell, population, fitness, state, params)
            return state, fitness.mean()

        for key in jax.random.split(jax.random.key(1), 200):
            state, fitness = step(state, key)
            found.append(fitness)
    return found
