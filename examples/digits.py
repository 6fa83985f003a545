"""Train a small network on handwritten digits with several forms of gradient descent.

Compares full-batch, mini-batch and stochastic (one image per step) training with gradient descent,
momentum and Adam; then trains with 32 learning rates in one compiled program. Two figures are saved
in examples/output/.

Run: python examples/digits.py [--quick]
"""

import argparse
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

OUTPUT = Path(__file__).parent / "output"

METHODS = {
    "gradient descent": lambda rate: gdjax.gradient_descent(rate),
    "momentum": lambda rate: gdjax.sgd(rate / 5, momentum=0.9),
    "Adam": lambda rate: gdjax.adam(rate / 40),
}
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


def main():
    """Run the comparison, then the sweep over learning rates."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one epoch each, as a quick check")
    quick = parser.parse_args().quick
    OUTPUT.mkdir(exist_ok=True)
    train, held_out = load()
    params = model.init(jax.random.key(0))

    rows, curves = compare(params, train, held_out, quick)
    header = ["method", "steps", "seconds", "train loss", "held-out accuracy"]
    print("\n" + tabulate(rows, header, floatfmt=("", "", ".1f", ".4f", ".3f")))
    plot_curves(curves, OUTPUT / "digits_loss.png")

    print("\n32 learning rates of Adam, one compiled program")
    result = gdjax.sweep(
        loss_fn,
        params,
        gdjax.adam,
        {"learning_rate": np.logspace(-5, 3, 32)},
        train,
        batch_size=64,
        epochs=1 if quick else 15,
        key=2,
        held_out=held_out,
        metric_fn=accuracy,
        progress=True,
    )
    best = result.best(by="accuracy", mode="max")
    print(
        f"{result.seconds:.1f} s; best: learning_rate = {best.config['learning_rate']:.2g} with "
        f"held-out accuracy {best.value:.3f}"
    )
    for point, step in result.diverged():
        print(f"diverged: learning_rate = {point['learning_rate']:.2g} at step {step}")
    rates, worse = result.configs["learning_rate"], result.values() > result.history["loss"][:, 0]
    print(f"nonfinite: {len(result.diverged())} of 32 lanes (Adam's steps are bounded)")
    print(f"ended above the loss they started at: {', '.join(f'{r:.2g}' for r in rates[worse])}")
    ax = result.plot()
    ax.set_title("Adam on digits: final loss against learning rate")
    ax.figure.savefig(OUTPUT / "digits_rates.png", dpi=120)
    print("\nFigures: examples/output/digits_loss.png, examples/output/digits_rates.png")


if __name__ == "__main__":
    main()
