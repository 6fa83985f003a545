"""A lasso path in one program
===========================

FISTA runs for all penalties on scikit-learn's diabetes data, each lane until its optimality
conditions hold, and must find scikit-learn's weights. Then the penalty is tuned by gradient descent
on the validation loss, with implicit differentiation of the solution.

Run: ``python examples/lasso_path.py [--quick]``; the figure is saved in ``examples/output/``.
"""

import argparse
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.linear_model import lasso_path

import gdjax

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  (after the backend is chosen)

jax.config.update("jax_enable_x64", True)
OUTPUT = Path(sys.argv[0]).parent / "output"


def load():
    """Return standardized features (442, 10), targets (442,), and the features' names."""
    data = load_diabetes()
    x, y = data.data, data.target
    return (x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std(), data.feature_names


def smooth(w, x, y):
    """Return half the mean squared error."""
    return 0.5 * jnp.mean((x @ w - y) ** 2)


def lasso(strength, x, y):
    """Return argmin smooth(w) + strength |w|_1, differentiable in all three."""
    opt = gdjax.fista(gdjax.proximal.prox_lasso, reg=strength)
    return gdjax.minimize(
        smooth,
        jnp.zeros(x.shape[1]),
        opt,
        args=(x, y),
        tol=1e-10,
        max_steps=5000,
        implicit_diff=True,
    )


def main():
    """Compute the path, compare it, tune the penalty, and plot."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a coarse path, as a quick check")
    quick = parser.parse_args().quick
    OUTPUT.mkdir(exist_ok=True)
    x, y, names = load()
    strengths = np.logspace(-3.5, 0, 10 if quick else 100)[::-1] * np.abs(x.T @ y).max() / len(y)
    _, peer, _ = lasso_path(x, y, alphas=strengths, tol=1e-12, max_iter=10**6)

    path = jax.jit(jax.vmap(lasso, (0, None, None)))
    args = (jnp.asarray(strengths), jnp.asarray(x), jnp.asarray(y))
    path(*args)  # compiles
    start = time.perf_counter()
    result = jax.block_until_ready(path(*args))
    seconds = time.perf_counter() - start
    difference = float(np.abs(result.params.T - peer).max())
    same = int(((result.params.T == 0) == (peer == 0)).all(0).sum())
    print(
        f"{strengths.size} penalties in {1e3 * seconds:.0f} ms, {int(result.steps.max())} steps at "
        f"most; all converged: {bool(result.converged.all())}; largest difference to scikit-learn: "
        f"{difference:.1e}; same zeros for {same} of them"
    )
    assert result.converged.all() and difference < 1e-6

    train, held_out = slice(0, 300), slice(300, None)

    def validation(log_strength):
        w = lasso(jnp.exp(log_strength), args[1][train], args[2][train]).params
        return jnp.mean((args[1][held_out] @ w - args[2][held_out]) ** 2)

    step = jax.jit(jax.value_and_grad(validation))
    log_strength, seen = jnp.log(0.2), []
    for _ in range(5 if quick else 30):
        loss, slope = step(log_strength)
        seen.append((float(jnp.exp(log_strength)), float(loss)))
        log_strength = log_strength - 10.0 * slope
    at, h = jnp.log(0.1), 1e-4
    numeric = (validation(at + h) - validation(at - h)) / (2 * h)
    exact = float(step(at)[1])
    print(f"derivative of the validation loss: {exact:.8f}, by differences {float(numeric):.8f}")
    print(
        f"penalty {seen[0][0]:.3f} -> {seen[-1][0]:.4f}, loss {seen[0][1]:.4f} -> {seen[-1][1]:.4f}"
    )

    losses = jax.jit(jax.vmap(validation))(jnp.log(args[0]))
    fig, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    left.plot(strengths, result.params, label=names)
    left.plot(strengths, peer.T, "k:", linewidth=0.8)
    left.set(xscale="log", xlabel="penalty", ylabel="weight (dotted: scikit-learn)")
    left.legend(fontsize=7)
    right.plot(strengths, losses, color="grey", label="all penalties, one program")
    right.plot(*np.array(seen).T, "o-", markersize=4, label="descent on the penalty")
    right.set(xscale="log", xlabel="penalty", ylabel="mean squared error, held out")
    right.legend()
    fig.savefig(OUTPUT / "lasso_path.png", dpi=120)
    print(f"\nFigure: examples/{OUTPUT.name}/lasso_path.png")


# %%
# The result
# ----------
#
# Left, the dotted lines of scikit-learn lie on ours. Right, descent on the penalty goes down the
# grey curve, which it does not know, to its lowest part.

if __name__ == "__main__":
    main()
