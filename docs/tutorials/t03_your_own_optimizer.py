"""
Your own optimizer in fifteen lines
===================================

An optimizer is a rule for one array. gdjax lifts such a rule to trees of parameters, keeps its
numbers in the state, and sees to precision, compilation and errors. This tutorial writes one that
gdjax does not have, checks it against an independent implementation, and uses it wherever the
built-in ones can be used.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import gdjax

# %%
# The rule
# --------
#
# *PowerSign* was found by a search over formulas (`Bello et al. 2017
# <https://arxiv.org/abs/1709.07417>`_). It compares the sign of the gradient :math:`g_t` with the
# sign of its running mean :math:`m_t`, elementwise. Where both agree, the step is longer than that
# of gradient descent; where they differ, it is shorter:
#
# .. math::
#
#    m_t &= \beta m_{t-1} + (1 - \beta) g_t \\
#    x_t &= x_{t-1} - \eta \, \alpha^{\operatorname{sign}(g_t) \operatorname{sign}(m_t)} g_t
#
# A rule for one array, the memory it needs, and a function that makes the optimizer:


class Mean(NamedTuple):
    """What is remembered of one parameter."""

    mu: jax.Array  # the running mean of the gradient


def zero_mean(param) -> Mean:
    """Return the memory before the first step, in at least float32."""
    return Mean(jnp.zeros_like(param, dtype=jnp.promote_types(param.dtype, jnp.float32)))


def powersign_rule(grad, slots, param, count, *, base, decay):
    """Return the direction, against which the optimizer steps, and the memory after the step."""
    mu = decay * slots.mu + (1 - decay) * grad
    return base ** (jnp.sign(grad) * jnp.sign(mu)) * grad, Mean(mu)


@gdjax.checked(base=gdjax.Range("finite and >= 1", lambda x: 1 <= x < np.inf))
def powersign(learning_rate, base=np.e, decay=0.9):
    """Make steps longer where gradient and running mean agree in sign."""
    return gdjax.descend(powersign_rule, zero_mean, dict(base=base, decay=decay), learning_rate)


# %%
# That is all. The rule's arguments are the gradient, the memory, the parameter and the number of
# the step, 1 in the first, all for one array; after the star come the numbers by name.
#
# :func:`gdjax.descend` multiplies the direction by the negative learning rate.
# :func:`gdjax.checked` declares the ranges of numbers: those of the names that all optimizers share
# (``learning_rate``, ``decay``, ``eps``, ...) are known, others are given as a
# :class:`gdjax.Range`.

optimizer = powersign(0.1)
params = {"w": jnp.array([1.0, -2.0]), "b": jnp.zeros(())}
state = optimizer.init(params)
print({name: f"{number:g}" for name, number in gdjax.hyperparams(state).items()})

for wrong in [dict(learning_rate=-0.1), dict(learning_rate=0.1, base=0.5), dict(lr=0.1)]:
    try:
        powersign(**wrong)
    except (TypeError, ValueError) as error:
        print(error)

# %%
# Three things to keep in mind when you write a rule:
#
# - *Numbers are arguments.* A rule that closes over a number would be another function for each
#   value, and would be compiled for each.
# - *The rule is a function of a module*, not defined within ``powersign``: programs are kept by
#   rule.
# - *Memory is at least float32.* Parameters may be bfloat16, in which a running mean stops moving
#   (:doc:`t07_low_precision`). The rule itself always gets arrays of at least float32.
#
# Check it
# --------
#
# An optimizer with a wrong sign or a forgotten factor often still trains, only worse. So write the
# formula a second time, independently, and compare numbers. The second one need not be fast or
# general; NumPy in float64 is enough.


def powersign_in_numpy(x, gradient_of, steps, learning_rate, base, decay):
    """Return the parameters after some steps, by a loop in float64."""
    x, m = np.array(x, np.float64), np.zeros(len(x))
    for _ in range(steps):
        g = gradient_of(x)
        m = decay * m + (1 - decay) * g
        x = x - learning_rate * base ** (np.sign(g) * np.sign(m)) * g
    return x


curvatures = np.array([1.0, 3.0, 10.0])  # of f(x) = sum(curvatures * x**2) / 2, asymmetric
start = np.array([1.0, -2.0, 0.5])
numbers = dict(learning_rate=0.05, base=1.7, decay=0.6)  # none of them a default

jax.config.update("jax_enable_x64", True)  # compare in float64
optimizer, x = powersign(**numbers), jnp.asarray(start)
state = optimizer.init(x)
for _ in range(20):
    updates, state = optimizer.update(curvatures * x, state, x)
    x = gdjax.apply_updates(x, updates)
expected = powersign_in_numpy(start, lambda x: curvatures * x, 20, **numbers)
print("after 20 steps:", x)
print("largest difference:", float(np.abs(x - expected).max()))
jax.config.update("jax_enable_x64", False)

# %%
# The difference is that of rounding in float64.
#
# Use it
# ------
#
# Everything that takes an optimizer takes this one. The numbers of ``powersign`` can be swept by
# the names of its arguments:

images, labels = load_digits(return_X_y=True)
order = np.random.default_rng(0).permutation(len(labels))
images, labels = (images[order] / 16).astype("float32"), labels[order].astype("int32")
train, held_out = (images[:1200], labels[:1200]), (images[1200:], labels[1200:])


def loss_fn(params, batch):
    """Return the mean cross-entropy of a linear classifier."""
    logits = batch[0] @ params["w"] + params["b"]
    return gdjax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()


zeros = {"w": jnp.zeros((64, 10)), "b": jnp.zeros(10)}
result = gdjax.sweep(
    loss_fn,
    zeros,
    powersign,
    {"learning_rate": np.logspace(-2, 0.5, 8), "base": [1.0, 1.5, np.e]},
    train,
    batch_size=60,
    steps=100,
    held_out=held_out,
)
result.plot(by="held_out", mode="min")
plt.show()

# %%
# With ``base=1`` the rule is gradient descent, so the picture compares the two. The curves of the
# larger bases are that of gradient descent, moved to the left: on this problem, they act mostly as
# a larger learning rate.
#
# A schedule is a number that depends on the step; in a chain, gradients pass through other
# transformations first; numbers may differ between parameters:

optimizer = gdjax.chain(
    gdjax.clip_by_global_norm(1.0),
    powersign(
        gdjax.cosine_decay_schedule(0.5, decay_steps=100),
        base=gdjax.by_path({r"b": 1.0, r".*": np.e}),  # plain gradient descent for the biases
    ),
)
options = dict(batch_size=60, steps=100, held_out=held_out)
result = gdjax.fit(loss_fn, zeros, optimizer, train, **options)
print(f"held-out loss {result.history['held_out'][-1]:.3f}")

# %%
# In bfloat16 the parameters have two bytes; the memory of the rule stays in float32, and wrappers
# for low precision work as for any optimizer:

in_bfloat16 = jax.tree.map(lambda x: x.astype(jnp.bfloat16), zeros)
optimizer = gdjax.with_stochastic_rounding(powersign(0.5), key=0)
result = gdjax.fit(loss_fn, in_bfloat16, optimizer, train, **options)
print(f"held-out loss {result.history['held_out'][-1]:.3f},", result.params["w"].dtype)

# %%
# A transformation of gradients
# -----------------------------
#
# A rule without a learning rate, to be used in a chain, is lifted by :func:`gdjax.leafwise`. Then
# what the rule returns is the new gradient. This one halves elements of the gradient whose sign
# differs from the one before:


class Last(NamedTuple):
    """The gradient before."""

    grad: jax.Array


def last_of(param) -> Last:
    """Return the memory before the first step."""
    return Last(jnp.zeros_like(param, dtype=jnp.promote_types(param.dtype, jnp.float32)))


def damp_rule(grad, slots, param, count, *, factor):
    """Shrink what changed its sign."""
    return jnp.where(grad * slots.grad < 0, factor * grad, grad), Last(grad)


def damp_reversals(factor=0.5):
    """Multiply elements of the gradient that changed their sign by a factor."""
    return gdjax.leafwise(damp_rule, last_of, dict(factor=factor))


optimizer = gdjax.chain(damp_reversals(), gdjax.sgd(1.0))
params = jnp.array([1.0, 1.0])
state = optimizer.init(params)
for grads in ([1.0, 1.0], [-1.0, 1.0]):
    updates, state = optimizer.update(jnp.array(grads), state, params)
    print(updates)

# %%
# A rule for the whole tree
# -------------------------
#
# A rule for one array cannot know the others. What needs all of them, such as the norm of the whole
# gradient, is lifted by :func:`gdjax.treewise`; its rule gets the trees. The memory can be any
# tree, here one number. This one limits the norm to a multiple of its own running mean:


class MeanNorm(NamedTuple):
    """The running mean of the norm of the gradient."""

    norm: jax.Array


def no_norm(params) -> MeanNorm:
    """Return the memory before the first step."""
    return MeanNorm(jnp.zeros(()))


def limit_rule(grads, slots, params, count, *, decay, factor):
    """Scale the whole gradient down if its norm is far above the running mean."""
    norm = gdjax.tree.norm(grads)
    mean = jnp.where(count == 1, norm, slots.norm)
    scale = jnp.minimum(1, factor * mean / jnp.maximum(norm, 1e-30))
    mean = decay * mean + (1 - decay) * scale * norm
    return jax.tree.map(lambda g: scale * g, grads), MeanNorm(mean)


@gdjax.checked(factor=gdjax.Range("finite and > 0", lambda x: 0 < x < np.inf))
def limit_norm(decay=0.9, factor=2.0):
    """Limit the norm of the gradient to a multiple of its running mean."""
    return gdjax.treewise(limit_rule, no_norm, dict(decay=decay, factor=factor))


optimizer = limit_norm()
state = optimizer.init(zeros)
lengths = [1.0, 1.2, 0.8, 30.0, 1.0]
for length in lengths:
    grads = jax.tree.map(lambda x, n=length: jnp.full_like(x, n / 650**0.5), zeros)
    grads, state = optimizer.update(grads, state)
    print(f"norm {length:4.1f} -> {gdjax.tree.norm(grads):.2f}")

# %%
# What is next
# ------------
#
# - The file of each optimizer in gdjax is written in this way: follow the link ``[source]`` of
#   :func:`gdjax.lion` or :func:`gdjax.adam` in the reference.
# - To contribute one, read ``CONTRIBUTING.md`` in the repository.
# - :doc:`/design` says what all optimizers promise.
