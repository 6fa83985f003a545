"""Linear regression against the exact solution
============================================

Full-batch and mini-batch gradient descent on the mean squared error of scikit-learn's diabetes data
must reach the weights of least squares, which a decomposition gives exactly.

Run: ``python examples/diabetes.py [--quick]``; the figure is saved in ``examples/output/``.
"""

import argparse
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from sklearn.datasets import load_diabetes
from tabulate import tabulate

import gdjax

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  (after the backend is chosen)

OUTPUT = Path(sys.argv[0]).parent / "output"
model = gdjax.models.linear(10, 1)


def load():
    """Return standardized features (442, 10) and targets (442, 1)."""
    x, y = load_diabetes(return_X_y=True)
    x = (x - x.mean(0)) / x.std(0)
    y = (y - y.mean()) / y.std()
    return jnp.asarray(x, jnp.float32), jnp.asarray(y[:, None], jnp.float32)


def loss_fn(params, batch):
    """Return the mean squared error of the batch."""
    x, y = batch
    return gdjax.mean_squared_error(model.apply(params, x), y)


def main():
    """Fit with several optimizers and compare with least squares."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few steps, as a quick check")
    quick = parser.parse_args().quick
    OUTPUT.mkdir(exist_ok=True)
    x, y = data = load()
    design = np.c_[np.asarray(x, np.float64), np.ones(len(x))]
    exact, *_ = np.linalg.lstsq(design, np.asarray(y, np.float64), rcond=None)
    least = float(np.mean((design @ exact - np.asarray(y)) ** 2))

    steps = 200 if quick else 4000
    runs = {
        "gradient descent": (gdjax.gradient_descent(0.2), None),
        "Nesterov": (gdjax.sgd(0.05, momentum=0.95, nesterov=True), None),
        "Adam": (gdjax.adam(0.02), None),
        "Adam, batches of 32, cosine": (
            gdjax.adam(gdjax.cosine_decay_schedule(0.02, steps)),
            32,
        ),
    }
    params = model.init(jax.random.key(0))
    rows, fig = [("least squares", "", least, 0.0)], plt.figure(layout="constrained")
    ax = fig.add_subplot()
    for name, (optimizer, batch_size) in runs.items():
        result = gdjax.fit(loss_fn, params, optimizer, data, batch_size=batch_size, steps=steps)
        found = np.r_[np.asarray(result.params["kernel"]), np.asarray(result.params["bias"])[None]]
        loss = float(loss_fn(result.params, data))
        rows.append((name, result.steps, loss, float(np.abs(found - exact).max())))
        if batch_size is None:
            above = np.maximum(result.history["loss"] - least, 1e-9)
            ax.plot(np.arange(1, steps + 1), above, label=name)
    header = ["method", "steps", "mean squared error", "largest error of a weight"]
    print(tabulate(rows, header, floatfmt=("", "", ".6f", ".1e")))
    ax.set(xlabel="step", ylabel="loss above the least-squares loss", xscale="log", yscale="log")
    ax.legend()
    fig.savefig(OUTPUT / "diabetes.png", dpi=120)
    print(f"\nFigure: examples/{OUTPUT.name}/diabetes.png")


# %%
# The result
# ----------
#
# The last column compares the weights with those of least squares. Methods that see all data in
# each step reach them up to float32's rounding, which is also where the curves end: below 1e-7 the
# difference of two losses is rounding error. With batches the gradient is noisy, so that run ends a
# little above.

if __name__ == "__main__":
    main()
