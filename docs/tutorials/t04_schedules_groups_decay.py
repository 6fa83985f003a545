"""
Schedules, groups and weight decay
==================================

A recipe for training is rarely one number. The learning rate follows a schedule, biases are not
decayed, the last layer has another rate, some layers are frozen. In gdjax a hyperparameter may be a
number, a schedule, or a rule that gives each parameter its own; all of it is part of the state, so
that it can be read and changed.
"""

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
    """Return the parameters of a network with two hidden layers."""
    keys, sizes = jax.random.split(key, 3), (64, 32, 32, 10)
    return {
        name: {"w": jax.random.normal(k, (m, n)) / m**0.5, "b": jnp.zeros(n)}
        for name, k, m, n in zip(("first", "second", "last"), keys, sizes, sizes[1:])
    }


def loss_fn(params, batch):
    """Return the mean cross-entropy over a batch."""
    x, labels = batch
    for name in ("first", "second"):
        x = jax.nn.relu(x @ params[name]["w"] + params[name]["b"])
    logits = x @ params["last"]["w"] + params["last"]["b"]
    return gdjax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


params = init(jax.random.key(0))


def show(numbers):
    """Print a dict of numbers."""
    print({name: float(f"{value:.4g}") for name, value in numbers.items()})


# %%
# Schedules
# ---------
#
# A schedule is a function of the number of steps that were taken before; the first update uses its
# value at 0. It stands wherever a number may stand. Its own numbers are leaves of the state, too.

schedules = {
    "warmup_cosine_decay": gdjax.warmup_cosine_decay_schedule(
        0.0, 0.01, warmup_steps=20, decay_steps=200
    ),
    "wsd": gdjax.wsd_schedule(0.0, 0.01, warmup_steps=20, stable_steps=120, cooldown_steps=60),
    "exponential_decay": gdjax.exponential_decay(0.01, 40, 0.5),
    "piecewise_constant": gdjax.piecewise_constant_schedule(0.008, {80: 0.3, 140: 0.3}),
}


@gdjax.schedule
class Wave(gdjax.Schedule):
    """A schedule of your own is a class whose fields are its numbers."""

    mean: float
    period: float

    def __call__(self, count):
        """Return the value for update number `count`."""
        return self.mean * (1 + 0.5 * jnp.sin(2 * jnp.pi * count / self.period))


schedules["Wave, defined above"] = Wave(0.005, 50.0)

count = jnp.arange(200)
fig, ax = plt.subplots(figsize=(8, 3.2), layout="constrained")
for name, schedule in schedules.items():
    ax.plot(count, jax.vmap(schedule)(count), label=name)
ax.set(xlabel="step", ylabel="learning rate")
fig.legend(fontsize="small", loc="outside right upper")
plt.show()

# %%
# :func:`gdjax.hyperparams` evaluates schedules at the next step; :func:`gdjax.hyperparams_in_use`
# gives the numbers that the *last* update used, as a log should have them beside the loss of that
# step.

optimizer = gdjax.adam(schedules["warmup_cosine_decay"])
state = optimizer.init(params)
for _ in range(10):
    _, state = optimizer.update(params, state, params)  # any gradient will do here
print(f"last update: {gdjax.hyperparams_in_use(state)['learning_rate']:.4f}")
print(f"next update: {gdjax.hyperparams(state)['learning_rate']:.4f}")

state = gdjax.with_hyperparams(state, **{"learning_rate.peak_value": 0.02})
print(f"with twice the peak: {gdjax.hyperparams(state)['learning_rate']:.4f}")

# %%
# The peak is a number inside of the schedule, and changing it does not compile anything. Callbacks
# of ``fit`` get the numbers in use with each report:

