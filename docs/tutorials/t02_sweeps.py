"""
Sweeps, and what vmapping a grid costs
======================================

Whoever trains a model chooses hyperparameters, and the common way is to train with many values and
to compare. The numbers of a gdjax optimizer are arrays in its state, so the runs of a grid differ
only in data, and :func:`jax.vmap` turns the program of one run into a program of all. This tutorial
does that by hand, then with :func:`gdjax.sweep`, and measures what it costs.
"""

import time

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import gdjax

images, labels = load_digits(return_X_y=True)
order = np.random.default_rng(0).permutation(len(labels))
images, labels = (images[order] / 16).astype("float32"), labels[order].astype("int32")
train, held_out = (images[:1200], labels[:1200]), (images[1200:], labels[1200:])


def init(key):
    """Return the parameters of a network with one hidden layer."""
    hidden, out = jax.random.split(key)
    return {
        "hidden": jax.random.normal(hidden, (64, 16)) / 8,
        "out": jax.random.normal(out, (16, 10)) / 4,
    }


def logits(params, images):
    """Return the scores of the ten classes."""
    return jax.nn.relu(images @ params["hidden"]) @ params["out"]


def loss_fn(params, batch):
    """Return the mean cross-entropy over a batch."""
    images, labels = batch
    losses = gdjax.softmax_cross_entropy_with_integer_labels(logits(params, images), labels)
    return losses.mean()


# %%
# By hand
# -------
#
# Write a training run as a function of the learning rate. Here it takes 40 steps of gradient
# descent with momentum on all data, and returns the loss after them.


def final_loss(learning_rate):
    """Train with a learning rate, always from the same parameters; return the loss at the end."""
    optimizer = gdjax.sgd(learning_rate, momentum=0.9)

    def step(carry, _):
        params, state = carry
        grads = jax.grad(loss_fn)(params, train)
        updates, state = optimizer.update(grads, state, params)
        return (gdjax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), length=40)
    return loss_fn(params, train)


start = init(jax.random.key(0))
rates = jnp.logspace(-3, 1.5, 24)
losses = jax.jit(jax.vmap(final_loss))(rates)  # 24 runs in one compiled program

fig, ax = plt.subplots(figsize=(6.5, 3.2), layout="constrained")
ax.loglog(rates, losses, "o-", ms=4)
ax.set(xlabel="learning rate", ylabel="loss after 40 steps")
plt.show()

# %%
# The picture is the usual one. From the left, a larger rate gets further in 40 steps, until the
# steps become too large. In this vmapped program each intermediate array has one more axis, of
# length 24: a *lane* for each learning rate.
#
# With ``sweep``
# --------------
#
# :func:`gdjax.sweep` does the same for a whole training loop: shuffled batches, evaluation on
# held-out data, tables and pictures. The optimizer is given as a function that makes one, and the
# space as the values of its arguments. With ``seeds=4`` each learning rate is trained four times,
# with other initial parameters and other batches.


def accuracy(params, batch):
    """Return the fraction of images that are classified correctly."""
    images, labels = batch
    return {"accuracy": jnp.mean(logits(params, images).argmax(-1) == labels)}


options = dict(batch_size=60, held_out=held_out, metric_fn=accuracy)
criterion = dict(by="accuracy", mode="max")  # what the best run is: the one with most of this

result = gdjax.sweep(
    loss_fn,
    init,
    gdjax.adam,
    {"learning_rate": np.logspace(-4, 0, 9)},
    train,
    seeds=4,
    steps=120,
    **options,
)
print(result.table(**criterion))

# %%
# A row is the mean of four seeds, ± its standard error, the standard deviation of the four divided
# by :math:`\sqrt 4`. Rows whose means differ by less than about two standard errors cannot be told
# apart by this sweep. The curves have the same error as a band:

fig, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
result.plot(ax=left, **criterion)
result.plot_curves(ax=right, color="learning_rate", **criterion)
plt.show()

# %%
# Two numbers
# -----------
#
# A space of two names is all combinations of their values. Seeds are left out here, so all lanes
# start at the same parameters and see the same batches.

grid = {"learning_rate": np.logspace(-2.5, 0.5, 7), "momentum": [0.0, 0.5, 0.8, 0.9, 0.95, 0.98]}
result = gdjax.sweep(
    loss_fn, init, lambda learning_rate, momentum: gdjax.sgd(learning_rate, momentum), grid,
    train, steps=120, **options,
)  # fmt: skip
result.plot(("learning_rate", "momentum"), **criterion)
plt.show()

# %%
# Good cells lie along a diagonal: with more momentum a smaller learning rate is best. The reason is
# that with momentum :math:`m` each gradient enters the following steps too, with weights
# :math:`1, m, m^2, \dots`, whose sum is :math:`1 / (1 - m)`. What counts is about
# :math:`\eta / (1 - m)`.
#
# What the lanes cost
# -------------------
#
# How the time grows with the number of lanes depends on what one lane leaves unused. A step of a
# small model consists mostly of fixed costs, such as starting each operation, which lanes share. A
# large model uses the whole processor on its own, and then twice the lanes take twice the time.
# Here are two models on the machine that built this page, 20 steps each, compiled beforehand:


def run_of(params, steps=20):
    """Return a compiled function of learning rates that trains one lane for each."""
    batch = train[0][:32], train[1][:32]

    def run(learning_rate):
        optimizer = gdjax.adam(learning_rate)

        def step(carry, _):
            params, state = carry
            grads = jax.grad(loss_fn)(params, batch)
            updates, state = optimizer.update(grads, state, params)
            return (gdjax.apply_updates(params, updates), state), None

        (end, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), length=steps)
        return end

    return jax.jit(jax.vmap(run))


def seconds(function, *args, repeats=5):
    """Return the shortest time of some calls."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(function(*args))
        times.append(time.perf_counter() - start)
    return min(times)


of_one = 0.0
print("hidden units   lanes   ms per step   relative   MB in use")
for width in (8, 512):
    run = run_of({"hidden": jnp.ones((64, width)) / 64, "out": jnp.ones((width, 10)) / width})
    for lanes in (1, 8, 32):
        rates = jnp.logspace(-4, -2, lanes)
        program = run.lower(rates).compile()
        jax.block_until_ready(program(rates))  # the first call is not measured
        took, memory = seconds(program, rates), program.memory_analysis()
        of_one = took if lanes == 1 else of_one
        size = (memory.temp_size_in_bytes + memory.output_size_in_bytes) / 1e6
        print(f"{width:12}{lanes:8}{took / 20 * 1e3:14.2f}{took / of_one:11.1f}{size:12.2f}")

# %%
# The column *relative* is the time compared with that of one lane. As long as it is smaller than
# the number of lanes, a vmapped grid is faster than one run after the other.
#
# Memory always grows in proportion to the lanes: each has its own parameters, gradients and state.
# Adam remembers two numbers for each parameter, so a lane needs at least four arrays of the size of
# the parameters (parameters, gradients, ``mu`` and ``nu``), and the intermediate values of its
# model.
#
# ``sweep`` takes both into account. It computes from the compiled program how many lanes fit into
# memory and runs the others after them with the same program. On a CPU, lanes of models with 4096
# parameters or more run one after the other within the program, since one such lane alone stays in
# the cache and several together do not; ``lanes_per_program`` and ``vectorize`` decide otherwise.
#
# When vmap is the wrong tool:
#
# - **The model fills the device.** Then lanes save nothing. Train configurations one by one, on as
#   many devices as there are; ``sweep`` does so if memory does not suffice for two lanes.
# - **Configurations differ in more than numbers.** Shapes, flags and kinds of optimizers are parts
#   of the program. ``sweep`` compiles one program for each combination of such values.
# - **Lanes branch.** Under vmap :func:`jax.lax.cond` computes both branches in every step and a
#   ``while_loop`` runs until its slowest lane is done.
#
# Lanes that diverge
# ------------------
#
# A wide range of learning rates has values that are too large, with which parameters leave the
# range of floating-point numbers. A lane of ``sweep`` never takes a step that would make its
# parameters infinite or NaN: it is stopped there, and reported. The loss is a squared error here,
# which grows without bound.


def squared_loss(params, batch):
    """Return the mean squared error of linear scores against 0 and 1."""
    images, labels = batch
    return jnp.mean((images @ params - jax.nn.one_hot(labels, 10)) ** 2)


result = gdjax.sweep(
    squared_loss, jnp.zeros((64, 10)), gdjax.sgd, {"learning_rate": np.logspace(-2, 2, 9)},
    train, batch_size=60, steps=120,
)  # fmt: skip
for config, step in result.diverged():
    print(f"learning rate {config['learning_rate']:.3g} diverged at step {step}")
print("best:", result.best().config)
result.plot()
plt.show()

# %%
# Red triangles at the top are the lanes that diverged; a grey one is a lane whose loss is finite,
# but beyond the axis. The other lanes are not affected, since lanes have nothing in common but the
# program.
#
# Racing
# ------
#
# A poor learning rate usually shows long before the end. :func:`gdjax.successive_halving` trains
# all configurations for a few steps, keeps the best third, trains those three times as long, and so
# on. The program gets smaller with each rung, since lanes that were dropped are taken out.

space = {"learning_rate": gdjax.log_uniform(1e-4, 1.0), "b1": gdjax.uniform(0.5, 0.99)}
configs = gdjax.sample(space, 27)  # points of a Sobol sequence: even coverage, no grid
race = gdjax.successive_halving(
    loss_fn, init, gdjax.adam, configs, train, steps=135, min_steps=15, **criterion, **options
)
print(f"{race.steps.sum()} steps instead of {27 * 135}")
print({name: float(f"{value:.3g}") for name, value in race.best(**criterion).config.items()})
race.plot_curves(color="learning_rate", **criterion)
plt.show()

# %%
# What is next
# ------------
#
# - :doc:`/guides/training` has more on sweeps and races, and on populations that exchange
#   parameters.
# - :doc:`/guides/search` lets Optuna choose the configurations.
# - :doc:`t06_hypergradients` replaces trying by derivatives.
