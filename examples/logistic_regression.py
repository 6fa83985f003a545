"""Logistic regression on real data to full precision: one fit, then a path of penalties at once.

L-BFGS against scikit-learn on the breast cancer data; then 40 penalties as one vmapped program, and
the accuracy on held-out data. Leaves a picture in examples/output/.

Run: python examples/logistic_regression.py [--quick]
"""

import argparse
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

import gdjax

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  (after the backend is chosen)

jax.config.update("jax_enable_x64", True)
OUTPUT = Path(__file__).parent / "output"


def load():
    """Return ((train x, y), (held-out x, y)): standardized features (n, 30), labels -1 and 1."""
    x, y = load_breast_cancer(return_X_y=True)
    split = train_test_split(x, 2.0 * y - 1, test_size=0.3, random_state=0, stratify=y)
    mean, std = split[0].mean(0), split[0].std(0)
    train_x, test_x = ((part - mean) / std for part in split[:2])
    return (train_x, split[2]), (test_x, split[3])


def loss_fn(params, penalty, data):
    """Return the mean logistic loss plus penalty / 2 |w|^2; the intercept is free."""
    x, y = data
    margin = y * (x @ params["w"] + params["b"])
    return jnp.mean(jax.nn.softplus(-margin)) + 0.5 * penalty * jnp.sum(params["w"] ** 2)


def fit(penalty, data):
    """Return the minimum, from zero."""
    params = {"w": jnp.zeros(30), "b": jnp.zeros(())}
    return gdjax.minimize(loss_fn, params, gdjax.lbfgs(), args=(penalty, data), tol=1e-10)


def accuracy(params, data):
    """Return the share of examples on the right side."""
    x, y = data
    return jnp.mean(y * (x @ params["w"] + params["b"]) > 0)


def main(quick=False):
    """Fit once, compare, then fit a path."""
    train, held_out = load()
    penalty = 1e-2
    result = fit(penalty, train)
    reference = LogisticRegression(C=1 / (penalty * len(train[1])), tol=1e-12, max_iter=10_000)
    reference.fit(*train)
    apart = np.abs(result.params["w"] - reference.coef_[0]).max()
    status = gdjax.Status(int(result.status)).name
    print(f"one fit: {status} after {result.steps} steps, {result.evaluations} evaluations")
    print(f"largest difference to scikit-learn's weights: {apart:.1e}")
    assert apart < 1e-6

    penalties = jnp.logspace(-6, 1, 5 if quick else 40)
    path = jax.jit(jax.vmap(fit, in_axes=(0, None)))
    jax.block_until_ready(path(penalties, train))
    start = time.perf_counter()
    fits = jax.block_until_ready(path(penalties, train))
    print(f"{len(penalties)} penalties at once: {1e3 * (time.perf_counter() - start):.0f} ms")
    scores = {
        "training": jax.vmap(accuracy, in_axes=(0, None))(fits.params, train),
        "held out": jax.vmap(accuracy, in_axes=(0, None))(fits.params, held_out),
    }
    best = int(jnp.argmax(scores["held out"]))
    print(f"best penalty: {penalties[best]:.2g}, accuracy {scores['held out'][best]:.3f}")

    _, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    left.semilogx(penalties, fits.params["w"], linewidth=1)
    left.set(xlabel="penalty", ylabel="weights", title="one line for each feature")
    for name, values in scores.items():
        right.semilogx(penalties, values, label=name)
    right.set(xlabel="penalty", ylabel="accuracy")
    right.legend()
    OUTPUT.mkdir(exist_ok=True)
    left.figure.savefig(OUTPUT / "logistic_regression.png", dpi=150)
    print(f"wrote {OUTPUT.name}/logistic_regression.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a short look")
    main(**vars(parser.parse_args()))
