"""Reports of a sweep and of a run
===============================

A small network is trained on handwritten digits with 8 learning rates, 3 momenta, with and without
Nesterov's step, 3 seeds each: 144 runs in two compiled programs. One page is of the sweep, one of
the best point, trained again for longer. They open in any browser, without network.

Run: ``python examples/report.py [--quick]``; the pages are saved in ``examples/output/``, with
``--quick`` in ``examples/output/quick/``.
"""

import argparse
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import gdjax

OUTPUT = Path(sys.argv[0]).parent / "output"
CRITERION = dict(by="accuracy", mode="max")
SPACE = {
    "learning_rate": np.logspace(-3, 1, 8),
    "momentum": [0.0, 0.5, 0.9],
    "nesterov": [False, True],
}
model = gdjax.models.mlp((64, 48, 10))


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
    """Return the fraction of images that are classified correctly, and the loss."""
    images, labels = batch
    right = model.apply(params, images).argmax(-1) == labels
    return {"accuracy": jnp.mean(right), "held-out loss": loss_fn(params, batch)}


def main():
    """Run the sweep and the best point; write both pages."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="short runs; pages go to quick/")
    quick = parser.parse_args().quick
    output = OUTPUT / "quick" if quick else OUTPUT
    output.mkdir(parents=True, exist_ok=True)
    train, held_out = load()
    options = dict(batch_size=64, held_out=held_out, metric_fn=metric_fn, progress=True)

    space = SPACE | {"learning_rate": SPACE["learning_rate"][::3]} if quick else SPACE
    epochs = 1 if quick else 10
    result = gdjax.sweep(
        loss_fn, model.init, gdjax.sgd, space, train, epochs=epochs, seeds=3, **options
    )
    best = result.best(**CRITERION)
    print(
        f"{len(result.steps)} runs in {result.seconds:.1f} s; greatest held-out accuracy, mean ± "
        f"standard error of {len(best.lanes)} seeds: {best.value:.3f} ± {best.error:.3f} at "
        f"{best.config}"
    )
    result.report(output / "sweep.html", **CRITERION, title="SGD on handwritten digits")

    params, optimizer = model.init(jax.random.key(1)), gdjax.sgd(**best.config)
    run = gdjax.fit(loss_fn, params, optimizer, train, epochs=6 * epochs, **options)
    run.report(output / "fit.html", title="The best point, trained for longer")
    print("Pages:", *(f"examples/{p.relative_to(OUTPUT.parent)}" for p in output.glob("*.html")))


# %%
# The pages
# ---------
#
# The page of the sweep; `open it alone <report/sweep.html>`__, or that of the `run
# <report/fit.html>`__. The guide :doc:`/guides/reports` explains its parts.
#
# .. raw:: html
#
#    <iframe src="report/sweep.html" title="Report of the sweep" loading="lazy"
#            style="width: 100%; height: 42rem; border: 1px solid #8888"></iframe>

if __name__ == "__main__":
    main()
