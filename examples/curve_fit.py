"""Curve fit with uncertainties
============================

The data are NIST's Rat43 (Ratkowsky 1983): the dry weight of onion bulbs and tops over time, with
certified parameters and standard deviations. The program

- compares its fit with them, and with SciPy's ``curve_fit``,
- draws the 95 % band of the curve,
- repeats the fit with two wrong data and a robust loss,
- fits 1000 simulated data sets in one vmapped program, and counts how often the band contains the
  true curve.

Run: ``python examples/curve_fit.py [--quick]``; the figure is saved in ``examples/output/``.
"""

import argparse
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import scipy.optimize
import scipy.stats
from tabulate import tabulate

import gdjax

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  (after the backend is chosen)

jax.config.update("jax_enable_x64", True)
OUTPUT = Path(sys.argv[0]).parent / "output"
TIME = np.arange(1.0, 16.0)
WEIGHT = np.array(
    [16.08, 33.83, 65.8, 97.2, 191.55, 326.2, 386.87, 520.53, 590.03, 651.92, 724.93, 699.56,
     689.96, 637.56, 717.41]
)  # fmt: skip
START = {"final": 700.0, "shift": 5.0, "rate": 0.75, "shape": 1.3}
CERTIFIED = {"final": 699.64, "shift": 5.2771253025, "rate": 0.75962938329, "shape": 1.2792483859}
DEVIATIONS = {
    "final": 16.302297817, "shift": 2.0828735829, "rate": 0.19566123451, "shape": 0.68761936385
}  # fmt: skip


def curve(p, t):
    """Return the generalized logistic curve."""
    return p["final"] / (1 + jnp.exp(p["shift"] - p["rate"] * t)) ** (1 / p["shape"])


def residual_fn(p, weight):
    """Return the curve minus the data."""
    return curve(p, TIME) - weight


def fit(weight, **more):
    """Return the fit with all parameters >= 0."""
    return gdjax.least_squares(residual_fn, START, args=(weight,), bounds=(0.0, None), **more)


def band(result, t):
    """Return half the width of the 95 % band of the curve, to first order in the parameters."""
    slopes = jax.jacobian(lambda p: curve(p, t))(result.params)
    rows = jnp.stack(jax.tree.leaves(slopes), axis=1)  # in the order of the covariance
    variance = jnp.einsum("ti,ij,tj->t", rows, result.covariance(), rows)
    return scipy.stats.t.ppf(0.975, TIME.size - len(START)) * jnp.sqrt(variance)


def main():
    """Fit, compare, simulate, and draw."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few data sets, as a quick check")
    lanes = 50 if parser.parse_args().quick else 1000
    OUTPUT.mkdir(exist_ok=True)

    ours = fit(WEIGHT)
    assert ours.converged
    errors = ours.standard_errors()
    theirs, covariance = scipy.optimize.curve_fit(
        lambda t, *p: np.asarray(curve(dict(zip(START, p, strict=True)), t)),
        TIME, WEIGHT, list(START.values()),
    )  # fmt: skip
    rows = [
        (name, float(ours.params[name]), float(errors[name]), theirs[i], covariance[i, i] ** 0.5)
        + (CERTIFIED[name], DEVIATIONS[name])
        for i, name in enumerate(START)
    ]
    headers = ["", "gdjax", "±", "SciPy", "±", "NIST", "±"]
    print(tabulate(rows, headers, floatfmt=".5f"))
    np.testing.assert_allclose([row[2] for row in rows], [row[6] for row in rows], rtol=1e-4)

    wrong = WEIGHT.copy()
    wrong[[4, 11]] = 591.55, 399.56  # two misread digits
    plain, robust = fit(wrong), fit(wrong, loss="soft_l1", f_scale=30.0)
    print("\nWith two wrong data the final weight is")
    for name, result in (("least squares", plain), ("soft-L1 loss", robust)):
        error = float(result.standard_errors()["final"])
        print(f"  {name}: {float(result.params['final']):.1f} ± {error:.1f}")

    s = (2 * ours.value / (TIME.size - len(START))) ** 0.5
    noise = np.random.default_rng(0).normal(size=(lanes, TIME.size))
    truth = curve(ours.params, TIME)
    many = jax.jit(jax.vmap(lambda weight: (result := fit(weight), band(result, TIME))))
    simulated = jnp.asarray(truth + s * noise)
    jax.block_until_ready(many(simulated))  # compiles
    start = time.perf_counter()
    results, widths = jax.block_until_ready(many(simulated))
    seconds = time.perf_counter() - start
    good = np.asarray(results.converged)
    curves = jax.vmap(lambda p: curve(p, TIME))(results.params)
    inside = np.mean(np.asarray(jnp.abs(curves - truth) <= widths)[good])
    print(f"\n{good.sum()} of {lanes} simulated data sets converged, all in {1e3 * seconds:.0f} ms")
    print(f"The 95 % bands contain {100 * inside:.1f} % of the curve")

    fig, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    t = np.linspace(0.5, 16, 200)
    for ax, data, fits, title in (
        (axes[0], WEIGHT, {"fit": ours}, "NIST Rat43, 95 % band"),
        (axes[1], wrong, {"soft-L1 loss": robust, "least squares": plain}, "two wrong data"),
    ):
        ax.plot(TIME, data, "o", color="black", markersize=4)
        for (label, result), style in zip(fits.items(), ("-", "--"), strict=False):
            middle, half = curve(result.params, t), band(result, t)
            (line,) = ax.plot(t, middle, style, label=label)
            ax.fill_between(t, middle - half, middle + half, color=line.get_color(), alpha=0.15)
        ax.set(xlabel="time", title=title, ylim=(-50, 850))
        ax.legend(loc="lower right")
    axes[0].set_ylabel("dry weight")
    fig.savefig(OUTPUT / "curve_fit.png", dpi=120)
    print(f"\nFigure: examples/{OUTPUT.name}/curve_fit.png")


# %%
# The result
# ----------
#
# The table shows that the three fits agree. In the picture on the right, two wrong data pull the
# curve of least squares away and widen its band; the robust loss almost gives the fit of the left.
# The last line of the output is a check of the band: it is derived from a linear approximation, and
# contains the true curve about as often as it claims.

if __name__ == "__main__":
    main()
