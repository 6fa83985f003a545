"""From torch.optim
================

This tutorial translates a training program from PyTorch, step by step, and checks the arithmetic of
the optimizer against numbers that PyTorch has computed. The guide
:doc:`/guides/migrating-from-torch` has the tables: optimizers, arguments and defaults that differ,
schedulers, and patterns such as parameter groups, mixed precision and closures.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import gdjax

# %%
# The program
# -----------
#
# A classifier of handwritten digits, with AdamW, a one-cycle schedule, clipped gradients and an
# average of the weights. In PyTorch:
#
# .. code-block:: python
#
#    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
#    decay = [p for p in model.parameters() if p.ndim > 1]
#    rest = [p for p in model.parameters() if p.ndim <= 1]
#    optimizer = torch.optim.AdamW(
#        [{"params": decay}, {"params": rest, "weight_decay": 0.0}], lr=1e-2, weight_decay=1e-2
#    )
#    scheduler = OneCycleLR(optimizer, max_lr=1e-2, total_steps=400, cycle_momentum=False)
#    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.99))
#
#    for epoch in range(20):
#        for x, y in loader:  # batches of 64
#            optimizer.zero_grad()
#            loss = F.cross_entropy(model(x), y)
#            loss.backward()
#            clip_grad_norm_(model.parameters(), 1.0)
#            optimizer.step()
#            scheduler.step()
#            averaged.update_parameters(model)
#
# The model
# ---------
#
# In JAX the model is a function of its parameters. The parameters are a tree of arrays, here nested
# dicts; libraries such as Flax and Equinox make such trees from classes
# (:doc:`/guides/other-libraries`).

images, labels = load_digits(return_X_y=True)
order = np.random.default_rng(0).permutation(len(labels))
images, labels = np.float32(images[order] / 16), labels[order]
train, held_out = (images[:1280], labels[:1280]), (images[1280:], labels[1280:])


def init(key):
    first, second = jax.random.split(key)
    return {
        "hidden": {"w": jax.random.normal(first, (64, 32)) / 8, "b": jnp.zeros(32)},
        "out": {"w": jax.random.normal(second, (32, 10)) / 6, "b": jnp.zeros(10)},
    }


def model(params, x):
    hidden = jax.nn.relu(x @ params["hidden"]["w"] + params["hidden"]["b"])
    return hidden @ params["out"]["w"] + params["out"]["b"]


def loss_fn(params, batch):
    x, y = batch
    return gdjax.softmax_cross_entropy_with_integer_labels(model(params, x), y).mean()


def accuracy(params, batch):
    x, y = batch
    return {"accuracy": jnp.mean(model(params, x).argmax(-1) == y)}


# %%
# The optimizer
# -------------
#
# It is one object, made of parts, which read from the inside to the outside as the loop above does
# from top to bottom:
#
# - the scheduler is a function of the step count in place of the learning rate;
# - the parameter groups are numbers by path: the first pattern that matches decides;
# - clipping is a link of the chain, before the optimizer;
# - the average is a wrapper.

schedule = gdjax.cosine_onecycle_schedule(400, 1e-2)
optimizer = gdjax.average(
    gdjax.chain(
        gdjax.clip_by_global_norm(1.0),
        gdjax.adamw(schedule, weight_decay=gdjax.by_path({r".*b": 0.0, r".*": 1e-2})),
    ),
    decay=0.99,
)

# %%
# The loop
# --------
#
# The translation line by line. ``loss.backward()`` is `jax.value_and_grad`, which returns the
# gradients instead of storing them in the parameters, so there is nothing to set to zero.
# ``optimizer.step()`` is ``update``: it takes the state and returns the next one. `jax.jit`
# compiles the step.


@jax.jit
def step(params, state, batch):
    loss, grads = jax.value_and_grad(loss_fn)(params, batch)
    updates, state = optimizer.update(grads, state, params)
    return gdjax.apply_updates(params, updates), state, loss


params = init(jax.random.key(0))
state = optimizer.init(params)
rng, losses = np.random.default_rng(1), []
for _ in range(20):
    for rows in rng.permutation(1280).reshape(20, 64):
        params, state, loss = step(params, state, (train[0][rows], train[1][rows]))
        losses.append(loss)

averaged = gdjax.eval_params(state, params)
for name, p in (("last", params), ("averaged", averaged)):
    print(f"held-out accuracy of the {name} weights: {accuracy(p, held_out)['accuracy']:.3f}")

# %%
# `gdjax.fit` is this loop as one compiled program, with shuffled batches, held-out metrics and much
# else (:doc:`/guides/training`). With an optimizer that averages, its metrics are those of the
# averaged weights.

result = gdjax.fit(
    loss_fn, init(jax.random.key(0)), optimizer, train, batch_size=64, epochs=20,
    held_out=held_out, metric_fn=accuracy,
)  # fmt: skip
print(f"fit: {result.steps} steps, held-out accuracy {result.history['accuracy'][-1]:.3f}")

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
left.plot(jax.vmap(schedule)(jnp.arange(400)))
left.set(xlabel="step", ylabel="learning rate", title="one cycle")
right.plot(losses, label="the loop")
right.plot(result.history["loss"], label="fit", alpha=0.7)
right.set(xlabel="step", ylabel="training loss", yscale="log", title="training")
right.legend()
plt.show()

# %%
# The same numbers
# ----------------
#
# Is it the same arithmetic? PyTorch 2.13 has run 20 steps with each optimizer below from (1, -2,
# 3), with the gradient :math:`p \cdot (1, 10, 0.1) + \sin p`, in float64. The last column is what
# it found for the second parameter.

jax.config.update("jax_enable_x64", True)
rows = [
    (
        "SGD, momentum=0.9, nesterov=True",
        gdjax.sgd(0.01, momentum=0.9, nesterov=True),
        -0.190965361687,
    ),
    ("Adam", gdjax.adam(0.01), -1.80115445775),
    (
        "Adam, weight_decay=0.1",
        gdjax.chain(gdjax.add_decayed_weights(0.1), gdjax.adam(0.01)),
        -1.80115541487,
    ),
    ("AdamW", gdjax.adamw(0.01, weight_decay=0.01), -1.79737134851),
    ("RMSprop", gdjax.rmsprop(0.01, 0.99, eps_in_sqrt=False), -1.2863863536),
    ("RMSprop, with gdjax's defaults", gdjax.rmsprop(0.01), -1.2863863536),
]
print(f"{'torch.optim, lr=0.01':34}{'gdjax':>16}{'PyTorch':>16}")
for name, optimizer, torch in rows:
    p = jnp.array([1.0, -2.0, 3.0])
    state = optimizer.init(p)
    for _ in range(20):
        updates, state = optimizer.update(p * jnp.array([1.0, 10.0, 0.1]) + jnp.sin(p), state, p)
        p = gdjax.apply_updates(p, updates)
    print(f"{name:34}{p[1]:16.10f}{torch:16.10f}")

# %%
# Two things are easily overlooked:
#
# - ``weight_decay`` of PyTorch's ``Adam`` and ``SGD`` is added to the gradient, as
#   `gdjax.add_decayed_weights` before the optimizer does. In ``AdamW`` it is decoupled, with the
#   default 0.01; that of `gdjax.adamw` is 1e-4.
# - The defaults of ``RMSprop`` and ``Adagrad`` are others, as the last row shows.
#
# Why numbers are in the state
# ----------------------------
#
# PyTorch changes ``optimizer.param_groups[0]["lr"]``; here `gdjax.with_hyperparams` returns a state
# with another number, and no program is compiled anew. Since all numbers are arrays in the state, a
# whole training run is a function of them, which can be mapped: see
# :ref:`sphx_glr_generated_tutorials_t02_sweeps.py`.

state = gdjax.adam(1e-3).init(params)
state = gdjax.with_hyperparams(state, learning_rate=3e-4)
print({name: f"{value:.4g}" for name, value in gdjax.hyperparams(state).items()})
