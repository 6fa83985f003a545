"""The one training loop: a scan over steps, in chunks, for one run or for many lanes of runs.

Everything that can be wrong with a lane stays in that lane: the step that would make its parameters
nonfinite is not taken, and it stays where it was while the others go on.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.chain import apply_updates
from gdjax.training.data import as_key

SHUFFLE = 2**31 - 1  # folded into a run's key, it gives the key of its shuffles


class Carry(NamedTuple):
    """What goes from step to step; donated to each chunk."""

    params: Any
    state: Any
    diverged_at: Array  # the step that was not taken, int32; -1 while all is well


class Run(NamedTuple):
    """The structure of a training program: what it is compiled for, without any number.

    Attributes:
      loss_fn: see `fit`.
      update: the optimizer's.
      has_aux: see `fit`.
      needs_key: see `fit`.
      batch_size: see `fit`.
      lanes: "" for a single run; "vmap" for lanes that step together; "map" for lanes that run one
        after the other, which keeps a CPU core in its cache.
      own_keys: whether each lane has a key of its own, so also batches of its own.
      shards: with "map": parts of the lanes that run at the same time, on a device each.
    """

    loss_fn: Callable
    update: Callable
    has_aux: bool = False
    needs_key: bool = False
    batch_size: int | None = None
    lanes: str = ""
    own_keys: bool = False
    shards: int = 1


def step_fn(run: Run) -> Callable:
    """Return `step(carry, batch, key, i)`, one step of one lane."""

    def step(carry, batch, key, i):
        params, state, diverged_at = carry
        key = jax.random.fold_in(key, i)
        more = (key,) if run.needs_key else ()

        def loss_and_aux(p):
            out = run.loss_fn(p, batch, *more)
            return out if run.has_aux else (out, ())

        (loss, aux), grads = jax.value_and_grad(loss_and_aux, has_aux=True)(params)
        updates, new_state = run.update(
            grads,
            state,
            params,
            value=loss,
            grad=grads,
            value_fn=lambda p: loss_and_aux(p)[0],
            key=key,
        )
        new_params = apply_updates(params, updates)
        alive = diverged_at < 0
        ok = alive & _all_finite(new_params)
        params, state = _either(ok, (new_params, new_state), (params, state))
        diverged_at = jnp.where(ok | ~alive, diverged_at, i)
        return Carry(params, state, diverged_at), (jnp.where(alive, loss, jnp.nan), aux)

    return step


def _either(ok: Array, new: Any, old: Any) -> Any:
    """Return the new tree if `ok`, else the old one.

    On a CPU, XLA hands more than 8 copies that could run at once to its other threads, and to wake
    those takes longer than to copy small arrays: there, one branch has at most 8 of them.
    """
    news, treedef = jax.tree.flatten(new)
    olds, size = jax.tree.leaves(old), max(1, len(news))
    if jax.default_backend() == "cpu" and size <= 8 * 8 and sum(x.size for x in news) < 2**20:
        size = 8
    chosen = []
    for i in range(0, len(news), size):
        part = slice(i, i + size)
        chosen += jax.lax.cond(ok, lambda p=part: news[p], lambda p=part: olds[p])
    return treedef.unflatten(chosen)


def _all_finite(tree: Any) -> Array:
    """Return whether every number is finite: 0 * x is, and then so is the sum of such zeros.

    It compiles and runs faster than a reduction of booleans, and the sum cannot overflow.
    """
    return jnp.isfinite(sum(jnp.sum(x * 0) for x in jax.tree.leaves(tree)))


def draw(key: Array, start: Array, length: int, examples: int, batch_size: int) -> Array:
    """Return the examples of each step, int32 (length, batch_size), every epoch a new shuffle."""
    per_epoch = examples // batch_size
    first = start // per_epoch
    key = jax.random.fold_in(key, SHUFFLE)

    def epoch(number):
        order = jax.random.permutation(jax.random.fold_in(key, number), examples)
        return order[: per_epoch * batch_size].reshape(per_epoch, batch_size)

    epochs = 1 + (length + per_epoch - 2) // per_epoch  # that so many steps can touch
    rows = jax.lax.map(epoch, first + jnp.arange(epochs)).reshape(-1, batch_size)
    return jax.lax.dynamic_slice_in_dim(rows, start - first * per_epoch, length)


@functools.lru_cache(maxsize=64)
def chunk_program(run: Run) -> Callable:
    """Return the jitted `chunk(carry, data, key, start, length)`, `length` steps in one scan."""
    step = step_fn(run)

    def chunk(carry, data, key, start, length):
        examples = len(jax.tree.leaves(data)[0])

        def picks(key):
            return run.batch_size and draw(key, start, length, examples, run.batch_size)

        shared = None if run.own_keys else picks(as_key(key))

        def train(carry, key):
            key = as_key(key)

            def body(carry, now):
                i, picked = now
                batch = data
                if picked is not None:
                    batch = jax.tree.map(lambda x: jnp.take(x, picked, axis=0), data)
                return step(carry, batch, key, i)

            picked = picks(key) if run.own_keys else shared
            return jax.lax.scan(body, carry, (start + jnp.arange(length, dtype=jnp.int32), picked))

        return over_lanes(run, train, carry, key)

    return jax.jit(chunk, static_argnums=4, donate_argnums=0)


@functools.lru_cache(maxsize=64)
def stream_program(run: Run) -> Callable:
    """Return the jitted `one(carry, batch, key, i)`, a single step on a batch from outside."""
    step = step_fn(run)

    def one(carry, batch, key, i):
        return over_lanes(run, lambda c, k: step(c, batch, as_key(k), i), carry, key)

    return jax.jit(one, donate_argnums=0)


def over_lanes(run: Run, function: Callable, carry: Any, key: Any) -> tuple[Any, Any]:
    """Return `(carry, logs)` of `function(carry, key)` for one run or for every lane."""
    if not run.lanes:
        return function(carry, key)
    if not run.own_keys:
        key, function = None, functools.partial(_with_key, function, key)
    if run.lanes == "vmap":
        return jax.vmap(function)(carry, key)
    if run.shards == 1:
        return _one_by_one(function, carry, key)

    def split(x):
        return x.reshape(run.shards, len(x) // run.shards, *x.shape[1:])

    out = jax.vmap(functools.partial(_one_by_one, function))(*jax.tree.map(split, (carry, key)))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), out)


def _with_key(function: Callable, key: Any, carry: Any, _: None) -> Any:
    return function(carry, key)


def _one_by_one(function: Callable, carry: Any, key: Any) -> tuple[Any, Any]:
    """Run the lanes in turn; each writes its carry over its old one, so there is only one copy."""

    def row(tree, i):
        return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False), tree)

    def put(x, i, old, new):
        if new is old:  # such as a learning rate: the scan gives back what no step changes
            return x
        return jax.lax.dynamic_update_index_in_dim(x, new, i, 0)

    def lane(carry, one):
        i, key = one
        old = row(carry, i)
        new, log = function(old, key)
        return jax.tree.map(lambda x, a, b: put(x, i, a, b), carry, old, new), log

    return jax.lax.scan(lane, carry, (jnp.arange(len(carry.diverged_at)), key))


@functools.lru_cache(maxsize=64)
def evaluate_program(metric_fn: Callable, lanes: bool) -> Callable:
    """Return the compiled metric: `metric(params, data)`, over lanes if there are."""
    return jax.jit(jax.vmap(metric_fn, in_axes=(0, None)) if lanes else metric_fn)


@functools.lru_cache(maxsize=64)
def plain_loss(loss_fn: Callable, has_aux: bool) -> Callable:
    """Return the loss function without its aux, the same object for the same function."""
    return (lambda params, data: loss_fn(params, data)[0]) if has_aux else loss_fn
