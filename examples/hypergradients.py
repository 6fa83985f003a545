"""Learning rates learned by gradient descent
==========================================

The held-out loss after 60 steps of momentum on handwritten digits is differentiated, through the
whole training run, with respect to six numbers: the logarithms of two learning rates, one a layer,
and of the four knots of a schedule. Adam minimizes it.

Run: ``python examples/hypergradients.py [--quick]``; the figure is saved in ``examples/output/``.
"""

import argparse
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from sklearn.datasets import load_digits

import gdjax

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  (after the backend is chosen)

OUTPUT = Path(sys.argv[0]).parent / "output"
STEPS, KNOTS = 60, 4
model = gdjax.models.mlp((64, 32, 10))


def load():
    """Return (train, held out), each (images, labels)."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    images, labels = jnp.asarray(images[order] / 16, jnp.float32), jnp.asarray(labels[order])
    return (images[:600], labels[:600]), (images[600:1200], labels[600:1200])


def loss_fn(params, batch):
    """Return the mean cross-entropy of the batch."""
    images, labels = batch
    logits = model.apply(params, images)
    return gdjax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


@gdjax.schedule
class Knots(gdjax.Schedule):
    """A learning rate times factors at evenly spaced steps, interpolated linearly."""

    rate: float
    factors: float

    def __call__(self, count):
        """Return the rate for update number `count`."""
        knots = jnp.linspace(0.0, STEPS - 1.0, KNOTS)
        return self.rate * jnp.interp(count, knots, self.factors)


def rates(values):
    """Return the schedule of each layer."""
    rate, factors = jnp.exp(values["log_rates"]), jnp.exp(values["log_factors"])
    return {f"linear_{i}": Knots(rate[i], factors) for i in range(2)}


def main():
    """Learn the hyperparameters, and print and plot them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a few steps, as a quick check")
    updates = 3 if parser.parse_args().quick else 40
    OUTPUT.mkdir(exist_ok=True)
    train, held_out = load()
    params = model.init(jax.random.key(0))

    def fit_fn(values):
        optimizer = gdjax.sgd(rates(values), momentum=0.9)
        trained = gdjax.unroll(loss_fn, params, optimizer, train, steps=STEPS, batch_size=64, key=1)
        return loss_fn(trained, held_out)

    values = {"log_rates": jnp.log(jnp.full(2, 0.01)), "log_factors": jnp.zeros(KNOTS)}
    start, best = values, values
    opt = gdjax.adam(gdjax.cosine_decay_schedule(0.15, updates))  # larger rates are unstable
    state, losses = opt.init(values), []
    step = jax.jit(lambda values: gdjax.hypergradient(fit_fn, values))
    for _ in range(updates):
        loss, grads = step(values)
        losses.append(float(loss))
        best = values if loss == min(losses) else best
        change, state = opt.update(grads, state, values)
        values = gdjax.apply_updates(values, change)
    values = best
    print(f"held-out loss after {STEPS} steps: {losses[0]:.3f} -> {min(losses):.3f}")
    for name, rate in zip(rates(values), np.exp(values["log_rates"]), strict=True):
        print(f"{name}: learning rate 0.01 -> {rate:.3g}")
    print("factors along the run:", np.exp(values["log_factors"]).round(2))

    fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    left.plot(losses, "o-", markersize=3)
    left.set(xlabel="update of the hyperparameters", ylabel="held-out loss", yscale="log")
    count = jnp.arange(STEPS)
    for i, name in enumerate(rates(values)):
        right.plot(count, jax.vmap(rates(values)[name])(count), f"C{i}", label=f"{name}, learned")
    before = jax.vmap(rates(start)["linear_0"])(count)
    right.plot(count, before, "k--", label="both, initially")
    right.set(xlabel="step", ylabel="learning rate", yscale="log")
    right.legend(fontsize="small")
    fig.savefig(OUTPUT / "hypergradients.png", dpi=120)
    print(f"Figure: examples/{OUTPUT.name}/hypergradients.png")


# %%
# The result
# ----------
#
# The left picture is a training curve of the hyperparameters: each point is a whole training run.
# The right picture has the learned learning rates of both layers; a straight line is where they
# began.

if __name__ == "__main__":
    main()
