"""One training run by `fit`, compared with a donated scan by hand and with a loop over steps."""

import functools

import jax
import jax.numpy as jnp
import optax
from harness import Row, interleaved, must_agree
from sklearn.datasets import load_digits

import gdjax

SIZES = ((128, 64, 1000), (512, 64, 500), (1024, 256, 100))  # hidden units, images, steps


def rows_of_epochs(key, steps, examples, batch_size):
    """Return the examples of each step, (steps, batch_size), as `fit` draws them."""
    per_epoch = examples // batch_size

    def epoch(number):
        order = jax.random.permutation(jax.random.fold_in(key, number), examples)
        return order[: per_epoch * batch_size].reshape(per_epoch, batch_size)

    return jax.lax.map(epoch, jnp.arange(-(-steps // per_epoch))).reshape(-1, batch_size)[:steps]


def fit(options):
    """Adam on an MLP on digits, shuffled batches, without compilation."""
    images, labels = load_digits(return_X_y=True)
    data = jnp.asarray(images / 16, jnp.float32), jnp.asarray(labels, jnp.int32)
    for hidden, batch_size, steps in SIZES:
        steps = 20 if options.quick else steps
        model = gdjax.models.mlp((64, hidden, 10))
        params = model.init(jax.random.key(0))
        theirs = optax.adam(1e-3)

        def loss_fn(params, batch, model=model):
            logits = model.apply(params, batch[0])
            return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()

        def step(params, state, batch, loss_fn=loss_fn, theirs=theirs):
            loss, grads = jax.value_and_grad(loss_fn)(params, batch)
            updates, state = theirs.update(grads, state, params)
            return optax.apply_updates(params, updates), state, loss

        @functools.partial(jax.jit, donate_argnums=(0, 1))
        def scan(params, state, data, key, step=step, steps=steps, batch_size=batch_size):
            def body(carry, rows):
                *carry, loss = step(*carry, jax.tree.map(lambda x: x[rows], data))
                return tuple(carry), loss

            rows = rows_of_epochs(key, steps, len(data[0]), batch_size)
            return jax.lax.scan(body, (params, state), rows)

        def hand(params=params, theirs=theirs, scan=scan):
            copied = jax.tree.map(jnp.copy, params)
            key = jax.random.fold_in(jax.random.key(0), 2**31 - 1)
            (trained, _), losses = scan(copied, theirs.init(copied), data, key)
            return trained, losses

        def ours(params=params, loss_fn=loss_fn, steps=steps, batch_size=batch_size):
            result = gdjax.fit(
                loss_fn, params, gdjax.adam(1e-3), data, batch_size=batch_size, steps=steps
            )
            return result.params, result.history["loss"]

        must_agree(ours()[1], hand()[1], rtol=2e-2, atol=2e-3)
        times = interleaved({"ours": ours, "hand": hand}, 5 if options.quick else 31)
        name = f"fit, MLP of {hidden}, {steps} steps of {batch_size} images"
        yield Row(name, times["ours"], "optax, donated scan by hand", times["hand"], 1 / 1.03)


WORKLOADS = {"fit": fit}
