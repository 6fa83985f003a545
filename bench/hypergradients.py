"""The derivative of a validation loss with respect to the learning rate, through training."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from harness import Row, interleaved, must_agree

import gdjax

model = gdjax.models.mlp((16, 64, 64, 4))


def loss_fn(params, batch):
    x, y = batch
    return jnp.mean((model.apply(params, x) - y) ** 2)


def problem():
    """Return parameters, training data and validation data."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 64, 16)).astype(np.float32)
    y = np.sin(x @ rng.normal(size=(16, 4)).astype(np.float32))
    return model.init(jax.random.key(0)), *(
        (jnp.asarray(a), jnp.asarray(b)) for a, b in zip(x, y, strict=True)
    )


def ours(steps, mode):
    """Return a compiled function from the learning rate to loss and derivative."""
    params, train, valid = problem()

    def fit_fn(rate):
        opt = gdjax.sgd(rate, momentum=0.9)
        return loss_fn(gdjax.unroll(loss_fn, params, opt, train, steps=steps), valid)

    return jax.jit(lambda rate: gdjax.hypergradient(fit_fn, rate, mode=mode))


def by_hand(steps):
    """Return the same function with optax: a scan of steps, each under `jax.checkpoint`."""
    params, train, valid = problem()

    def fit_fn(rate):
        opt = optax.sgd(rate, momentum=0.9)

        @jax.checkpoint
        def step(carry, _):
            params, state = carry
            updates, state = opt.update(jax.grad(loss_fn)(params, train), state, params)
            return (optax.apply_updates(params, updates), state), None

        carry, _ = jax.lax.scan(step, (params, opt.init(params)), length=steps)
        return loss_fn(carry[0], valid)

    return jax.jit(jax.value_and_grad(fit_fn))


def hypergradient(options):
    """Time and peak memory of d(validation loss)/d(learning rate), compared with optax by hand."""
    rate = jnp.float32(1e-2)  # with Adam, rounding errors would grow to several percent
    for steps in (20,) if options.quick else (100, 400, 1600):
        calls = {
            "reverse": ours(steps, "reverse"),
            "auto": ours(steps, "auto"),  # forward, for a single number
            "optax": by_hand(steps),
        }
        calls = {k: call.lower(rate).compile() for k, call in calls.items()}
        found = {k: jax.device_get(call(rate)) for k, call in calls.items()}
        for side in ("reverse", "auto"):
            must_agree(found[side], found["optax"], rtol=1e-2)
        peak = {k: c.memory_analysis().temp_size_in_bytes / 1e6 for k, c in calls.items()}
        sides = {k: lambda call=call: call(rate) for k, call in calls.items()}
        times = interleaved(sides, min(options.repeats, 5))
        title = f"d(validation loss)/d(rate), {steps} steps of SGD"
        peer = "optax + jax.checkpoint"
        yield Row(title, times["auto"], peer, times["optax"], 1.0)
        yield Row(f"{title}, in reverse", times["reverse"], peer, times["optax"], 0.67)
        at = f"peak memory of {title}"
        yield Row(at, peak["auto"], peer, peak["optax"], 1.0, unit="MB")
        yield Row(f"{at}, in reverse", peak["reverse"], peer, peak["optax"], 1.0, unit="MB")


WORKLOADS = {"hypergradient": hypergradient}
