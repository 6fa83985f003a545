"""
Hypergradients
==============

The loss on held-out data after training is a function of the learning rate, and of every other
hyperparameter. A training run consists of differentiable operations, so this function has a
derivative, the *hypergradient*, and JAX can compute it. This tutorial compares it with finite
differences, learns a learning rate for each layer and a schedule by gradient descent, measures the
memory that it takes, and shows where it is useless.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import gdjax

images, labels = load_digits(return_X_y=True)
order = np.random.default_rng(0).permutation(len(labels))
images, labels = jnp.asarray(images[order] / 16, jnp.float32), jnp.asarray(labels[order])
train, held_out = (images[:600], labels[:600]), (images[600:1200], labels[600:1200])
STEPS = 40


def init(key):
    """Return the parameters of a network with one hidden layer."""
    hidden, out = jax.random.split(key)
    return {
        "hidden": jax.random.normal(hidden, (64, 16)) / 8,
        "out": jax.random.normal(out, (16, 10)) / 4,
    }


def loss_fn(params, batch):
    """Return the mean cross-entropy over a batch."""
    images, labels = batch
    logits = jnp.tanh(images @ params["hidden"]) @ params["out"]
    return gdjax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


params = init(jax.random.key(0))

# %%
# Differentiate a training run
# ----------------------------
#
# :func:`gdjax.unroll` is ``fit`` for use inside of a function: it takes traced numbers and returns
# the trained parameters. As learning rates are compared on a logarithmic scale, the variable here
# is :math:`\log \eta`.


def loss_after_training(log_rate):
    """Train with a learning rate; return the loss on the held-out data."""
    optimizer = gdjax.sgd(jnp.exp(log_rate), momentum=0.9)
    trained = gdjax.unroll(loss_fn, params, optimizer, train, steps=STEPS, batch_size=60)
    return loss_fn(trained, held_out)


# %%
# The derivative by one number is cheapest in forward mode, :func:`jax.jvp`: the tangent of every
# array is computed along with it. Both functions are vmapped over 61 learning rates.


@jax.jit
@jax.vmap
def loss_and_slope(log_rate):
    """Return the held-out loss and its derivative by log_rate."""
    return jax.jvp(loss_after_training, (log_rate,), (jnp.ones(()),))


log_rates = jnp.linspace(jnp.log(1e-3), jnp.log(3.0), 61)
losses, slopes = loss_and_slope(log_rates)

fig, ax = plt.subplots(figsize=(7, 3.6), layout="constrained")
ax.semilogx(jnp.exp(log_rates), losses, "k", lw=1)
for i in range(4, 60, 8):
    along = jnp.array([-0.5, 0.5])
    ax.plot(jnp.exp(log_rates[i] + along), losses[i] + slopes[i] * along, lw=2)
ax.set(xlabel="learning rate", ylabel=f"held-out loss after {STEPS} steps", ylim=(0, 3))
plt.show()

# %%
# The black curve is the held-out loss, the coloured lines are tangents with the computed slopes.
# Where the curve is smooth, they touch it. Finite differences agree there up to what rounding in
# float32 and the width of the difference allow:

width = 0.02
above, below = (loss_and_slope(log_rates + shift)[0] for shift in (width, -width))
differences = (above - below) / (2 * width)
for i in (12, 28, 36):
    rate = jnp.exp(log_rates[i])
    print(f"rate {rate:.3f}: derivative {slopes[i]:.4f}, difference {differences[i]:.4f}")

# %%
# Learn several numbers
# ---------------------
#
# :func:`gdjax.hypergradient` returns the loss and its gradient by a tree of numbers. Up to four
# numbers it uses forward mode, for more reverse mode, whose cost does not depend on how many there
# are.
#
# Here are six: a learning rate for each of the two layers, and the factors of a schedule at four
# knots. Adam minimizes the held-out loss over their logarithms.


@gdjax.schedule
class Knots(gdjax.Schedule):
    """A learning rate times factors at evenly spaced steps, interpolated."""

    rate: float
    factors: float

    def __call__(self, count):
        """Return the rate for update number `count`."""
        return self.rate * jnp.interp(count, jnp.linspace(0, STEPS - 1, 4), self.factors)


def schedules(values):
    """Return the schedule of each layer."""
    rates, factors = jnp.exp(values["log_rates"]), jnp.exp(values["log_factors"])
    return {"hidden": Knots(rates[0], factors), "out": Knots(rates[1], factors)}


def fit_fn(values, checkpoint=True, steps=STEPS):
    """Train with the schedules; return the loss on the held-out data."""
    trained = gdjax.unroll(
        loss_fn, params, gdjax.sgd(schedules(values), momentum=0.9), train,
        steps=steps, batch_size=60, checkpoint=checkpoint,
    )  # fmt: skip
    return loss_fn(trained, held_out)


start = {"log_rates": jnp.log(jnp.full(2, 0.02)), "log_factors": jnp.zeros(4)}
outer = gdjax.adam(gdjax.cosine_decay_schedule(0.2, 30))
values, state, history = start, outer.init(start), []
step = jax.jit(lambda values: gdjax.hypergradient(fit_fn, values))
for _ in range(30):
    loss, grads = step(values)
    history.append(float(loss))
    updates, state = outer.update(grads, state, values)
    values = gdjax.apply_updates(values, updates)
print(f"held-out loss {history[0]:.3f} -> {history[-1]:.3f}")

fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.3), layout="constrained")
left.plot(history, "o-", ms=3)
left.set(xlabel="update of the hyperparameters", ylabel="held-out loss")
count = jnp.arange(STEPS)
for name, schedule in schedules(values).items():
    right.plot(count, jax.vmap(schedule)(count), label=f"{name}, learned")
right.plot(count, jax.vmap(schedules(start)["out"])(count), "k--", label="both, at the start")
right.set(xlabel="step", ylabel="learning rate", yscale="log")
right.legend(fontsize="small")
plt.show()

# %%
# Two warnings. The held-out data were used to choose six numbers, so their loss is no longer an
# unbiased estimate: report the loss on a third set. And the numbers are best for 40 steps:
# hyperparameters that are learned over a short run favour what pays off quickly (`Wu et al. 2018
# <https://arxiv.org/abs/1803.02021>`_).
#
# Memory
# ------
#
# Reverse mode goes through the run backwards and needs the parameters of every step, or computes
# them again. ``unroll`` keeps only every :math:`\sqrt{n}`-th state of :math:`n` steps and computes
# those in between once more; ``checkpoint=False`` keeps all. What XLA reserves for the gradient:

print("steps   all kept   every sqrt(n)-th")
for steps in (36, 576):
    sizes = []
    for checkpoint in (False, True):
        gradient = jax.grad(lambda v, c=checkpoint, n=steps: fit_fn(v, c, n))
        program = jax.jit(gradient).lower(start).compile()
        sizes.append(program.memory_analysis().temp_size_in_bytes / 1e6)
    print(f"{steps:5}{sizes[0]:8.2f} MB{sizes[1]:11.2f} MB")

# %%
# The second row has 16 times as many steps, and the square root of 16 is 4. Forward mode keeps no
# states at all: it needs the memory of one more run for each number.
#
# Where the derivative is useless
# -------------------------------
#
# At large learning rates training is chaotic: a tiny change of the rate changes the end of the run
# completely. The derivative is then still computed correctly, but it says nothing about the loss at
# any distance. The slopes of the first picture, in absolute value, and a part of the curve,
# enlarged:

close = jnp.linspace(jnp.log(1.0), jnp.log(1.2), 61)
close_losses, close_slopes = loss_and_slope(close)
fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.3), layout="constrained")
left.loglog(jnp.exp(log_rates), jnp.abs(slopes), "o-", ms=3)
left.set(xlabel="learning rate", ylabel="absolute value of the derivative")
right.plot(jnp.exp(close), close_losses, "o-", ms=3, lw=0.6)
right.set(xlabel="learning rate", ylabel="held-out loss", xticks=[1.0, 1.05, 1.1, 1.15, 1.2])
plt.show()
middle = 30
difference = (close_losses[middle + 1] - close_losses[middle - 1]) / (close[2] - close[0])
print(f"derivative {close_slopes[middle]:.3g}, difference between neighbours {difference:.3g}")

# %%
# Before trusting a hypergradient, compare it with a difference over the distance that you mean to
# move. What helps: smaller learning rates, fewer steps, logarithms as variables, a limit on the
# norm of the hypergradient, and, where nothing does, a search without derivatives
# (:doc:`/guides/search`).
#
# What is next
# ------------
#
# - A larger example of the same kind is in the gallery:
#   :doc:`/generated/examples/hypergradients`.
# - Solutions of minimizations that run to convergence are differentiated without unrolling, see
#   ``implicit_diff`` in :doc:`/guides/solvers`.
