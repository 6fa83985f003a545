"""Many devices
============

JAX places arrays on a mesh of devices, and compiles one program for all of them. gdjax follows: the
state of an optimizer lies where its parameters lie, and the training loop is the same. This
tutorial trains one model on eight devices in three ways, shows what each device stores, and
continues a run on fewer devices than it began with.

It needs no special hardware: JAX can divide one CPU into eight devices, for programs as for tests.
The flag for it must be set before JAX is imported.
"""

import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

# %%

import tempfile

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import gdjax

print(len(jax.devices()), "devices:", jax.devices()[0], "...", jax.devices()[-1])

# %%
# The task: a network with one hidden layer learns a function of 16 variables. First on one device,
# for comparison.

model = gdjax.models.mlp((16, 64, 8))
start = model.init(jax.random.key(0))
x = np.random.default_rng(0).normal(size=(256, 16)).astype("float32")
y = np.tanh(x[:, :8])


def loss_fn(params, batch):
    x, y = batch
    return jnp.mean((model.apply(params, x) - y) ** 2)


adam = gdjax.adam(1e-2)
options = dict(batch_size=32, epochs=10, report_every=20)
one_device = gdjax.fit(loss_fn, start, adam, (x, y), **options)

# %%
# Data parallel
# -------------
#
# A mesh gives the devices names along axes, here one axis, ``"data"``. ``P("data")`` divides the
# first axis of an array along it, so each device has 32 of the 256 examples. The parameters are
# whole on each device, and so is the state. The call of `gdjax.fit` does not change; JAX sums the
# gradients over the devices.

mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
data = jax.device_put((x, y), NamedSharding(mesh, P("data")))
data_parallel = gdjax.fit(loss_fn, start, adam, data, **options)


def difference(result):
    """Return the largest relative difference of a loss from that on one device."""
    return np.abs(np.divide(result.history["loss"], one_device.history["loss"]) - 1).max()


def kilobytes(tree):
    """Return what the first device stores of a tree, in kilobytes."""
    parts = [a.addressable_shards[0].data.nbytes for a in jax.tree.leaves(tree)]
    return sum(parts) / 1000


print(f"largest relative difference of the losses: {difference(data_parallel):.0e}")
print(f"stored on each device: parameters {kilobytes(data_parallel.params):.1f} kB, "
      f"state {kilobytes(data_parallel.state):.1f} kB")  # fmt: skip

# %%
# The losses agree with those of one device up to rounding: a sum over eight devices adds in another
# order.
#
# Split parameters
# ----------------
#
# A large model does not fit onto one device. Divide each parameter over the devices (FSDP, fully
# sharded data parallel): here along the first axis whose length 8 divides. Nothing is said about
# the state; Adam's two moments of a parameter lie where the parameter does.


def split(p):
    axis = next((i for i, n in enumerate(p.shape) if n % 8 == 0), None)
    spec = P() if axis is None else P(*[None] * axis, "data")
    return jax.device_put(p, NamedSharding(mesh, spec))


params = jax.tree.map(split, start)
fsdp = gdjax.fit(loss_fn, params, adam, data, **options)
print(f"largest relative difference of the losses: {difference(fsdp):.0e}")
print(f"stored on each device: parameters {kilobytes(fsdp.params):.2f} kB, "
      f"state {kilobytes(fsdp.state):.2f} kB")  # fmt: skip

# %%
# Split state only
# ----------------
#
# If the parameters fit onto each device but the state does not, divide the state only (ZeRO-1).
# `gdjax.state_shardings` says where each array of a state belongs, before any of it exists; with
# ``zero1="data"`` the moments are divided although the parameters are whole.

whole = jax.device_put(start, NamedSharding(mesh, P()))
places = gdjax.state_shardings(adam, whole, zero1="data")
state = jax.jit(adam.init, out_shardings=places)(whole)


def step(params, state, batch):
    grads = jax.grad(loss_fn)(params, batch)
    updates, state = adam.update(grads, state, params)
    return gdjax.apply_updates(params, updates), state


params_places = jax.tree.map(lambda p: p.sharding, whole)
zero = jax.jit(step, out_shardings=(params_places, places))(whole, state, data)
print(f"stored on each device: parameters {kilobytes(zero[0]):.1f} kB, "
      f"state {kilobytes(zero[1]):.2f} kB")  # fmt: skip

# %%
# The pictures show the first kernel, 16 by 64, and its first moment. Each color is a part that one
# device stores.


def draw(ax, array):
    ax.set(xticks=[], yticks=[])
    if array.is_fully_replicated:
        ax.text(0.5, 0.5, "whole on each device", ha="center", transform=ax.transAxes)
        return
    owner = np.zeros(array.shape)
    for shard in array.addressable_shards:
        owner[shard.index] = shard.device.id
    ax.imshow(owner, cmap="tab10", vmin=0, vmax=9, aspect="auto")


ways = {
    "data parallel": (data_parallel.params, data_parallel.state),
    "FSDP": (fsdp.params, fsdp.state),
    "ZeRO-1": zero,
}
figure, axes = plt.subplots(2, 3, figsize=(9, 3.4), layout="constrained")
for (name, (params, state)), (top, bottom) in zip(ways.items(), axes.T, strict=True):
    draw(top, params["linear_0"]["kernel"])
    draw(bottom, state.mu["linear_0"]["kernel"])
    top.set_title(name)
axes[0, 0].set_ylabel("parameter")
axes[1, 0].set_ylabel("moment")
plt.show()

# %%
# Continue on another mesh
# ------------------------
#
# With ``directory=`` a run keeps its finished chunks, and the same call continues it. Where the
# arrays lie is no part of what is kept. Here a run with split parameters on eight devices fails on
# purpose after 40 of 80 steps; then four devices continue it.

folder = tempfile.mkdtemp()


def fail(report):
    if report.step >= 40:
        raise RuntimeError("a failure on purpose")


try:
    gdjax.fit(loss_fn, jax.tree.map(split, start), adam, data, directory=folder, callbacks=[fail],
              **options)  # fmt: skip
except RuntimeError as error:
    print(error)

four = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
fewer = jax.device_put((x, y), NamedSharding(four, P("data")))
params = jax.device_put(start, NamedSharding(four, P()))
continued = gdjax.fit(loss_fn, params, adam, fewer, directory=folder, **options)
devices = len(continued.params["linear_0"]["kernel"].devices())
print(f"{continued.steps} steps, the last on {devices} devices")
print(f"largest relative difference of the losses: {difference(continued):.0e}")

# %%
# The curve of the run that moved from eight devices to four lies on that of one device.

figure, ax = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
steps = np.arange(1, one_device.steps + 1)
ax.plot(steps, one_device.history["loss"], linewidth=5, alpha=0.3, label="one device")
ax.plot(steps[:40], continued.history["loss"][:40], label="eight devices")
ax.plot(steps[40:], continued.history["loss"][40:], label="four devices")
ax.set(xlabel="step", ylabel="training loss", yscale="log")
ax.legend()
plt.show()

# %%
# Further: the guide :doc:`/guides/many-devices` has explicit axes, several hosts, many models on
# one mesh, Orbax, and ``shard_map``; :doc:`/guides/matrices-over-a-mesh` is about Muon, SOAP and
# Shampoo.
