"""Sweeps including compilation, compared with optax in a Python loop and by hand."""

import statistics

import jax
import jax.numpy as jnp
import numpy as np
import optax
from harness import Row, must_agree, seconds
from lanes import by_hand
from sklearn.datasets import load_digits

import gdjax

model = gdjax.models.mlp((64, 128, 10))


def loss_fn(params, batch):
    images, labels = batch
    logits = model.apply(params, images)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def sweep(options):
    """32 learning rates of Adam on digits, 300 steps of 64 images, including compilation."""
    images, labels = load_digits(return_X_y=True)
    data = jnp.asarray(images / 16, jnp.float32), jnp.asarray(labels, jnp.int32)
    data = jax.tree.map(lambda x: x[:64], data)  # one mini-batch, the same for both sides
    params = model.init(jax.random.key(0))
    rates, steps = np.logspace(-4, -2, 32).astype(np.float32), 30 if options.quick else 300

    def ours():
        space = {"learning_rate": rates}
        return gdjax.sweep(loss_fn, params, gdjax.adam, space, data, steps=steps).history["loss"]

    def python_loop():
        losses = []
        for rate in rates:  # a new learning rate compiles a new program
            opt = optax.adam(float(rate))

            @jax.jit
            def step(p, s, opt=opt):
                loss, grads = jax.value_and_grad(loss_fn)(p, data)
                updates, s = opt.update(grads, s, p)
                return optax.apply_updates(p, updates), s, loss

            p, s, run = params, opt.init(params), []
            for _ in range(steps):
                p, s, loss = step(p, s)
                run.append(loss)
            losses.append(jnp.stack(run))
        return jnp.stack(losses)

    def hand():
        return by_hand(loss_fn, params, data, steps)(jnp.asarray(rates))

    def cold(function):  # includes compilation, since caches are cleared
        jax.clear_caches()
        return seconds(function)

    times = {"ours": [], "hand": []}
    for _ in range(3):
        t, losses = cold(ours)
        times["ours"].append(t)
        t, expected = cold(hand)
        times["hand"].append(t)
    must_agree(losses, expected, rtol=2e-2, atol=2e-3)
    loop, _ = cold(python_loop)
    mine = statistics.median(times["ours"])
    name = f"sweep of 32 rates, {steps} steps, with compile"
    yield Row(name, mine, "optax, Python loop over rates", loop, 12.0)
    yield Row(name, mine, "optax, vmap + scan by hand", statistics.median(times["hand"]), 1 / 1.1)


WORKLOADS = {"sweep": sweep}
