"""Equinox: a model with frozen layers, as in its documentation."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

RTOL = 1e-8


def losses():
    x = jnp.linspace(-1.0, 2.0, 32)[:, None]
    y = jnp.sin(2.0 * x)
    model = eqx.nn.MLP(1, 1, 16, 2, activation=jnp.tanh, key=jax.random.key(0))
    spec = jax.tree.map(lambda _: False, model)
    spec = eqx.tree_at(
        lambda m: (m.layers[-1].weight, m.layers[-1].bias), spec, replace=(True, True)
    )
    tx = optax.sgd(0.05)
    state = tx.init(model)  # also of the layers' functions

    @eqx.filter_jit
    def step(model, state):
        trained, frozen = eqx.partition(model, spec)
        loss, grads = eqx.filter_value_and_grad(
            lambda part: jnp.mean((jax.vmap(eqx.combine(part, frozen))(x) - y) ** 2)
        )(trained)
        updates, state = tx.update(grads, state)
        return eqx.apply_updates(model, updates), state, loss

    found = []
    for _ in range(200):
        model, state, loss = step(model, state)
        found.append(loss)
    return found
