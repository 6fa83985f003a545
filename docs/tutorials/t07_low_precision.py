"""
Low precision
=============

Parameters of two bytes in place of four save memory, but in bfloat16 small updates are rounded
away, and training stops long before it is done. This tutorial shows why, what mends it and what
that costs. It then stores the memory of Adam in one byte per number, and shows what the scale of a
loss is for in float16.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import gdjax

# %%
# Why bfloat16 stops
# ------------------
#
# A bfloat16 number has 8 binary digits. Its neighbours lie at a relative distance of
# :math:`2^{-8}` to :math:`2^{-7}`, so an update that is smaller than half of that is rounded away:

x = jnp.bfloat16(1.0)
for update in (0.01, 0.003, 0.001):
    print(f"1 - {update} = {float(x - jnp.bfloat16(update))}")

# %%
# Adam changes each parameter by about the learning rate, so with a learning rate of 0.001 a
# parameter near 1 does not move at all, however many steps there are and whatever the gradient is.
#
# On a real problem
# -----------------
#
# A network for the digits, trained in the same way in float32, in bfloat16, and in bfloat16 with
# three wrappers that work around any optimizer:
#
# - ``with_stochastic_rounding`` rounds up or down at random, so that the *mean* of the rounded
#   number is right. It needs no memory.
# - ``with_kahan`` keeps what rounding took away in a second bfloat16 number, and adds it in later
#   steps (Kahan summation).
# - ``with_master_weights`` keeps it in float32. The optimizer then takes the steps of float32
#   parameters, and the bfloat16 ones are these, rounded.

images, labels = load_digits(return_X_y=True)
order = np.random.default_rng(0).permutation(len(labels))
images, labels = (images[order] / 16).astype("float32"), labels[order].astype("int32")
train, held_out = (images[:1200], labels[:1200]), (images[1200:], labels[1200:])


def init(key):
    """Return the parameters of a network with one hidden layer, in float32."""
    hidden, out = jax.random.split(key)
    return {
        "hidden": jax.random.normal(hidden, (64, 64)) / 8,
        "out": jax.random.normal(out, (64, 10)) / 8,
    }


def loss_fn(params, batch):
    """Return the mean cross-entropy over a batch, computed in the dtype of the parameters."""
    images, labels = batch
    images = images.astype(params["out"].dtype)
    logits = jax.nn.relu(images @ params["hidden"]) @ params["out"]
    losses = gdjax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels)
    return losses.mean()


def cast(tree, dtype):
    """Return a tree in another dtype."""
    return jax.tree.map(lambda x: x.astype(dtype), tree)


def loss_in_float32(params, batch):
    """Return the loss, computed in float32 for all."""
    return loss_fn(cast(params, jnp.float32), batch)


params = init(jax.random.key(0))
half = cast(params, jnp.bfloat16)
adam = gdjax.adam(2e-4)
runs = {
    "float32": (params, adam),
    "bfloat16": (half, adam),
    "stochastic rounding": (half, gdjax.with_stochastic_rounding(adam, key=0)),
    "Kahan": (half, gdjax.with_kahan(adam)),
    "master weights": (half, gdjax.with_master_weights(adam)),
}
options = dict(batch_size=60, steps=2000, report_every=100, held_out=held_out)


def bytes_of(tree):
    """Return the size of all arrays of a tree."""
    return sum(x.nbytes for x in jax.tree.leaves(tree))


fig, ax = plt.subplots(figsize=(7, 3.8), layout="constrained")
print("                     held-out loss   bytes per parameter: parameter, state")
count = sum(x.size for x in jax.tree.leaves(params))
for (name, (begin, optimizer)), style in zip(runs.items(), ("-", "-", "-", "-", ":")):
    result = gdjax.fit(loss_fn, begin, optimizer, train, metric_fn=loss_in_float32, **options)
    curve, sizes = result.history["held_out"], (bytes_of(result.params), bytes_of(result.state))
    print(f"{name:22}{curve[-1]:10.3f}{sizes[0] / count:22.1f}{sizes[1] / count:11.1f}")
    ax.semilogy(result.history["step"], curve, style, lw=2, label=name)
ax.set(xlabel="step", ylabel="held-out loss")
ax.legend()
plt.show()

# %%
# With bfloat16 alone the loss stops falling early; the three remedies follow the curve of float32.
# The state of Adam takes 8 bytes, two float32 numbers, in all rows; the remedies differ in what
# they add to it.
#
# Where a remedy stands among wrappers matters: it rounds, so whatever changes updates must be
# inside of it. :doc:`/guides/low-precision` has the rules, and says which one to take.
#
# The memory of Adam in one byte
# ------------------------------
#
# Two float32 numbers for each parameter of two bytes are now the largest part.
# :func:`gdjax.with_slot_dtypes` stores them in fewer bits: ``int8`` and ``uint8`` are codes of one
# byte, with a scale for each block of 256 numbers. The arithmetic of a step remains in float32.

small = gdjax.with_slot_dtypes(adam, mu="int8", nu="uint8", min_size=256)
optimizer = gdjax.with_stochastic_rounding(small, key=0)
result = gdjax.fit(loss_fn, half, optimizer, train, metric_fn=loss_in_float32, **options)
print(f"held-out loss {result.history['held_out'][-1]:.3f}")
print(f"bytes per parameter: {bytes_of(result.params) / count:.2f}, ", end="")
print(f"state {bytes_of(result.state) / count:.2f}")

# %%
# Why codes, and not simply bfloat16? A mean of squares moves by a share of :math:`1 - \beta_2`, for
# Adam 0.001, of its distance to the new square, which bfloat16 rounds away, as it did with the
# parameters above. Here the mean of squares of a constant gradient of 1, which should approach 1:


def mean_of_squares(optimizer, steps=4000):
    """Return the mean of squares, averaged over 256 elements, after each step."""
    grads = jnp.ones(256)

    def step(state, _):
        _, state = optimizer.update(grads, state)
        return state, jnp.mean(gdjax.decoded(state).nu.astype(jnp.float32))

    return jax.lax.scan(step, optimizer.init(grads), length=steps)[1]


fig, ax = plt.subplots(figsize=(7, 3.2), layout="constrained")
ax.plot(mean_of_squares(adam), label="float32")
ax.plot(mean_of_squares(gdjax.adam(2e-4, nu_dtype=jnp.bfloat16)), label="bfloat16")
codes = gdjax.with_slot_dtypes(adam, nu="bfloat16_stochastic", min_size=1)
ax.plot(mean_of_squares(codes), lw=0.8, label="bfloat16_stochastic")
ax.set(xlabel="step", ylabel="mean of squares")
ax.legend()
plt.show()

# %%
# float16 and the scale of the loss
# ---------------------------------
#
# float16 has more digits than bfloat16, 11, but a much smaller range: its least positive number is
# :math:`6 \cdot 10^{-8}`, and smaller gradients become 0. The remedy is to multiply the loss, and
# with it all gradients, by a large number, and to divide the gradients by it in float32.
# :func:`gdjax.with_loss_scale` does that with a scale that adapts; ``fit`` multiplies the loss.
#
# To see it, the loss of the digits is multiplied by :math:`10^{-7}`, which changes nothing for Adam
# with a small ``eps`` except that gradients are small. The scale starts far too large, on purpose.


def tiny_loss(params, batch):
    """Return a loss with tiny gradients."""
    return 1e-7 * loss_fn(params, batch)


half = cast(params, jnp.float16)
adam = gdjax.adam(1e-3, eps=1e-16)
for name, optimizer in [
    ("without a scale", gdjax.with_master_weights(adam)),
    ("with a scale", gdjax.with_loss_scale(gdjax.with_master_weights(adam), init_scale=2.0**45)),
]:
    result = gdjax.fit(tiny_loss, half, optimizer, train, metric_fn=loss_in_float32, **options)
    zeros = jax.grad(lambda p, s=result.state: tiny_loss(p, train) * gdjax.loss_scale(s))(half)
    share = np.mean([np.mean(g == 0) for g in jax.tree.leaves(zeros)])
    print(f"{name:16} held-out loss {result.history['held_out'][-1]:.3f}, ", end="")
    print(f"scale {gdjax.loss_scale(result.state):g}, zeros in the first gradient {share:.0%}")

# %%
# A scale that is too large makes gradients infinite. Such a step is left out, and the scale is
# halved; after 2000 finite steps in a row it is doubled. The number of steps that were left out:

print(gdjax.skipped_steps(result.state))

# %%
# bfloat16 has the range of float32 and needs no scale.
#
# What is next
# ------------
#
# - :doc:`/guides/low-precision` compares the remedies and all formats, and says what stays in
#   float32.
# - The benchmarks in the repository (``bench/low_precision.py``) train a language model in this
#   way.
