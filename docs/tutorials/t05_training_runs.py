"""
Training runs
=============

A training run is more than its steps. It may be interrupted and has to continue; it should stop
when it no longer improves; somebody wants to see its curves; and the weights to use are not always
the last ones. This tutorial does all of it with :func:`gdjax.fit`.
"""

import dataclasses
import tempfile
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import gdjax
from gdjax.callbacks import csv_logger, early_stopping, keep_best

images, labels = load_digits(return_X_y=True)
order = np.random.default_rng(0).permutation(len(labels))
images, labels = (images[order] / 16).astype("float32"), labels[order].astype("int32")
train, held_out = (images[:400], labels[:400]), (images[400:], labels[400:])  # few, to overfit
folder = Path(tempfile.mkdtemp())


def init(key):
    """Return the parameters of a network with one hidden layer."""
    hidden, out = jax.random.split(key)
    return {
        "hidden": jax.random.normal(hidden, (64, 64)) / 8,
        "out": jax.random.normal(out, (64, 10)) / 8,
    }


def loss_fn(params, batch):
    """Return the mean cross-entropy over a batch."""
    images, labels = batch
    logits = jax.nn.relu(images @ params["hidden"]) @ params["out"]
    return gdjax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


# %%
# Interrupt and continue
# ----------------------
#
# With ``directory=`` finished chunks of a run are kept in files. The *same call* continues from
# there after the process was killed. What was killed is simulated here by a callback that raises an
# error; a callback is a function that ``fit`` calls with a report after every ``report_every``
# steps.

params = init(jax.random.key(0))
optimizer = gdjax.adam(gdjax.cosine_decay_schedule(0.003, 200))
options = dict(batch_size=40, steps=200, report_every=20, held_out=held_out)


def power_failure(report):
    """Raise in the middle of the run."""
    if report.step == 80:
        raise RuntimeError("power failure")


try:
    gdjax.fit(
        loss_fn, params, optimizer, train, directory=folder / "run", callbacks=[power_failure],
        **options,
    )  # fmt: skip
except RuntimeError as error:
    print(f"{error} after {error.result.steps} steps")
print(sorted(path.name for path in (folder / "run").iterdir()))

# %%
# ``chunk`` files have the history, ``carry`` files the parameters and states. A thread writes them
# while training continues, so the last chunk may be missing; it is then computed again. Now the
# same call, without the failing callback, and for comparison a run that was never interrupted:

resumed = gdjax.fit(loss_fn, params, optimizer, train, directory=folder / "run", **options)
whole = gdjax.fit(loss_fn, params, optimizer, train, **options)