seen = []
result = gdjax.fit(
    loss_fn,
    params,
    gdjax.adam(schedules["warmup_cosine_decay"]),
    train,
    batch_size=60,
    steps=200,
    report_every=10,
    held_out=held_out,
    callbacks=[lambda report: seen.append((report.step, report.hyperparams["learning_rate"]))],
)
fig, (top, bottom) = plt.subplots(2, 1, figsize=(7, 4.2), sharex=True, layout="constrained")
top.semilogy(result.history["loss"], lw=0.8, label="batch")
top.semilogy(result.history["step"], result.history["held_out"], "o-", ms=3, label="held out")
top.set_ylabel("loss")
top.legend()
bottom.plot(*zip(*seen), "o-", ms=3)
bottom.set(xlabel="step", ylabel="learning rate")
plt.show()

# %%
# A number for each parameter
# ---------------------------
#
# :func:`gdjax.by_path` gives each parameter the value of the first pattern, a regular expression,
# that matches its path. The path of ``params["first"]["w"]`` is ``first/w``. Values are numbers,
# schedules, or ``None`` for no such term.

rates = gdjax.by_path({r"last/.*": 0.01, r".*": schedules["wsd"]})
decay = gdjax.by_path({r".*/b": None, r".*": 0.1})
optimizer = gdjax.adamw(rates, weight_decay=decay)
show(gdjax.hyperparams(optimizer.init(params)))

# %%
# A learning rate that falls by a constant factor from layer to layer, as is common in fine-tuning,
# is such a dict, computed:

layers = list(params)[::-1]  # from the last one to the first
rates = gdjax.by_path({rf"{name}/.*": 0.01 * 0.5**depth for depth, name in enumerate(layers)})
show(gdjax.hyperparams(gdjax.sgd(rates).init(params)))

# %%
# Groups may also cool down at times of their own. Here the last layer is constant for 60 % of the
# run, and all other parameters decay from the start, along a power of the remaining fraction, to
# 2 % of the peak:

last = gdjax.wsd_schedule(0.0, 0.01, 0, 120, 80)
power = gdjax.wsd_schedule(0.0, 0.02, 0, 0, 200, 0.0004, cooldown="power", power=1.5)
rates = gdjax.by_path({r"last/.*": last, r".*": power})
show(gdjax.hyperparams(gdjax.sgd(rates).init(params)))

# %%
# A pattern that matches no parameter is an error, since it usually is a typing error:

try:
    gdjax.sgd(gdjax.by_path({r"lsat/.*": 0.01, r".*": 0.1})).init(params)
except ValueError as error:
    print(error)

# %%
# Weight decay
# ------------
#
# There are two ways to pull parameters towards zero. *L2 regularization* adds
# :math:`\frac{\lambda}{2} \|x\|^2` to the loss, that is, :math:`\lambda x` to the gradient.
# *Decoupled* decay leaves the gradient as it is and subtracts :math:`\eta \lambda x` from the
# parameters. For gradient descent both are the same. For Adam they are not (`Loshchilov and Hutter
# 2017 <https://arxiv.org/abs/1711.05101>`_): it divides the gradient, and with it the
# :math:`\lambda x` of L2, by the size of recent gradients. A parameter with large gradients then
# hardly decays.
#
# The experiment: two groups of 500 parameters start at 1. Their gradients are noise with mean zero
# and standard deviations 0.1 and 10, so decay is all that moves them on average.

sizes = jnp.repeat(jnp.array([0.1, 10.0]), 500)


def shrink(optimizer, steps=300):
    """Return the mean of each group after each step."""

    def step(carry, key):
        x, state = carry
        grads = sizes * jax.random.normal(key, sizes.shape)
        updates, state = optimizer.update(grads, state, x)
        x = gdjax.apply_updates(x, updates)
        return (x, state), x.reshape(2, 500).mean(1)

    x = jnp.ones(1000)
    keys = jax.random.split(jax.random.key(0), steps)
    return jax.lax.scan(step, (x, optimizer.init(x)), keys)[1]


fig, axes = plt.subplots(1, 2, figsize=(8, 3.2), sharey=True, layout="constrained")
for ax, kind in zip(axes, ("l2", "decoupled")):
    optimizer = gdjax.with_weight_decay(gdjax.adam(0.01), 0.5, kind=kind)
    means = jax.jit(shrink, static_argnums=0)(optimizer)
    ax.plot(means[:, 0], label="gradients of size 0.1")
    ax.plot(means[:, 1], label="gradients of size 10")
    ax.plot(jnp.exp(-0.01 * 0.5 * jnp.arange(300)), "k:", label=r"$e^{-\eta \lambda t}$")
    ax.set(title=kind, xlabel="step t", ylim=(0, 1.1))
