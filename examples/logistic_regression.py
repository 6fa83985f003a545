"""Logistic regression for many penalties
======================================

The data are 30 features of 569 tumours, malignant or benign (scikit-learn's ``breast_cancer``).
`gdjax.minimize` runs L-BFGS to convergence for all penalties under ``vmap``; lanes that have
converged do not change. One fit is compared with scikit-learn's.

Run: ``python examples/logistic_regression.py [--quick]``; the figure is saved in
``examples/output/``.
"""

import argparse
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression

import gdjax

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

OUTPUT = Path(sys.argv[0]).parent / "output"


def data():
    """Return standardized features and labels 0 or 1."""
    features, labels = load_breast_cancer(return_X_y=True)
    return (features - features.mean(0)) / features.std(0), labels.astype(float)


def objective(params, penalty, features, labels):
    """Return the summed cross-entropy and an L2 penalty on the weights, not on the bias."""
    logits = features @ params["weights"] + params["bias"]
    losses = jnp.logaddexp(0, logits) - labels * logits
    return jnp.sum(losses) + 0.5 * penalty * jnp.sum(params["weights"] ** 2)


def fit(penalty, features, labels):
    """Return the minimum for one penalty."""
    start = {"weights": jnp.zeros(features.shape[1]), "bias": jnp.zeros(())}
    args = (penalty, features, labels)
    return gdjax.minimize(objective, start, gdjax.lbfgs(), args=args, tol=1e-8, max_steps=2000)


def main():
    """Fit, compare and plot."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer penalties")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    features, labels = map(jnp.asarray, data())

    ours = fit(1.0, features, labels)
    peer = LogisticRegression(C=1.0, solver="newton-cholesky", tol=1e-10)
    peer.fit(np.asarray(features), np.asarray(labels))
    apart = float(jnp.max(jnp.abs(ours.params["weights"] - peer.coef_[0])))
    print(f"one fit: {int(ours.steps)} steps, {int(ours.evaluations)} evaluations")
    print(f"largest difference of a weight from scikit-learn's: {apart:.1e}")
    assert ours.converged and apart < 1e-6

    penalties = jnp.logspace(-1, 4, 8 if options.quick else 60)
    path = jax.jit(jax.vmap(fit, in_axes=(0, None, None)))(penalties, features, labels)
    print(f"{len(penalties)} penalties in one call: all converged: {bool(path.converged.all())},")
    print(f"from {int(path.steps.min())} to {int(path.steps.max())} steps")

    OUTPUT.mkdir(exist_ok=True)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    left.plot(penalties, path.params["weights"], linewidth=1)
    left.set(xscale="log", xlabel="penalty", ylabel="weight", title="30 weights")
    right.plot(penalties, path.steps, label="steps")
    right.plot(penalties, path.evaluations, label="evaluations")
    right.set(xscale="log", xlabel="penalty", title="to convergence")
    right.legend()
    figure.savefig(OUTPUT / "logistic_regression.png", dpi=150)


# %%
# The result
# ----------
#
# Left, stronger penalties shrink the weights. Right, the number of steps depends on the penalty;
# each lane of the program stops on its own.

if __name__ == "__main__":
    main()