def same_bits(a, b):
    """Return whether all arrays of two trees are equal in every bit."""
    return all(
        np.asarray(x).tobytes() == np.asarray(y).tobytes()
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


print("steps:", resumed.steps)
print("same losses:", same_bits(resumed.history, whole.history))
print("same parameters:", same_bits(resumed.params, whole.params))
print("same state:", same_bits(resumed.state, whole.state))

# %%
# All that decides the next step is in the arrays that were saved: the parameters, the state of the
# optimizer with its schedule and count, the key, and the place in the shuffles.
#
# A result can also be continued in memory, or after ``save`` and ``load``. ``steps`` are then
# further ones. The schedule ended at step 200, so the learning rate is put to a constant first, in
# the state:

state = gdjax.with_hyperparams(whole.state, learning_rate=3e-4)
longer = gdjax.fit(
    loss_fn, params, optimizer, train, start=dataclasses.replace(whole, state=state),
    **options | dict(steps=100),
)  # fmt: skip
print("steps:", longer.steps, "losses in the history:", len(longer.history["loss"]))

# %%
# Stop early
# ----------
#
# On 400 images the network soon fits the training data better than the rest of the world. Two
# callbacks watch the held-out loss: ``keep_best`` keeps the parameters with the least one, and
# ``early_stopping`` ends the run when it has not improved for ten reports in a row. ``csv_logger``
# writes each report to a file.

stopped = gdjax.fit(
    loss_fn,
    params,
    gdjax.adam(0.01),
    train,
    batch_size=40,
    steps=2000,
    report_every=10,
    held_out=held_out,
    callbacks=[
        early_stopping("held_out", patience=10, mode="min"),
        keep_best("held_out", mode="min"),
        csv_logger(folder / "log.csv"),
    ],
)
print(f"stopped after {stopped.steps} of 2000 steps")
print(f"held-out loss: least {stopped.best_value:.3f} at step {stopped.best_step}, ", end="")
print(f"last {stopped.history['held_out'][-1]:.3f}")

fig, ax = plt.subplots(figsize=(7, 3.2), layout="constrained")
ax.semilogy(stopped.history["loss"], lw=0.6, label="batch")
ax.semilogy(stopped.history["step"], stopped.history["held_out"], "o-", ms=3, label="held out")
ax.axvline(stopped.best_step, color="k", ls="--", lw=1, label="parameters that were kept")
ax.set(xlabel="step", ylabel="loss")
ax.legend()
plt.show()

# %%
# The loss of the batches goes on to fall while that of the held-out images does not: the network
# overfits. The log has a row for each report:

print(*(folder / "log.csv").read_text().splitlines()[:3], sep="\n")

# %%
# Averaged weights
# ----------------
#
# With a constant learning rate the parameters move around a minimum, since each batch has another
# gradient. Their average over many steps is closer to it. A schedule that falls to zero has a
# similar effect, but must know the end of the run beforehand. Three runs with the same learning
# rate:

more = (images[:1200], labels[:1200]), (images[1200:], labels[1200:])
optimizers = {
    "constant rate": gdjax.sgd(0.5),
    "average": gdjax.average(gdjax.sgd(0.5), decay=0.98),
    "schedule-free": gdjax.schedule_free_sgd(0.5),
}
runs = {
    name: gdjax.fit(
        loss_fn, params, optimizer, more[0], batch_size=10, steps=600, report_every=20,
        held_out=more[1],
    )
    for name, optimizer in optimizers.items()
}  # fmt: skip
fig, ax = plt.subplots(figsize=(7, 3.4), layout="constrained")
for name, run in runs.items():
    ax.semilogy(run.history["step"], run.history["held_out"], label=name)
ax.set(xlabel="step", ylabel="held-out loss")
ax.legend()
plt.show()

# %%
# With the constant rate the held-out loss jumps from report to report; that of the averages does
# not.
#
# What ``fit`` reports is the loss of the weights that would be used: for the last two optimizers
# not the parameters that are trained, but ``eval_params``, which is computed from them and the
# state.
#
# - :func:`gdjax.average` leaves the training as it is, and keeps an exponential average beside it.
# - :func:`gdjax.schedule_free_sgd` takes its gradients between the average and the last iterate,
#   and trains by them (`Defazio et al. 2024 <https://arxiv.org/abs/2405.15682>`_).

for name, run in runs.items():
    trained, used = loss_fn(run.params, more[1]), loss_fn(run.eval_params, more[1])
    print(f"{name:14} held-out loss of params {trained:.3f}, of eval_params {used:.3f}")
same = same_bits(runs["average"].params, runs["constant rate"].params)
print("the average does not change the training:", same)

# %%
# Save ``result.eval_params`` for use, and the whole result to continue the run.
#
# Other parts of a run
# --------------------
#
# - *Models with a state*, such as batch normalization: ``model_state=``, see
#   :doc:`/guides/model-state`.
# - *Data that do not fit into memory*, from loaders and generators: :doc:`/guides/data`.
# - *Other logs*: TensorBoard, and any function of step and values, see :doc:`/guides/callbacks`.
# - *What is kept in the directory*, and what counts as the same call: :doc:`/guides/checkpoints`.
# - All of it holds for sweeps too, for each of their lanes: :doc:`/guides/training`.
