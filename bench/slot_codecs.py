"""Train the language model of language_model.py with AdamW's state in few bits.

Each storage of the state trains the same transformer from the same initialization, for several
orders of the batches; the losses of float32 state for the same orders are what it is compared with.
The text is that of language_model.py, the last tenth is held out.

"4-bit" is not part of gdjax; it is simulated: after each step, the moments are rounded as Li et al.
(2023), https://arxiv.org/abs/2309.01507, store them, means in a dynamic code with a scale for each
128 elements, mean squares in a linear code without zero with scales of rows and columns.

Prints a table: bytes of state per parameter, held-out loss in bits per byte and training loss (mean
over the last tenth), means over orders, and their largest difference from float32 in percent.

Run: python bench/slot_codecs.py [--steps N] [--orders N] [--only NAME ...] [--json FILE]
"""

import argparse
import json
import math
import time

import jax
import jax.numpy as jnp
import numpy as np
from language_model import BATCH, init, loss_fn, windows
from tabulate import tabulate

import gdjax

EMBEDDINGS = gdjax.by_path({r"embed|position": False, r".*": True})


def four_bits(optimizer):
    """Return an optimizer whose moments are rounded to what 4 bits hold, in float32."""
    # signed dynamic code of 4 bits: decades of 1, 2 and 4 levels, 0, and 1 only for positive ones
    half = [10.0 ** (i - 2) * (0.1 + 0.9 * (j + 0.5) / 2**i) for i in range(3) for j in range(2**i)]
    levels = jnp.asarray(sorted([-x for x in half] + [0.0, 1.0] + half), jnp.float32)
    middles = (levels[1:] + levels[:-1]) / 2

    def mean(x):
        rows = jnp.pad(x.ravel(), (0, -x.size % 128)).reshape(-1, 128)
        scale = jnp.max(jnp.abs(rows), 1, keepdims=True)
        unit = rows / jnp.where(scale == 0, 1, scale)
        place = jnp.sum(unit[..., None] > middles, -1)
        return (levels[place] * scale).ravel()[: x.size].reshape(x.shape)

    def square(x):
        rows, columns = jnp.max(x, -1, keepdims=True), jnp.max(x, -2, keepdims=True)
        scale = jnp.minimum(rows, columns)
        unit = x / jnp.where(scale == 0, 1, scale)
        return jnp.clip(jnp.round(unit * 16), 1, 16) / 16 * scale

    def update(grads, state, params=None, **extra):
        updates, state = optimizer.update(grads, state, params, **extra)
        mu, nu = jax.tree.map(mean, state.mu), jax.tree.map(square, state.nu)
        return updates, state._replace(slots=state.slots._replace(mu=mu, nu=nu))

    return gdjax.Optimizer(optimizer.init, update)


def storages():
    """Return name -> function from AdamW to AdamW with its state in this storage."""

    def stored(**how):
        return lambda optimizer: gdjax.with_slot_dtypes(optimizer, **how)

    return {
        "float32": lambda optimizer: optimizer,
        "int8, uint8": stored(mu="int8", nu="uint8"),
        "int8, uint8, embeddings float32": stored(mu="int8", nu="uint8", mask=EMBEDDINGS),
        "int8, uint8, bfloat16 scales": stored(mu="int8", nu="uint8", scale_dtype="bfloat16"),
        "float8_e4m3fn, uint8": stored(mu="float8_e4m3fn", nu="uint8"),
        "float8_e4m3fn, float8_e5m2": stored(mu="float8_e4m3fn", nu="float8_e5m2"),
        "bfloat16, bfloat16_stochastic": stored(mu="bfloat16", nu="bfloat16_stochastic"),
        "4-bit, simulated": four_bits,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--orders", type=int, default=3)
    parser.add_argument("--only", nargs="+", help="storages to run; float32 always runs")
    parser.add_argument("--json", help="write the table to this file")
    options = parser.parse_args()
    train, held_out = windows()
    params = init(jax.random.key(0))
    rate = gdjax.warmup_cosine_decay_schedule(
        0.0, 4e-3, options.steps // 20, options.steps, end_value=4e-4
    )
    evaluate = jax.jit(loss_fn)
    rows, of_float32 = [], None
    for name, stored in storages().items():
        if options.only and name not in {"float32", *options.only}:
            continue
        start, losses = time.perf_counter(), []
        optimizer = stored(gdjax.adamw(rate, b2=0.99, weight_decay=0.1))
        for order in range(options.orders):
            result = gdjax.fit(
                loss_fn,
                params,
                optimizer,
                train,
                batch_size=BATCH,
                steps=options.steps,
                key=jax.random.key(order),
            )
            held = float(evaluate(result.params, jnp.asarray(held_out))) / math.log(2)
            losses.append([held, np.mean(result.history["loss"][-options.steps // 10 :])])
        losses = np.array(losses)
        of_float32 = losses if of_float32 is None else of_float32
        slots = optimizer.init(params).slots
        size = sum(x.nbytes for x in jax.tree.leaves(slots)) / sum(
            x.size for x in jax.tree.leaves(params)
        )
        if name.startswith("4-bit"):
            size = 2 * (0.5 + 4 / 128)
        change = 100 * (losses.mean(0) / of_float32.mean(0) - 1)
        worst = 100 * np.max(np.abs(losses / of_float32 - 1))
        rows.append([name, size, *losses.mean(0), *change, worst, time.perf_counter() - start])
        print(*rows[-1], flush=True)
    header = ["state", "bytes", "held out", "training", "held out %", "training %", "worst %", "s"]
    print(f"\n{options.steps} steps of {BATCH} x 64 bytes, {options.orders} orders of the batches")
    print(tabulate(rows, header, tablefmt="github", floatfmt=".4g"))
    if options.json:
        with open(options.json, "w") as file:
            json.dump([dict(zip(header, row, strict=True)) for row in rows], file, indent=1)


if __name__ == "__main__":
    main()
