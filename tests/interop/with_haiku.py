"""Haiku: two networks in one tree, each with an optimizer of its own."""

import haiku as hk
import jax
import jax.numpy as jnp
import optax

RTOL = 1e-8


def losses():
    x = jnp.linspace(-1.0, 2.0, 32)[:, None]
    y = jnp.sin(2.0 * x)

    def network(x):
        return hk.Linear(1, name="head")(jnp.tanh(hk.Linear(16, name="body")(x)))

    net = hk.without_apply_rng(hk.transform(network))
    params = net.init(jax.random.key(0), x)
    labels = hk.data_structures.map(lambda module, name, value: module, params)
    tx = optax.multi_transform(
        {"body": optax.rmsprop(1e-3, eps=1e-2), "head": optax.adagrad(0.1)}, labels
    )
    state = tx.init(params)

    @jax.jit
    def step(params, state):
        loss, grads = jax.value_and_grad(lambda p: optax.huber_loss(net.apply(p, x), y).mean())(
            params
        )
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    found = []
    for _ in range(200):
        params, state, loss = step(params, state)
        found.append(loss)
    return found
