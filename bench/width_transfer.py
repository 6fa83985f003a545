"""The best learning rate over the width, with and without `gdjax.width_scaling`.

A network 64 -> width -> width -> 10 takes 40 steps on batches of 64 of scikit-learn's digits. For
each rate of a grid, the score is the mean logarithm of the loss over the last 20 steps, averaged
over four seeds; the best rate is at the vertex of the parabola through the
scores around the least one. "standard" is one rate for all parameters, with initial sizes of
fan_in**-0.5; "scaled" is the maximal update parametrization with the base width 64. For
"default", `gdjax.default_optimizer`, the two are without and with its own factors for the width.

Run: python bench/width_transfer.py [--widths 64 128 ...] [--only adam ...]
Results are added to bench/results/scaling/width_transfer.json, and printed as a table.
"""

import argparse
import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits

import gdjax

RESULTS = Path(__file__).parent / "results" / "scaling" / "width_transfer.json"
BASE, STEPS, BATCH, SEEDS = 64, 40, 64, 4


# name -> factory, the lowest and the highest rate, the widths that a CPU can do
OPTIMIZERS = {
    "adam": (gdjax.adam, 5e-4, 0.13, (64, 128, 256, 512, 1024)),
    "sgd": (functools.partial(gdjax.sgd, momentum=0.9), 1e-3, 3.0, (64, 128, 256, 512, 1024)),
    "muon": (gdjax.muon, 5e-4, 0.5, (64, 128, 256, 512)),
    "shampoo": (
        functools.partial(gdjax.shampoo, graft=None, precondition_frequency=1, merge_dims=False),
        5e-4,
        0.5,
        (64, 128, 256, 512),
    ),
    "default": (
        functools.partial(gdjax.default_optimizer, steps=40),
        1e-3,
        0.26,
        (64, 128, 256, 512),
    ),
}
WITHOUT = {"default": dict(base_width=1e9)}  # what turns off the optimizer's own factors


@functools.cache
def data():
    digits = load_digits()
    x = (digits.data - digits.data.mean(0)) / digits.data.std()
    return jnp.asarray(x, jnp.float32), jnp.asarray(digits.target)


def model(width):
    return gdjax.models.mlp([64, width, width, 10], bias_scale=0.0)


def score(width, factory, rates, scaled, seed):
    """Return the mean logarithm of the loss for each rate."""
    x, y = data()
    batches = jax.random.randint(jax.random.key(200 + seed), (STEPS, BATCH), 0, len(x))
    params = model(width).init(jax.random.key(100 + seed))
    if scaled:
        base = model(BASE).init(jax.random.key(seed))
        wide = jax.eval_shape(model(2 * BASE).init, jax.random.key(seed))
        scaling = gdjax.width_scaling(params, base, wide)
        params, factory = scaling.init(params, base), scaling.scaled(factory)

    def loss_fn(params, rows):
        logits = model(width).apply(params, x[rows])
        return gdjax.softmax_cross_entropy_with_integer_labels(logits, y[rows]).mean()

    def train(rate):
        opt = factory(learning_rate=rate)

        def step(carry, rows):
            params, state = carry
            loss, grads = jax.value_and_grad(loss_fn)(params, rows)
            updates, state = opt.update(grads, state, params)
            return (gdjax.apply_updates(params, updates), state), loss

        _, losses = jax.lax.scan(step, (params, opt.init(params)), batches)
        return jnp.log(losses[STEPS // 2 :]).mean()

    scores = np.asarray(jax.jit(lambda rates: jax.lax.map(train, rates))(jnp.asarray(rates)))
    return np.where(np.isfinite(scores), scores, 10.0)


def best_rate(rates, scores):
    i = int(np.argmin(scores))
    near = slice(max(i - 2, 0), i + 3)
    a, b, _ = np.polyfit(np.log(rates[near]), scores[near], 2)
    inside = a > 0 and rates[near][0] <= np.exp(-b / (2 * a)) <= rates[near][-1]
    return float(np.exp(-b / (2 * a)) if inside else rates[i])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--widths", type=int, nargs="+")
    parser.add_argument("--only", nargs="+", default=list(OPTIMIZERS), choices=list(OPTIMIZERS))
    args = parser.parse_args()
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in args.only:
        factory, low, high, widths = OPTIMIZERS[name]
        rates = np.geomspace(low, high, 1 + round(2 * np.log2(high / low)))
        for scaled in (True, False):
            for width in args.widths or widths:
                make, by_helper = factory, scaled and name not in WITHOUT
                if not scaled:
                    make = functools.partial(factory, **WITHOUT.get(name, {}))
                rows = [score(width, make, rates, by_helper, seed) for seed in range(SEEDS)]
                mean = np.mean(rows, 0)
                row = dict(best=best_rate(rates, mean), score=float(mean.min()))
                kind = found.setdefault(name, {}).setdefault("scaled" if scaled else "standard", {})
                kind[str(width)] = {k: round(v, 6) for k, v in row.items()}
                RESULTS.parent.mkdir(exist_ok=True)
                RESULTS.write_text(json.dumps(found, indent=1) + "\n")
                print(name, "scaled" if scaled else "standard", width, row, flush=True)
    for name, kinds in found.items():
        for kind, rows in kinds.items():
            base = rows[str(BASE)]["best"]
            print(name, kind, *(f"{w}: {r['best'] / base:.2f}" for w, r in rows.items()), sep="  ")


if __name__ == "__main__":
    main()
