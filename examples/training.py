"""A run that is interrupted and continues
=======================================

A network with batch normalization is trained on handwritten digits. Batches come from a loader that
shifts the images; the running statistics of batch normalization are the state of the model;
held-out metrics are of averaged weights. The run is logged to a CSV file, keeps its finished chunks
in a directory, stops early, and keeps its best parameters. Here it is interrupted once on purpose,
and the same call continues it.

Run: ``python examples/training.py [--quick]``; a figure is saved in ``examples/output/``, with
``--quick`` in ``examples/output/quick/``.
"""

import argparse
import shutil
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import gdjax
from gdjax.callbacks import csv_logger, early_stopping, keep_best

matplotlib.use("Agg")

OUTPUT = Path(sys.argv[0]).parent / "output"
BATCH = 64


class Shifted:
    """A loader: images moved by up to a pixel, in an order of its own in each epoch."""

    def __init__(self, images, labels, seed=0):
        self.images, self.labels, self.seed = images, labels, seed
        self.place = {"epoch": 0, "batch": 0}

    def __len__(self):
        return len(self.images) // BATCH

    def __iter__(self):
        epoch = self.place["epoch"]
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.images))
        for batch in range(self.place["batch"], len(self)):
            rows = order[batch * BATCH : (batch + 1) * BATCH]
            shifts = np.random.default_rng([self.seed, epoch, batch]).integers(-1, 2, (BATCH, 2))
            images = self.images[rows].reshape(-1, 8, 8)
            moved = [np.roll(x, shift, (0, 1)) for x, shift in zip(images, shifts, strict=True)]
            self.place = {"epoch": epoch, "batch": batch + 1}
            yield np.reshape(moved, (BATCH, 64)), self.labels[rows]
        self.place = {"epoch": epoch + 1, "batch": 0}

    def state_dict(self):
        """Return the epoch, and how many of its batches were given."""
        return dict(self.place)

    def load_state_dict(self, state):
        """Continue there."""
        self.place = dict(state)


def init(key):
    """Return the parameters, and the running mean and variance of the hidden layer."""
    first, second = jax.random.split(key)
    params = {
        "in": 0.1 * jax.random.normal(first, (64, 128)),
        "scale": jnp.ones((1, 128)),
        "bias": jnp.zeros((1, 128)),
        "out": 0.1 * jax.random.normal(second, (128, 10)),
    }
    return params, {"mean": jnp.zeros((1, 128)), "var": jnp.ones((1, 128))}


def logits_of(params, images, mean, var):
    """Return the logits, given what to normalize the hidden layer with."""
    hidden = (images @ params["in"] - mean) / jnp.sqrt(var + 1e-5)
    return jax.nn.relu(params["scale"] * hidden + params["bias"]) @ params["out"]


def loss_fn(params, stats, batch):
    """Return the loss with the statistics of the batch, and the new running statistics."""
    images, labels = batch
    hidden = images @ params["in"]
    now = {"mean": hidden.mean(0, keepdims=True), "var": hidden.var(0, keepdims=True)}
    stats = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, stats, now)
    logits = logits_of(params, images, **now)
    return gdjax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), stats


def metric_fn(params, stats, batch):
    """Return loss and accuracy with the running statistics."""
    images, labels = batch
    logits = logits_of(params, images, **stats)
    losses = gdjax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return {"held-out loss": losses.mean(), "accuracy": jnp.mean(logits.argmax(-1) == labels)}


def main():
    """Train, with an interruption; print what came of it and draw the run."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a short run; files go to quick/")
    quick = parser.parse_args().quick
    output = OUTPUT / "quick" if quick else OUTPUT
    output.mkdir(parents=True, exist_ok=True)
    directory = output / "training"
    shutil.rmtree(directory, ignore_errors=True)
    images, labels = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(
        np.float32(images / 16), np.int32(labels), test_size=0.2, random_state=0, stratify=labels
    )
    params, stats = init(jax.random.key(0))
    schedule = gdjax.in_epochs(gdjax.cosine_decay_schedule(3e-3, 4 if quick else 40))
    optimizer = gdjax.average(gdjax.adamw(schedule, weight_decay=1e-4), decay=0.95)
    print(gdjax.summary(params, optimizer))

    def train(*more):
        callbacks = [
            early_stopping("held-out loss", patience=12, mode="min"),
            keep_best("accuracy", mode="max"),
            csv_logger(output / "training.csv"),
        ]
        return gdjax.fit(
            loss_fn,
            params,
            optimizer,
            Shifted(train_x, train_y),
            epochs=4 if quick else 40,
            report_every=11 if quick else 22,
            model_state=stats,
            held_out=(test_x, test_y),
            metric_fn=metric_fn,
            callbacks=[*callbacks, *more],
            directory=directory,
            progress=True,
        )

    def fail(report):
        if report.step >= 44:
            raise RuntimeError("an interruption on purpose")

    try:
        train(fail)
    except RuntimeError as error:
        print(f"{error}, after step {error.result.steps}; the same call continues")
    result = train()
    print(
        f"{result.steps} steps; best held-out accuracy {result.best_value:.3f} at step "
        f"{result.best_step}, last {result.history['accuracy'][-1]:.3f}"
    )
    ax = result.plot()
    ax.figure.savefig(output / "training.png", dpi=120)
    print(f"Figure: examples/{(output / 'training.png').relative_to(OUTPUT.parent)}")


# %%
# The result
# ----------
#
# The run is interrupted after step 44, and the same call continues it. The figure has the loss of
# each step and the held-out metrics of the averaged weights; the summary above lists the parameters
# with the memory of the optimizer's state.

if __name__ == "__main__":
    main()
