"""
First steps
===========

Gradient descent has five steps: write the loss as a function, differentiate it, initialize the
optimizer, compute an update, and add the update to the parameters. This tutorial writes them out
for a small network that classifies handwritten digits, and then lets :func:`gdjax.fit` do the same.
You need to know JAX; nothing of gdjax is assumed.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import gdjax

# %%
# The data
# --------
#
# The digits of scikit-learn are 1797 images of 8 by 8 pixels. The last 297 are held out: training
# never sees them.

images, labels = load_digits(return_X_y=True)
images, labels = (images / 16).astype("float32"), labels.astype("int32")
train, held_out = (images[:1500], labels[:1500]), (images[1500:], labels[1500:])

fig, axes = plt.subplots(1, 8, figsize=(8, 1.3), layout="constrained")
for ax, image, label in zip(axes, images, labels):
    ax.imshow(image.reshape(8, 8), cmap="gray_r")
    ax.set(title=label, xticks=[], yticks=[])
plt.show()

# %%
# 1. The loss is a pure function
# ------------------------------
#
# The parameters are a *pytree*: arrays in any nesting of dicts, lists and tuples. The loss is a
# function of the parameters and of a batch of data, and of nothing else.


def init_params(key):
    """Return the parameters of a network with one hidden layer."""
    k1, k2 = jax.random.split(key)
    return {
        "hidden": {"w": jax.random.normal(k1, (64, 32)) / 8, "b": jnp.zeros(32)},
        "out": {"w": jax.random.normal(k2, (32, 10)) / 6, "b": jnp.zeros(10)},
    }


def logits(params, images):
    """Return the scores of the ten classes."""
    hidden = jax.nn.relu(images @ params["hidden"]["w"] + params["hidden"]["b"])
    return hidden @ params["out"]["w"] + params["out"]["b"]


def loss_fn(params, batch):
    """Return the mean cross-entropy over a batch."""
    images, labels = batch
    losses = gdjax.softmax_cross_entropy_with_integer_labels(logits(params, images), labels)
    return losses.mean()


@jax.jit
def accuracy(params, batch):
    """Return the fraction of images that are classified correctly."""
    images, labels = batch
    return jnp.mean(logits(params, images).argmax(-1) == labels)


params = init_params(jax.random.key(0))
print(f"loss {loss_fn(params, train):.3f}, accuracy {accuracy(params, held_out):.3f}")

# %%
# An untrained network guesses: with ten classes of about equal size, a loss near
# :math:`\ln 10 \approx 2.3` and an accuracy near 0.1 are what to expect.
#
# 2. Differentiate it
# -------------------
#
# :func:`jax.grad` gives the gradient with respect to the first argument, a tree with the structure
# of the parameters.

batch = images[:64], labels[:64]
grads = jax.grad(loss_fn)(params, batch)
print(jax.tree.map(jnp.shape, grads))

# %%
# 3. Initialize the optimizer
# ---------------------------
#
# An optimizer is a pair of pure functions, ``init`` and ``update``. All that it remembers between
# two steps is in its *state*, which ``init`` makes for given parameters.

optimizer = gdjax.adam(0.05)
state = optimizer.init(params)
print(jax.tree.map(jnp.shape, state.mu))  # Adam's running mean of the gradients
print({name: f"{number:g}" for name, number in gdjax.hyperparams(state).items()})

# %%
# The second line is what distinguishes gdjax: the learning rate and the other *hyperparameters*,
# the numbers that steer an optimizer, are arrays in its state.
#
# 4. Compute an update, 5. apply it
# ---------------------------------
#
# ``update`` takes the gradient, the state and the parameters, and returns what to add to the
# parameters, together with the next state. Nothing is changed in place.

updates, new_state = optimizer.update(grads, state, params)
new_params = gdjax.apply_updates(params, updates)  # params + updates
print(f"loss on this batch: {loss_fn(params, batch):.3f} -> {loss_fn(new_params, batch):.3f}")

# %%
# The loop
# --------
#
# Steps 2, 4 and 5 repeat for one batch after another. They are pure functions, so :func:`jax.jit`
# compiles them into one program. JAX runs the Python code of a jitted function only to trace it,
# that is, before it compiles; so a line that has an effect in Python, here the counter, counts
# compilations.

compilations = 0


@jax.jit
def step(params, state, batch):
    """Return the parameters and the state after one step, and the loss before it."""
    global compilations
    compilations += 1
    loss, grads = jax.value_and_grad(loss_fn)(params, batch)
    updates, state = optimizer.update(grads, state, params)
    return gdjax.apply_updates(params, updates), state, loss


def batches(steps, batch_size, seed=0):
    """Yield random batches of the training data."""
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        chosen = rng.choice(len(train[0]), batch_size, replace=False)
        yield train[0][chosen], train[1][chosen]


losses = []
for batch in batches(steps=300, batch_size=64):
    params, state, loss = step(params, state, batch)
    losses.append(float(loss))
print(f"held-out accuracy {accuracy(params, held_out):.3f}, compilations: {compilations}")

# %%
# Change a number without compiling again
# ---------------------------------------
#
# :func:`gdjax.with_hyperparams` returns a state with other numbers. The program takes the state as
# an argument, so a new learning rate is new data for the same program. Here it is divided by ten
# after the first 300 steps.

state = gdjax.with_hyperparams(state, learning_rate=0.005)
for batch in batches(steps=300, batch_size=64, seed=1):
    params, state, loss = step(params, state, batch)
    losses.append(float(loss))
print(f"learning rate {gdjax.hyperparams(state)['learning_rate']:.3f}")
print(f"held-out accuracy {accuracy(params, held_out):.3f}, compilations: {compilations}")
print(f"mean loss of steps 200 to 300: {np.mean(losses[200:300]):.4f}, ", end="")
print(f"of steps 500 to 600: {np.mean(losses[500:]):.4f}")

fig, ax = plt.subplots(figsize=(7, 3.2), layout="constrained")
ax.semilogy(losses, lw=0.8)
ax.axvline(300, color="k", ls="--", lw=1)
ax.text(305, max(losses) / 1.5, "learning rate 0.05 → 0.005")
ax.set(xlabel="step", ylabel="loss of the batch")
plt.show()

# %%
# The loss of a batch varies from step to step, since each batch has other images. With the smaller
# learning rate it is lower on average; the program is still the first one.
#
# A number that is *not* in the state has to be compiled anew for each of its values. The usual
# example is a learning rate that the jitted function closes over:

compilations = 0


def make_step(learning_rate):
    """Return a step of gradient descent with a fixed learning rate."""

    @jax.jit
    def fixed_step(params, batch):
        global compilations
        compilations += 1
        grads = jax.grad(loss_fn)(params, batch)
        return jax.tree.map(lambda p, g: p - learning_rate * g, params, grads)

    return fixed_step


for learning_rate in [0.1, 0.05, 0.02, 0.01]:
    make_step(learning_rate)(params, batch)
print(f"compilations: {compilations}")

# %%
# The ``update`` function of gdjax depends only on what kind of optimizer it is, not on its numbers,
# so that optimizers that were made separately share their programs:

print(gdjax.adam(1e-3).update is gdjax.adam(0.3).update)

# %%
# Let ``fit`` do it
# -----------------
#
# :func:`gdjax.fit` compiles the loop as a whole: shuffled batches, steps, and the evaluation on
# held-out data.

result = gdjax.fit(
    loss_fn,
    init_params(jax.random.key(0)),
    gdjax.adam(0.05),
    train,
    batch_size=64,
    epochs=20,
    held_out=held_out,
    metric_fn=lambda params, batch: {"accuracy": accuracy(params, batch)},
)
print(result)
result.plot()
plt.show()

# %%
# It takes the same steps as the loop above. To see it, both take all data in every step, so that
# the order of the batches does not matter:

params = init_params(jax.random.key(0))
state = optimizer.init(params)
by_hand = []
for _ in range(20):
    params, state, loss = step(params, state, train)
    by_hand.append(float(loss))

whole = gdjax.fit(loss_fn, init_params(jax.random.key(0)), gdjax.adam(0.05), train, steps=20)
print("largest difference of the losses:", np.abs(whole.history["loss"] - by_hand).max())

# %%
# What is next
# ------------
#
# - A learning rate is best chosen by trying many: :doc:`t02_sweeps`.
# - Other optimizers are used in the same way; :doc:`/guides/how-to-choose` says which one is for
#   what.
# - :doc:`/guides/training` has all that ``fit`` can do, and :doc:`t05_training_runs` shows it.
