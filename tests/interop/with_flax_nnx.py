"""Flax NNX: its `Optimizer`, with gradients accumulated and the rate in the state."""

import jax.numpy as jnp
import optax
from flax import nnx

RTOL = 1e-8


def losses():
    x = jnp.linspace(-1.0, 2.0, 32)[:, None]
    y = jnp.sin(2.0 * x)
    model = nnx.Sequential(
        nnx.Linear(1, 16, rngs=nnx.Rngs(0)), nnx.tanh, nnx.Linear(16, 1, rngs=nnx.Rngs(1))
    )
    inner = optax.inject_hyperparams(optax.sgd)(0.05, momentum=0.9, nesterov=True)
    optimizer = nnx.Optimizer(model, optax.MultiSteps(inner, 2), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        loss, grads = nnx.value_and_grad(lambda m: jnp.mean((m(x) - y) ** 2))(model)
        optimizer.update(model, grads)
        return loss

    found = []
    for i in range(200):
        if i == 100:
            optimizer.opt_state.inner_opt_state.hyperparams["learning_rate"][...] = 0.01
        found.append(step(model, optimizer))
    return [*found, optimizer.opt_state.gradient_step[...]]
