"""Fit curves to real data with Levenberg-Marquardt, compare with SciPy, and fit 500 resamples.

The sum of two bell curves is fitted to a histogram of the mean radii of scikit-learn's 569 breast
cancer samples. Without using the labels it finds the benign and the malignant samples. To estimate
the uncertainty, 500 resampled data sets are fitted in one vmapped program. The figure is saved in
examples/output/.

Run: python examples/curve_fit.py [--quick]
"""

import argparse
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import scipy.optimize
from jax.flatten_util import ravel_pytree
from sklearn.datasets import load_breast_cancer
from tabulate import tabulate

import gdjax

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  (after the backend is chosen)

jax.config.update("jax_enable_x64", True)
OUTPUT = Path(__file__).parent / "output"
EDGES = np.linspace(6, 29, 47)
MIDDLES = jnp.asarray((EDGES[1:] + EDGES[:-1]) / 2)
START = {"height": jnp.array([50.0, 20.0]), "centre": jnp.array([11.0, 18.0]), "width": jnp.ones(2)}


def curves(params):
    """Return the two bell curves, (2, bins)."""
    z = (MIDDLES[None] - params["centre"][:, None]) / params["width"][:, None]
    return params["height"][:, None] * jnp.exp(-0.5 * z**2)


def residual_fn(params, counts):
    """Return the sum of the curves minus the counts."""
    return curves(params).sum(0) - counts


def fit(counts):
    """Return the fit to one histogram."""
    return gdjax.least_squares(residual_fn, START, args=(counts,), tol=1e-10)


def main():
    """Fit, compare with SciPy, resample, and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few resamples, as a quick check")
    samples = 20 if parser.parse_args().quick else 500
    OUTPUT.mkdir(exist_ok=True)
    data = load_breast_cancer()
    radius, benign = data.data[:, 0], data.target == 1
    counts = jnp.asarray(np.histogram(radius, EDGES)[0], float)

    ours = fit(counts)
    flat, unravel = ravel_pytree(START)
    theirs = scipy.optimize.least_squares(
        lambda x: np.asarray(residual_fn(unravel(x), counts)), np.asarray(flat), method="lm"
    )
    peer = unravel(theirs.x)
    rows = [
        (f"{name} {i + 1}", float(ours.params[name][i]), float(peer[name][i]))
        for name in START
        for i in range(2)
    ]
    rows.append(("half the sum of squares", float(ours.value), theirs.cost))
    rows.append(("evaluations of the residuals", int(ours.evaluations), theirs.nfev))
    print(tabulate(rows, ["", "gdjax", "SciPy"], floatfmt=".6f"))
    assert ours.converged
    np.testing.assert_allclose(ours.value, theirs.cost, rtol=1e-7)

    rng = np.random.default_rng(0)
    resampled = [np.histogram(rng.choice(radius, radius.size), EDGES)[0] for _ in range(samples)]
    fits = jax.jit(jax.vmap(fit))
    fits(jnp.asarray(resampled, float))  # compiles
    start = time.perf_counter()
    many = jax.block_until_ready(fits(jnp.asarray(resampled, float)))
    seconds = time.perf_counter() - start
    good = np.asarray(many.converged)
    print(f"\n{good.sum()} of {samples} resampled fits converged, all in {1e3 * seconds:.0f} ms")
    centres = np.asarray(many.params["centre"])[good]
    low, high = np.percentile(centres, [2.5, 97.5], axis=0)
    for i, kind in enumerate(("benign", "malignant")):
        middle = np.median(radius[benign == (kind == "benign")])
        print(
            f"centre {i + 1}: {float(ours.params['centre'][i]):.2f}, 95 % between {low[i]:.2f} and "
            f"{high[i]:.2f}; the median of the {kind} ones is {middle:.2f}"
        )

    fig = plt.figure(layout="constrained")
    ax = fig.add_subplot()
    ax.hist(radius[benign], EDGES, alpha=0.3, label="benign (labels not used)")
    ax.hist(radius[~benign], EDGES, alpha=0.3, label="malignant")
    sums = np.asarray(jax.vmap(curves)(many.params).sum(1))[good]
    band = np.percentile(sums, [2.5, 97.5], axis=0)
    ax.fill_between(MIDDLES, *band, color="black", alpha=0.15, label="95 % of resampled fits")
    ax.plot(MIDDLES, curves(ours.params).sum(0), color="black", label="fit")
    ax.plot(MIDDLES, curves(ours.params).T, "--", color="black", linewidth=0.8)
    ax.set(xlabel="mean radius", ylabel="samples per bin")
    ax.legend()
    fig.savefig(OUTPUT / "curve_fit.png", dpi=120)
    print(f"\nFigure: examples/{OUTPUT.name}/curve_fit.png")


if __name__ == "__main__":
    main()
