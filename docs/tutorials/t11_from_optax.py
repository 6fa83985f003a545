"""From optax
==========

A program that uses optax runs with gdjax after one import has changed, and gives the same numbers.
This tutorial shows it, then translates the parts that gdjax writes differently, and ends with a
table of all arguments that differ. Reasons and details are in the guide :doc:`/guides/migrating`.
"""

import inspect
import time

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import optax.contrib
from sklearn.datasets import load_digits

import gdjax
import gdjax.compat.optax

# %%
# A program with optax
# --------------------
#
# A small network classifies handwritten digits, with AdamW, a warm-up, clipped gradients, and no
# weight decay for biases. To run it several times, the library is an argument, ``ox``; everything
# else is an ordinary program with optax.

images, labels = load_digits(return_X_y=True)
order = np.random.default_rng(0).permutation(len(labels))
images, labels = jnp.asarray(images[order] / 16, jnp.float32), jnp.asarray(labels[order])
batches = images[:1536].reshape(24, 64, 64), labels[:1536].reshape(24, 64)


def init(key):
    first, second = jax.random.split(key)
    return {
        "hidden": {"w": jax.random.normal(first, (64, 32)) / 8, "b": jnp.zeros(32)},
        "out": {"w": jax.random.normal(second, (32, 10)) / 6, "b": jnp.zeros(10)},
    }


def logits(params, x):
    hidden = jax.nn.relu(x @ params["hidden"]["w"] + params["hidden"]["b"])
    return hidden @ params["out"]["w"] + params["out"]["b"]


def train(ox, tx, steps=96):
    """Train with the optimizer `tx` of the library `ox`; return parameters, state and losses."""

    def loss_fn(params, batch):
        x, y = batch
        return ox.softmax_cross_entropy_with_integer_labels(logits(params, x), y).mean()

    def step(carry, i):
        params, state = carry
        batch = jax.tree.map(lambda a: a[i % 24], batches)
        loss, grads = jax.value_and_grad(loss_fn)(params, batch)
        updates, state = tx.update(grads, state, params)
        return (ox.apply_updates(params, updates), state), loss

    params = init(jax.random.key(0))
    carry, losses = jax.lax.scan(step, (params, tx.init(params)), jnp.arange(steps))
    return *carry, losses


def optimizer(ox):
    schedule = ox.warmup_cosine_decay_schedule(0.0, 1e-2, warmup_steps=10, decay_steps=96)
    no_biases = lambda params: jax.tree.map(lambda p: p.ndim > 1, params)  # noqa: E731
    return ox.chain(
        ox.clip_by_global_norm(1.0), ox.adamw(schedule, weight_decay=1e-2, mask=no_biases)
    )


# %%
# Now the same program with optax, with ``from gdjax.compat import optax``, and with gdjax itself,
# whose names are those of optax wherever the concept is the same:

runs = {
    "optax": optax,
    "gdjax.compat.optax": gdjax.compat.optax,
    "gdjax": gdjax,
}
results = {name: jax.jit(lambda ox=ox: train(ox, optimizer(ox)))() for name, ox in runs.items()}
reference = results["optax"][2]
for name, (_, _, losses) in results.items():
    apart = np.abs(losses / reference - 1).max()
    print(f"{name:19} last loss {losses[-1]:.5f}, largest relative difference {apart:.0e}")

figure, ax = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
for (name, (_, _, losses)), width in zip(results.items(), (7, 4, 1.2), strict=True):
    ax.plot(losses, linewidth=width, alpha=0.4 if width > 2 else 1, label=name)
ax.set(xlabel="step", ylabel="training loss", yscale="log")
ax.legend()
plt.show()

# %%
# The three curves lie on each other; they differ by rounding. With the compatible module the states
# are optax's classes as well, so that code that reads or stores them goes on working. gdjax's own
# state is one class for all optimizers, with the numbers that the optimizer uses.

for name, (_, state, _) in results.items():
    adam = state[1] if name == "gdjax" else state[1][0]
    print(f"{name:19} {type(adam).__name__}")

# %%
# Numbers in the state
# --------------------
#
# In optax a number that shall change during a run needs ``inject_hyperparams``. In gdjax each
# number is already in the state:

params = init(jax.random.key(0))
tx = optax.inject_hyperparams(optax.adam)(learning_rate=1e-3)
state = tx.init(params)
state.hyperparams["learning_rate"] = jnp.asarray(3e-4)

