"""Hyperparameter search with Optuna
=================================

Optuna proposes learning rate, weight decay, ``b1`` and Nesterov's step of AdamW on handwritten
digits, 16 trials at a time, and `gdjax.search` trains each 16 in one compiled program. The study is
a file of SQLite: run the program again with more trials, and it continues.

Run: ``python examples/search.py [--quick] [--trials 64]``; the study and a figure of the trials are
saved in ``examples/output/``, with ``--quick`` in ``examples/output/quick/``.
"""

import argparse
import sys
from pathlib import Path

import jax.numpy as jnp
import matplotlib
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import gdjax

matplotlib.use("Agg")

OUTPUT = Path(sys.argv[0]).parent / "output"
SPACE = {
    "learning_rate": gdjax.log_uniform(1e-5, 1.0),
    "weight_decay": gdjax.log_uniform(1e-6, 1.0),
    "b1": gdjax.uniform(0.5, 0.99),
    "nesterov": gdjax.choice(False, True),
}
model = gdjax.models.mlp((64, 64, 10))


def load():
    """Return ((train images, labels), (held-out images, labels)), images in [0, 1], (n, 64)."""
    images, labels = load_digits(return_X_y=True)
    split = train_test_split(
        np.float32(images / 16), np.int32(labels), test_size=0.2, random_state=0, stratify=labels
    )
    train_x, test_x, train_y, test_y = map(jnp.asarray, split)
    return (train_x, train_y), (test_x, test_y)


def loss_fn(params, batch):
    """Return the mean cross-entropy of the batch."""
    images, labels = batch
    logits = model.apply(params, images)
    return gdjax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def metric_fn(params, batch):
    """Return the fraction of images that are classified correctly."""
    images, labels = batch
    return {"accuracy": jnp.mean(model.apply(params, images).argmax(-1) == labels)}


def main():
    """Search, then print the best trials and draw all of them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a short search; files go to quick/")
    parser.add_argument("--trials", type=int, default=64, help="how many trials to reach")
    options = parser.parse_args()
    output = OUTPUT / "quick" if options.quick else OUTPUT
    output.mkdir(parents=True, exist_ok=True)
    train, held_out = load()
    result = gdjax.search(
        loss_fn,
        model.init,
        gdjax.adamw,
        SPACE,
        train,
        trials=8 if options.quick else options.trials,
        lanes=4 if options.quick else 16,
        seeds=1 if options.quick else 2,
        steps=30 if options.quick else 300,
        batch_size=64,
        held_out=held_out,
        metric_fn=metric_fn,
        by="accuracy",
        mode="max",
        storage=output / "search.sqlite",
        resume=not options.quick,
        progress=True,
    )
    print("\n".join(result.table().splitlines()[:10]))
    best = result.best
    print(f"\nbest: held-out accuracy {best.value:.3f} with {best.config}")
    ax = result.plot()
    ax.set_title("AdamW on digits: held-out accuracy of each trial")
    ax.figure.savefig(output / "search.png", dpi=120)
    print(f"Figure: examples/{(output / 'search.png').relative_to(OUTPUT.parent)}")


# %%
# The result
# ----------
#
# The table has the best trials, and the figure the value of each trial in the order of the search.

if __name__ == "__main__":
    main()
