"""Compiled sweeps of 1 to 4096 lanes, compared with three other ways to train many models.

Lanes train on one mini-batch of 64 digits. A Python loop and a pool of processes need the same time
for every lane, so their times are extrapolated from a few lanes.
"""

import functools
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import optax
from harness import Row, interleaved, must_agree, seconds
from sklearn.datasets import load_digits

import gdjax
from gdjax.training.devices import all_devices, memory_of
from gdjax.training.engine import lower_chunk
from gdjax.training.lanes import make_kinds

MLP = gdjax.models.mlp((64, 128, 10))
CONVNET = gdjax.models.convnet((8, 8, 1), [8, 16], 10)
TIMED = 4  # lanes that are timed if they run one by one


def mlp_loss(params, batch):
    return cross_entropy(MLP.apply(params, batch[0]), batch[1])


def convnet_loss(params, batch):
    return cross_entropy(CONVNET.apply(params, batch[0].reshape(-1, 8, 8, 1)), batch[1])


def cross_entropy(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


# name -> model, its loss, lanes times steps of a sweep
TASKS = {"MLP": (MLP, mlp_loss, 80_000), "convnet": (CONVNET, convnet_loss, 4_000)}


def digits():
    images, labels = load_digits(return_X_y=True)
    return jnp.asarray(images[:64] / 16, jnp.float32), jnp.asarray(labels[:64], jnp.int32)


def lanes(options):
    """1 to 4096 learning rates of Adam, without compilation, compared with three other ways."""
    data = digits()
    with pool() as processes:
        for name, (model, loss_fn, budget) in TASKS.items():
            params = model.init(jax.random.key(0))
            lengths = [(n, max(2, min(100, budget // n))) for n in (1, 16, 256, 4096)]
            lengths.insert(1, (1, 1000))  # beside 100 steps of 30 µs, the call itself shows
            for count, steps in ((1, 5), (16, 5)) if options.quick else lengths:
                rates = np.logspace(-4, -2, count).astype(np.float32)
                sides = {
                    "ours": functools.partial(ours, loss_fn, params, rates, data, steps),
                    "hand": functools.partial(by_hand(loss_fn, params, data, steps), rates),
                }
                must_agree(sides["ours"](), sides["hand"](), rtol=2e-2, atol=2e-3)
                times = interleaved(sides, 1 if count > 1000 else 5)
                loop = python_loop(loss_fn, params, rates, data, steps)
                torch = processes and torch_pool(processes, name, rates, data, steps)
                title = f"{name}, {count} lanes × {steps} steps, warm"
                yield Row(title, times["ours"], "optax, vmap + scan by hand", times["hand"], 0.95)
                yield Row(title, times["ours"], "optax, inject_hyperparams in a loop", loop, 1.0)
                if torch:
                    yield Row(title, times["ours"], "torch, a pool of processes", torch, 1.0)


def ours(loss_fn, params, rates, data, steps):
    space = {"learning_rate": rates}
    return gdjax.sweep(loss_fn, params, gdjax.adam, space, data, steps=steps).history["loss"]


def by_hand(loss_fn, params, data, steps):
    @jax.jit
    def run(rates):
        def one(rate):
            opt = optax.adam(rate)

            def step(carry, _):
                p, s = carry
                loss, grads = jax.value_and_grad(loss_fn)(p, data)
                updates, s = opt.update(grads, s, p)
                return (optax.apply_updates(p, updates), s), loss

            return jax.lax.scan(step, (params, opt.init(params)), length=steps)[1]

        return jax.vmap(one)(rates)

    return run


def python_loop(loss_fn, params, rates, data, steps):
    opt = optax.inject_hyperparams(optax.adam)(learning_rate=0.1)

    @jax.jit
    def step(p, s):
        loss, grads = jax.value_and_grad(loss_fn)(p, data)
        updates, s = opt.update(grads, s, p)
        return optax.apply_updates(p, updates), s, loss

    def run(rates):
        for rate in rates:
            p, s = params, opt.init(params)
            s.hyperparams["learning_rate"] = jnp.asarray(rate)
            for _ in range(steps):
                p, s, loss = step(p, s)
        return loss

    run(rates[:1])
    few = rates[:TIMED]
    return seconds(lambda: run(few))[0] * len(rates) / len(few)


# --- torch ----------------------------------------------------------------------------------------


def pool():
    """Return a pool with a process for each core, or a context of None without torch."""
    try:
        import torch  # noqa: F401
    except ImportError:
        import contextlib

        return contextlib.nullcontext()
    spawn = multiprocessing.get_context("spawn")  # forking a process with XLA's threads deadlocks
    return ProcessPoolExecutor(os.cpu_count(), mp_context=spawn)


def torch_pool(processes, name, rates, data, steps):
    """Return the seconds that the pool needs for all rates, with running processes."""
    arrays = tuple(np.asarray(x) for x in data)
    few = [float(rate) for rate in rates[: 2 * TIMED]]
    run = functools.partial(train_with_torch, name, arrays, steps)
    list(processes.map(run, few[:1] * 2 * (os.cpu_count() or 1)))
    start = time.perf_counter()
    list(processes.map(run, few))
    return (time.perf_counter() - start) * len(rates) / len(few)


def train_with_torch(name, arrays, steps, rate):
    import torch
    from torch import nn

    torch.set_num_threads(1)
    images, labels = (torch.tensor(x) for x in arrays)
    if name == "MLP":
        net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    else:
        images = images.reshape(-1, 1, 8, 8)
        convs = nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU()
        net = nn.Sequential(*convs, nn.Flatten(), nn.Linear(64, 10))
    opt = torch.optim.Adam(net.parameters(), rate, fused=True)
    for _ in range(steps):
        opt.zero_grad()
        loss = nn.functional.cross_entropy(net(images), labels.long())
        loss.backward()
        opt.step()
    return float(loss)


# --- memory ---------------------------------------------------------------------------------------


def lanes_memory(options):
    """The memory of one program for many lanes, according to XLA.

    Sequential lanes share the memory of their gradients, so it is compared with that of parameters
    and states; vectorized lanes with as many programs for one lane.
    """
    count = 16 if options.quick else 256
    for name, (model, loss_fn, _) in TASKS.items():
        params = model.init(jax.random.key(0))
        used = functools.partial(memory, loss_fn, params, digits())
        compiled, state = used(count, False)
        title = f"memory of {count} lanes of the {name}"
        yield Row(f"{title}, in turn", compiled, "parameters, states", state, 1 / 1.1, unit="MB")
        compiled, (one, _) = used(count, True)[0], used(1, True)
        peer = f"{count} programs of one"
        yield Row(f"{title}, together", compiled, peer, count * one, 1 / 1.1, unit="MB")


def memory(loss_fn, params, data, count, vectorize):
    """Return the MB of the compiled program, and of what its lanes keep between steps."""
    configs = gdjax.grid({"learning_rate": np.logspace(-4, -2, count)})
    (kind,) = make_kinds(
        "sweep", loss_fn, params, gdjax.adam, configs, data, all_devices(), steps=10,
        vectorize=vectorize, lanes_per_program=count,
    )  # fmt: skip
    used = memory_of(lower_chunk(kind.plan, kind.shapes, 10).compile())
    return used / 1e6, sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(kind.shapes)) / 1e6


WORKLOADS = {"lanes": lanes, "lanes_memory": lanes_memory}