axes[0].set_ylabel("mean of the parameters")
axes[1].legend(fontsize="small")
plt.show()

# %%
# Under L2, how fast a parameter decays depends on its gradients. Under decoupled decay both groups
# follow the same exponential. :func:`gdjax.adamw` is Adam with decoupled decay;
# ``with_weight_decay`` gives any optimizer decay of any kind:
#
# ===============  ==============================================================================
# kind             subtracted from the parameters, besides the step of the optimizer
# ===============  ==============================================================================
# ``l2``           nothing: :math:`\lambda x` is added to the gradient
# ``decoupled``    :math:`\eta \lambda x`, follows the schedule and scales with the learning rate
# ``independent``  :math:`(\eta / \eta_{\max}) \lambda x`, follows the schedule only
# ``corrected``    :math:`\eta (\eta / \eta_{\max}) \lambda x`
# ===============  ==============================================================================
#
# In numbers, for gradient descent with a gradient of 0, a parameter of 1, :math:`\lambda = 0.5` and
# a schedule that is at half of its maximum of 0.1:

half_way = gdjax.linear_schedule(0.1, 0.0, transition_steps=2)
x = jnp.ones(())
for kind in ("l2", "decoupled", "independent", "corrected"):
    options = {} if kind in ("l2", "decoupled") else dict(max_learning_rate=0.1)
    optimizer = gdjax.with_weight_decay(gdjax.sgd(half_way), 0.5, kind=kind, **options)
    state = optimizer.init(x)
    _, state = optimizer.update(jnp.zeros(()), state, x)  # the first step, at 0.1
    updates, state = optimizer.update(jnp.zeros(()), state, x)  # the second one, at 0.05
    print(f"{kind:12} {updates:.4f}")

# %%
# Biases and scales of normalizations are usually not decayed. A mask says which parameters are:
# ``mask_by_ndim()`` takes those with at least two axes. With zero gradients and parameters of 1,
# the updates are the decay alone:

optimizer = gdjax.adamw(0.01, weight_decay=0.1, mask=gdjax.mask_by_ndim())
updates, _ = optimizer.update(
    jax.tree.map(jnp.zeros_like, params),
    optimizer.init(params),
    jax.tree.map(jnp.ones_like, params),
)
for name, update in updates.items():
    print(f"{name:7} w: {update['w'][0, 0]:.4f}   b: {update['b'][0]:.4f}")

# %%
# Groups of parameters
# --------------------
#
# :func:`gdjax.groups` gives each group an optimizer of its own, again by patterns; ``None`` freezes
# a group. :func:`gdjax.summary` shows what is going to happen to each parameter, and how many bytes
# the optimizer keeps for it.

optimizer = gdjax.groups(
    {
        r"first/.*": None,
        r".*/w": gdjax.adamw(schedules["wsd"], weight_decay=0.1),
        r".*/b": gdjax.sgd(0.1),
    }
)
print(gdjax.summary(params, optimizer))

# %%
# Frozen parameters need no memory, and do not change by a single bit:

result = gdjax.fit(loss_fn, params, optimizer, train, batch_size=60, steps=100)
for name in params:
    same = [bool((result.params[name][k] == params[name][k]).all()) for k in ("w", "b")]
    print(f"{name}: unchanged {same}")

# %%
# Each group has its numbers, with names that tell them apart:

show(gdjax.hyperparams_in_use(result.state))

# %%
# What is next
# ------------
#
# - A learning rate for each layer, and a schedule, can be learned: :doc:`t06_hypergradients`.
# - Schedules in epochs: :func:`gdjax.in_epochs`.
# - Optimizers that treat matrices and other parameters differently by themselves, such as Muon, are
#   in :doc:`/guides/how-to-choose`.
