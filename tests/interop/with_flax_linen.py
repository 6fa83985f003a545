"""Flax Linen: `TrainState`, on a chain with a mask, a schedule and norms."""

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax.training.train_state import TrainState

RTOL = 1e-6


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1, param_dtype=float)(jnp.tanh(nn.Dense(16, param_dtype=float)(x)))[:, 0]


def losses():
    x = jnp.linspace(-1.0, 2.0, 32)[:, None]
    y = jnp.sin(2.0 * x[:, 0])
    net = Net()
    params = net.init(jax.random.key(0), x)
    tx = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(
            optax.warmup_cosine_decay_schedule(0.0, 1e-2, 20, 200),
            weight_decay=1e-2,
            mask=lambda p: jax.tree.map(lambda leaf: leaf.ndim > 1, p),
        ),
    )
    state = TrainState.create(apply_fn=net.apply, params=params, tx=tx)

    @jax.jit
    def step(state):
        def loss(p):
            return optax.losses.squared_error(state.apply_fn(p, x), y).mean()

        value, grads = jax.value_and_grad(loss)(state.params)
        return state.apply_gradients(grads=grads), value

    found = []
    for _ in range(200):
        state, value = step(state)
        found.append(value)
    return [*found, optax.tree.norm(state.opt_state[1][0].mu), state.opt_state[1][0].count]
