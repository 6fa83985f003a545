"""Handwritten digits: methods and learning rates
==============================================

Gradient descent, momentum and Adam train a small network with all images in each step, with
mini-batches, and with one image per step. Then Adam is run with 32 learning rates, three seeds
each, in one compiled program. The best learning rate is the one with the greatest held-out accuracy
at the end, the mean over its seeds.

Run: ``python examples/digits.py [--quick]``; three figures are saved in ``examples/output/``, with
``--quick`` in ``examples/output/quick/``.
"""

import argparse
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tabulate import tabulate

import gdjax

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  (after the backend is chosen)

OUTPUT = Path(sys.argv[0]).parent / "output"

METHODS = {
    "gradient descent": lambda rate: gdjax.gradient_descent(rate),
    "momentum": lambda rate: gdjax.sgd(rate / 5, momentum=0.9),
    "Adam": lambda rate: gdjax.adam(rate / 40),
}
# What decides which learning rate is the best, in the text and in the figures.
CRITERION = dict(by="accuracy", mode="max")
# regime: (images per step, epochs, learning rate of plain gradient descent)
REGIMES = {"full-batch": (None, 300, 0.5), "mini-batch": (64, 30, 0.2), "stochastic": (1, 5, 0.02)}


def load():
    """Return ((train images, labels), (held-out images, labels)), images in [0, 1], (n, 64)."""
    images, labels = load_digits(return_X_y=True)
    split = train_test_split(
        np.float32(images / 16), np.int32(labels), test_size=0.2, random_state=0, stratify=labels
    )
    train_x, test_x, train_y, test_y = map(jnp.asarray, split)
    return (train_x, train_y), (test_x, test_y)


model = gdjax.models.mlp((64, 128, 10))


def loss_fn(params, batch):
    """Return the mean cross-entropy of the batch."""
    images, labels = batch
    logits = model.apply(params, images)
    return gdjax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def accuracy(params, batch):
    """Return the fraction of images that are classified correctly."""
    images, labels = batch
    return {"accuracy": jnp.mean(model.apply(params, images).argmax(-1) == labels)}


def compare(params, train, held_out, quick):
    """Train with every method in every regime; return the rows of a table and the loss curves."""
    rows, curves = [], {}
    for regime, (batch_size, epochs, rate) in REGIMES.items():
        for method, optimizer in METHODS.items():
            name = f"{method}, {regime}"
            print(name)
            result = gdjax.fit(
                loss_fn,
                params,
                optimizer(rate),
                train,
                batch_size=batch_size,
                epochs=1 if quick else epochs,
                key=1,
                held_out=held_out,
                metric_fn=accuracy,
                progress=True,
            )
            rows.append(
                (
                    name,
                    result.steps,
                    result.seconds,
                    float(loss_fn(result.params, train)),
                    result.history["accuracy"][-1],
                )
            )
            curves[name] = result.history["loss"]
    return rows, curves


def plot_curves(curves, path):
    """Plot the smoothed training loss of every run against the step."""
    fig, axes = plt.subplots(1, 3, figsize=(12, 3.6), sharey=True, layout="constrained")
    for ax, regime in zip(axes, REGIMES, strict=True):
        for method in METHODS:
            loss = curves[f"{method}, {regime}"]
            width = max(1, len(loss) // 50)
            smooth = np.convolve(loss, np.ones(width) / width, mode="valid")
            ax.plot(np.arange(len(smooth)) + width, smooth, label=method)
        ax.set(title=regime, xlabel="step", yscale="log")
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("training loss")
    axes[0].legend()
    fig.savefig(path, dpi=120)


def compare_rates(train, held_out, quick):
    """Train with 32 learning rates of Adam, three seeds each; return the result of the sweep."""
    return gdjax.sweep(
        loss_fn,
        model.init,
        gdjax.adam,
        {"learning_rate": np.logspace(-5, 3, 32)},
        train,
        batch_size=64,
        epochs=1 if quick else 15,
        key=2,
        seeds=3,
        held_out=held_out,
        metric_fn=accuracy,
        progress=True,
    )


def tell(result):
    """Print which learning rate is the best by the criterion, and which ones failed."""
    best = result.best(**CRITERION)
    print(
        f"{result.seconds:.1f} s for {len(result.steps)} runs; greatest final held-out accuracy, "
        f"mean ± standard error of {len(best.lanes)} seeds: {best.value:.3f} ± {best.error:.3f} at "
        f"learning_rate = {best.config['learning_rate']:.3g}"
    )
    for point, step in result.diverged():
        print(
            f"diverged: learning_rate = {point['learning_rate']:.2g}, seed {point['seed']} at step "
            f"{step}"
        )
    print(
        f"nonfinite: {len(result.diverged())} of {len(result.steps)} runs (Adam's steps are "
        "bounded)"
    )
    started = {point.lanes[0]: result.curve(point.lanes).mean[0] for point in result.points()}
    worse = [
        point.config["learning_rate"]
        for point in result.points()
        if not point.mean <= started[point.lanes[0]]
    ]
    worse = ", ".join(f"{rate:.2g}" for rate in sorted(worse)) or "none"
    print(f"learning rates that ended above the loss they started at: {worse}")


def plot_rates(result, path):
    """Plot the held-out accuracy and the training loss against the learning rate."""
    fig = plt.figure(figsize=(11, 4.2), layout="constrained")
    left, right = fig.subplots(1, 2)
    result.plot(ax=left, **CRITERION)
    result.plot(ax=right)
    left.set_title("what decides: held-out accuracy after training")
    right.set_title("for comparison: training loss")
    fig.suptitle("Adam on digits, 32 learning rates with 3 seeds each")
    fig.savefig(path, dpi=120)


def main():
    """Run the comparison, then the sweep over learning rates."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--quick",
        action="store_true",
        help="one epoch each, as a quick check; figures go to quick/",
    )
    quick = parser.parse_args().quick
    output = OUTPUT / "quick" if quick else OUTPUT
    output.mkdir(parents=True, exist_ok=True)
    train, held_out = load()
    params = model.init(jax.random.key(0))

    rows, curves = compare(params, train, held_out, quick)
    header = ["method", "steps", "seconds", "train loss", "held-out accuracy"]
    print("\n" + tabulate(rows, header, floatfmt=("", "", ".1f", ".4f", ".3f")))
    plot_curves(curves, output / "digits_loss.png")

    print(
        "\n32 learning rates of Adam, 3 seeds each, one compiled program. The bar shows the run\n"
        "with the least training loss; the greatest held-out accuracy decides, the mean over seeds."
    )
    result = compare_rates(train, held_out, quick)
    tell(result)
    plot_rates(result, output / "digits_rates.png")
    ax = result.plot_curves(**CRITERION)
    ax.set_title("Adam on digits: held-out accuracy during training")
    ax.figure.savefig(output / "digits_curves.png", dpi=120)
    print("\nFigures:", *(f"examples/{p.relative_to(OUTPUT.parent)}" for p in output.glob("*.png")))


# %%
# The result
# ----------
#
# The first figure has the training losses of all methods. The second shows what a learning rate
# does: small ones have not yet trained the network, large ones have made it worse, and the best is
# chosen by the held-out accuracy (left), not by the training loss (right). The last figure has the
# held-out accuracy during training.

# sphinx_gallery_thumbnail_number = 2

if __name__ == "__main__":
    main()
