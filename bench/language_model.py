"""Compare optimizers on a small byte-level language model of real text, with the same budget.

Every optimizer trains the same transformer, with the same initialization and batches, at several
learning rates (one program with `gdjax.sweep`); the best one counts. The text is the documentation
of Python, 465 thousand bytes; the last tenth is held out.

Prints a table: held-out loss in bits per byte, steps to the target (the mean loss of tuned AdamW
over its last tenth), the learning rate, and seconds for the whole sweep.

Run: python bench/language_model.py [--only NAME ...] [--steps N] [--json FILE] [--quick]
"""

import argparse
import json
import math
from pydoc_data.topics import topics

import jax
import jax.numpy as jnp
import numpy as np
from tabulate import tabulate

import gdjax

WIDTH, HEADS, LAYERS, CONTEXT, BATCH = 64, 4, 2, 64, 8
RATES = np.array([0.25, 0.5, 1.0, 2.0, 4.0, 8.0])  # times the middle one
HIDDEN = {r"layers.*": gdjax.MuonDimensionNumbers(1, 2), r".*": None}


def windows():
    """Return windows of bytes for training and for evaluation, each [n, CONTEXT + 1]."""
    text = "".join(topics[k] for k in sorted(topics)).encode()
    data = np.frombuffer(text, np.uint8).astype(np.int32)
    data = data[: len(data) // (CONTEXT + 1) * (CONTEXT + 1)].reshape(-1, CONTEXT + 1)
    cut = len(data) * 9 // 10
    return data[:cut], data[cut:]


def init(key):
    """Return the parameters; all layers are stacked."""
    shapes = {"qkv": (WIDTH, 3 * WIDTH), "out": (WIDTH, WIDTH)}
    shapes |= {"up": (WIDTH, 4 * WIDTH), "down": (4 * WIDTH, WIDTH)}
    keys = jax.random.split(key, 7)
    layers = {
        name: jax.random.normal(k, (LAYERS, *shape)) / math.sqrt(shape[0])
        for k, (name, shape) in zip(keys[3:], shapes.items(), strict=True)
    }
    return {
        "embed": 0.02 * jax.random.normal(keys[0], (256, WIDTH)),
        "position": 0.02 * jax.random.normal(keys[1], (CONTEXT, WIDTH)),
        "head": jax.random.normal(keys[2], (WIDTH, 256)) / math.sqrt(WIDTH),
        "layers": layers,
    }


def normed(x):
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6)


def layer(x, weights):
    q, k, v = jnp.split(normed(x) @ weights["qkv"], 3, -1)
    q, k, v = (y.reshape(*y.shape[:-1], HEADS, -1) for y in (normed(q), normed(k), v))
    mixed = jax.nn.dot_product_attention(q, k, v, is_causal=True)
    x = x + mixed.reshape(x.shape) @ weights["out"]
    return x + jax.nn.gelu(normed(x) @ weights["up"]) @ weights["down"], None


def loss_fn(params, batch):
    """Return the mean cross entropy in nats per byte."""
    x = params["embed"][batch[:, :-1]] + params["position"]
    x, _ = jax.lax.scan(layer, x, params["layers"])
    logits = normed(x) @ params["head"]
    return gdjax.softmax_cross_entropy_with_integer_labels(logits, batch[:, 1:]).mean()


def candidates(steps):
    """Return name -> (factory, middle learning rate); all use the same schedule."""

    def scheduled(rate):
        return gdjax.warmup_cosine_decay_schedule(0.0, rate, steps // 20, steps, 0.1 * rate)

    def matrices(name, **more):
        factory = getattr(gdjax, name)
        return lambda rate: factory(
            scheduled(rate),
            muon_weight_dimension_numbers=gdjax.by_path(HIDDEN),
            **more,
        )

    def plain(name, **more):
        return lambda rate: getattr(gdjax, name)(scheduled(rate), **more)

    found = {
        "adamw": (plain("adamw", b2=0.99, weight_decay=0.1), 4e-3),
        "schedule_free_adamw": (
            # it needs no decay of the learning rate
            lambda rate: gdjax.schedule_free_adamw(
                gdjax.warmup_constant_schedule(0.0, rate, steps // 20), b1=0.95, weight_decay=0.1
            ),
            8e-3,
        ),
        "muon": (matrices("muon", consistent_rms=0.2, weight_decay=0.1), 4e-3),
        "normuon": (matrices("normuon", weight_decay=0.1), 4e-3),
        "adamuon": (matrices("adamuon", weight_decay=0.1), 4e-3),
        "soap": (plain("soap", weight_decay=0.1), 4e-3),
        "shampoo": (plain("shampoo", weight_decay=0.1), 4e-3),
    }
    return {name: pair for name, pair in found.items() if hasattr(gdjax, name)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", help="optimizers to run; AdamW always runs")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--json", help="write the table to this file")
    parser.add_argument("--quick", action="store_true", help="a few steps, as a quick check")
    options = parser.parse_args()
    steps = 20 if options.quick else options.steps
    train, held_out = windows()
    params = init(jax.random.key(0))
    rows, target = [], None
    for name, (factory, middle) in candidates(steps).items():
        if options.only and name not in {"adamw", *options.only}:
            continue
        result = gdjax.sweep(
            loss_fn,
            params,
            lambda learning_rate, factory=factory: factory(learning_rate),
            {"learning_rate": np.float32(middle * RATES)},
            train,
            batch_size=BATCH,
            steps=steps,
            key=jax.random.key(1),
        )
        best = result.best()
        weights = gdjax.eval_params(best.state, best.params)
        bits = float(jax.jit(loss_fn)(weights, jnp.asarray(held_out))) / math.log(2)
        smooth = np.convolve(result.history["loss"][best.lane], np.ones(20) / 20, "valid")
        target = best.value if target is None else target
        reached = np.flatnonzero(smooth <= target)
        first = int(reached[0]) + 20 if len(reached) else None
        rows.append([name, bits, first, best.config["learning_rate"], result.seconds])
        print(*rows[-1], flush=True)
    header = ["optimizer", "bits per byte", "steps to target", "learning rate", "seconds"]
    print(f"\n{steps} steps of {BATCH} x {CONTEXT} bytes, {len(RATES)} learning rates each")
    print(tabulate(rows, header, tablefmt="github", floatfmt=".3g"))
    if options.json:
        with open(options.json, "w") as file:
            json.dump([dict(zip(header, row, strict=True)) for row in rows], file, indent=1)


if __name__ == "__main__":
    main()