ours = gdjax.adam(1e-3).init(params)
ours = gdjax.with_hyperparams(ours, learning_rate=3e-4)
print({name: f"{value:.4g}" for name, value in gdjax.hyperparams(ours).items()})

# %%
# Therefore a grid of learning rates needs no loop. With optax each rate is another optimizer, which
# is compiled anew, unless the program is rewritten around the injected state; with gdjax the
# training function is mapped over the rate.

rates = np.logspace(-4, -1, 16)


def last_loss(ox, rate):
    return train(ox, ox.adam(rate))[2][-1]


begin = time.perf_counter()
loop = [float(jax.jit(lambda r=r: last_loss(optax, r))()) for r in rates[::5]]
middle = time.perf_counter()
mapped = jax.jit(jax.vmap(lambda rate: last_loss(gdjax, rate)))(rates).block_until_ready()
end = time.perf_counter()
print(f"4 rates, one program each with optax: {middle - begin:.1f} s, with compiling")
print(f"16 rates, one program with gdjax: {end - middle:.1f} s, with compiling")
print(f"largest relative difference: {np.abs(mapped[::5] / np.array(loop) - 1).max():.0e}")

# %%
# What is written differently
# ---------------------------
#
# Three constructions have other names. Each pair below gives the same updates; the whole table
# is in the guide, :doc:`/guides/migrating`.

grads = jax.tree.map(lambda p: jnp.sin(10 * p), params)


def updates_of(tx, steps=4):
    state = tx.init(params)
    for _ in range(steps):
        updates, state = tx.update(grads, state, params)
    return updates


pairs = {
    "another optimizer for a group": (
        optax.multi_transform(
            {"slow": optax.sgd(1e-3), "adam": optax.adam(1e-2)}, {"hidden": "slow", "out": "adam"}
        ),
        gdjax.groups({r"hidden.*": gdjax.sgd(1e-3), r"out.*": gdjax.adam(1e-2)}),
    ),
    "frozen parameters": (
        optax.multi_transform(
            {"no": optax.set_to_zero(), "adam": optax.adam(1e-2)}, {"hidden": "no", "out": "adam"}
        ),
        gdjax.groups({r"hidden.*": None, r"out.*": gdjax.adam(1e-2)}),
    ),
    "gradients of 4 batches in a step": (
        optax.MultiSteps(optax.adam(1e-2), 4),
        gdjax.accumulate(gdjax.adam(1e-2), 4),
    ),
}
for name, (theirs, own) in pairs.items():
    same = jax.tree.map(
        lambda a, b: np.allclose(a, b, rtol=1e-5), updates_of(theirs), updates_of(own)
    )
    print(f"{name:33} same updates: {all(jax.tree.leaves(same))}")

# %%
# The arguments that differ
# -------------------------
#
# Names, order and defaults of arguments are those of optax, for all functions that both libraries
# have, but for the rows that this program finds. (Defaults that are functions are left out.)

theirs = {}
for module in (optax, optax.losses, optax.contrib):
    theirs |= {n: f for n, f in vars(module).items() if inspect.isroutine(f) and n[0] != "_"}
common = sorted(n for n in theirs if inspect.isroutine(getattr(gdjax, n, None)))


def text(parameter):
    if parameter is None:
        return "no such argument"
    if parameter.default is parameter.empty:
        return "required"
    return getattr(parameter.default, "__name__", str(parameter.default))


print(f"{len(common)} functions in both libraries\n")
print(f"{'function':34}{'argument':30}{'optax':10}gdjax")
for name in common:
    a, b = (inspect.signature(f).parameters for f in (theirs[name], getattr(gdjax, name)))
    for argument, parameter in a.items():
        values = text(parameter), text(b.get(argument))
        functions = any(v.startswith(("_", "<", "Gradient", "Optimizer")) for v in values)
        star = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if values[0] != values[1] and not functions and not star:
            print(f"{name:34}{argument:30}{values[0]:10}{values[1]}")

# %%
# An argument that is required in optax and has a default here needs no change. What to do about the
# others:
#
# - ``adadelta(learning_rate=1.0)``: give ``None`` as in optax, or a rate.
# - ``key`` of `gdjax.add_noise` and `gdjax.differentially_private_aggregate`: give a key or an
#   integer.
# - ``seed``, ``verbose`` and ``print_win_rate_every_n_steps``: leave them out.
# - `gdjax.scale_by_zoom_linesearch`: ``approx_dec_rtol=None`` follows the dtype; optax's value can
#   be given.
# - ``dtype_momentum=None`` of `gdjax.adafactor` is at least float32.
