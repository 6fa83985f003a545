"""Train the language model of `language_model.py` with parameters of bfloat16 and of float32.

In bfloat16 everything that the model computes is bfloat16, too, from the embedding to the logits;
the loss is float32. All runs have the same start, batches and schedule of AdamW, and learning rates
of their own; the best one counts.

Prints a table: held-out loss in bits per byte, its difference from float32's, the mean training
loss of the last tenth of the steps, the learning rate, and bytes per parameter, in parameters and
in the state.

Run: python bench/low_precision.py [--steps N] [--rates R ...] [--json FILE] [--quick]
"""

import argparse
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
from language_model import BATCH, CONTEXT, init, loss_fn, windows
from tabulate import tabulate

import gdjax

WAYS = {
    "float32": lambda opt: opt,
    "bfloat16": lambda opt: opt,
    "with_stochastic_rounding": lambda opt: gdjax.with_stochastic_rounding(opt, 2),
    "with_kahan": gdjax.with_kahan,
    "with_master_weights": gdjax.with_master_weights,
}


def low_loss(params, batch):
    """Return the loss as float32, which the model computes in the dtype of its parameters."""
    return loss_fn(params, batch).astype(jnp.float32)


def bytes_of(tree):
    return sum(x.nbytes for x in jax.tree.leaves(tree))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--rates", type=float, nargs="+", default=[2e-3, 4e-3])
    parser.add_argument("--json", help="write the table to this file")
    parser.add_argument("--quick", action="store_true", help="a few steps, as a quick check")
    options = parser.parse_args()
    steps = 20 if options.quick else options.steps
    train, held_out = windows()
    single = init(jax.random.key(0))
    low = jax.tree.map(lambda x: x.astype(jnp.bfloat16), single)
    evaluate = jax.jit(loss_fn)
    rows, target = [], None
    for name, wrap in WAYS.items():
        params, best = single if name == "float32" else low, None
        for rate in options.rates:
            schedule = gdjax.warmup_cosine_decay_schedule(0.0, rate, steps // 20, steps, 0.1 * rate)
            opt = wrap(gdjax.adamw(schedule, b2=0.99, weight_decay=0.1))
            result = gdjax.fit(
                low_loss, params, opt, train, batch_size=BATCH, steps=steps, key=jax.random.key(1)
            )
            weights = jax.tree.map(lambda x: x.astype(jnp.float32), result.params)
            bits = float(evaluate(weights, jnp.asarray(held_out))) / math.log(2)
            last = float(np.mean(result.history["loss"][-steps // 10 :]))
            each = sum(x.size for x in jax.tree.leaves(params))
            size = [bytes_of(tree) / each for tree in (params, opt.init(params))]
            best = min(best or [math.inf], [bits, last, rate, *size])
        target = target or best[0]
        rows.append([name, best[0], 100 * (best[0] / target - 1), *best[1:]])
        print(*rows[-1], flush=True)
    header = ["parameters", "bits per byte", "%", "training loss", "learning rate"]
    header += ["bytes of a parameter", "of its state"]
    print(f"\n{steps} steps of {BATCH} x {CONTEXT} bytes, AdamW")
    print(tabulate(rows, header, tablefmt="github", floatfmt=".4g"))
    if options.json:
        with open(options.json, "w") as file:
            json.dump([dict(zip(header, row, strict=True)) for row in rows], file, indent=1)


if __name__ == "__main__":
    main()
