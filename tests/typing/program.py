"""A user's program, written as its author would; both type checkers accept it, and it runs."""

# pyright: standard, reportUnnecessaryTypeIgnoreComment=error

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import gdjax

Params = dict[str, jax.Array]
Batch = tuple[jax.Array, jax.Array]


def loss_fn(params: Params, batch: Batch) -> jax.Array:
    x, y = batch
    return jnp.mean((x @ params["kernel"] + params["bias"] - y) ** 2)


def start() -> Params:
    return {"kernel": jnp.ones((2, 1)), "bias": jnp.zeros(1)}


def examples() -> Batch:
    x = jnp.linspace(-1.0, 1.0, 16).reshape(8, 2)
    return x, x @ jnp.array([[1.0], [-2.0]]) + 0.5


def own_loop(optimizer: gdjax.Optimizer, steps: int = 5) -> Params:
    params = start()
    state = optimizer.init(params)

    @jax.jit
    def step(params: Params, state: Any) -> tuple[Params, Any]:
        grads = jax.grad(loss_fn)(params, examples())
        updates, state = optimizer.update(grads, state, params)
        return gdjax.apply_updates(params, updates), state

    for _ in range(steps):
        params, state = step(params, state)
    return params


class Velocity(NamedTuple):
    velocity: jax.Array


def _heavy_ball(
    grad: jax.Array,
    slots: Velocity,
    param: jax.Array | None,
    count: jax.Array,
    *,
    learning_rate: jax.Array,
    decay: jax.Array,
) -> tuple[jax.Array, Velocity]:
    velocity = decay * slots.velocity - learning_rate * grad
    return velocity, Velocity(velocity)


def heavy_ball(learning_rate: float, decay: float = 0.9) -> gdjax.Optimizer:
    numbers = {"learning_rate": learning_rate, "decay": decay}
    return gdjax.leafwise(_heavy_ball, lambda p: Velocity(jnp.zeros_like(p)), numbers)


def optimizers() -> list[gdjax.Optimizer]:
    warmup = gdjax.warmup_cosine_decay_schedule(0.0, 1e-2, 2, 10)
    return [
        gdjax.adam(1e-3),
        gdjax.adam(jnp.array(1e-3), b1=jnp.array(0.8)),
        gdjax.adamw(warmup, weight_decay=gdjax.by_path({r".*bias": 0.0, r".*": 0.1})),
        gdjax.adam({"kernel": 1e-3, "bias": 1e-2}),
        gdjax.sgd(lambda count: 0.1 / (1 + count), 0.9, nesterov=True),
        gdjax.chain(gdjax.clip_by_global_norm(1.0), optax.scale_by_adam(), gdjax.scale(-1e-3)),
        gdjax.groups({r".*bias": gdjax.sgd(1e-2), r".*": gdjax.adam(1e-3)}),
        gdjax.groups({r".*bias": None, r".*": optax.sgd(1e-3)}),
        heavy_ball(1e-2),
    ]


def trained() -> tuple[Params, int, float]:
    result = gdjax.fit(loss_fn, start(), gdjax.adam(0.1), examples(), batch_size=4, steps=5, key=0)
    seconds: float = result.seconds
    return result.params, result.steps, seconds


def swept() -> gdjax.SweepResult:
    space = {"learning_rate": [1e-3, 1e-2], "b1": [0.8, 0.9]}
    return gdjax.sweep(loss_fn, start(), gdjax.adam, space, examples(), steps=5)


def minimized() -> tuple[jax.Array, jax.Array]:
    def fun(x: jax.Array, target: jax.Array) -> jax.Array:
        return jnp.sum((x - target) ** 2)

    result = gdjax.minimize(fun, jnp.zeros(2), gdjax.lbfgs(), args=(jnp.ones(2),), tol=1e-4)
    return result.params, result.converged
