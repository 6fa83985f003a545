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


class Carry(NamedTuple):
    """What goes from step to step; donated to each chunk."""

    params: Any
    state: Any
    diverged_at: Array  # the step that was not taken, int32; -1 while all is well
    order: Any = None  # this epoch's order of the examples, int32 (examples,)


class Run(NamedTuple):
    """The structure of a training program: what it is compiled for, without any number."""

    loss_fn: Callable
    update: Callable
    has_aux: bool = False
    needs_key: bool = False
    batch_size: int | None = None
    lanes: bool = False


def step_fn(run: Run) -> Callable:
    """Return `step(params, state, diverged_at, batch, key, i)`, one step of one lane."""

    def step(params, state, diverged_at, batch, key, i):
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
        finite = [jnp.isfinite(x).all() for x in jax.tree.leaves(new_params)]
        ok = alive & jnp.array(finite, bool).all()
        params, state = jax.tree.map(
            lambda new, old: jnp.where(ok, new, old), (new_params, new_state), (params, state)
        )
        diverged_at = jnp.where(ok | ~alive, diverged_at, i)
        return Carry(params, state, diverged_at), (jnp.where(alive, loss, jnp.nan), aux)

    return step


@functools.lru_cache(maxsize=64)
def chunk_program(run: Run) -> Callable:
    """Return the compiled `chunk(carry, data, key, start, length)`, `length` steps in one scan."""
    step = _lanes_step(run)

    def chunk(carry, data, key, start, length):
        examples = len(jax.tree.leaves(data)[0])

        def body(carry, i):
            batch, order = data, carry.order
            if run.batch_size is not None:
                per_epoch = examples // run.batch_size
                order_key = jax.random.fold_in(jax.random.fold_in(key, 2**31 - 1), i // per_epoch)
                order = jax.lax.cond(  # outside of vmap: all lanes see the same batches
                    (i % per_epoch == 0) | (i == start),
                    lambda: jax.random.permutation(order_key, examples),
                    lambda: carry.order,
                )
                first = (i % per_epoch) * run.batch_size
                picked = jax.lax.dynamic_slice_in_dim(order, first, run.batch_size)
                batch = jax.tree.map(lambda x: jnp.take(x, picked, axis=0), data)
            new, logs = step(carry.params, carry.state, carry.diverged_at, batch, key, i)
            return new._replace(order=order), logs

        return jax.lax.scan(body, carry, start + jnp.arange(length))

    return jax.jit(chunk, static_argnums=4, donate_argnums=0)


@functools.lru_cache(maxsize=64)
def stream_program(run: Run) -> Callable:
    """Return the compiled `one(carry, batch, key, i)`, a single step on a batch from outside."""
    step = _lanes_step(run)

    def one(carry, batch, key, i):
        new, logs = step(carry.params, carry.state, carry.diverged_at, batch, key, i)
        return new._replace(order=carry.order), logs

    return jax.jit(one, donate_argnums=0)


def _lanes_step(run: Run) -> Callable:
    step = step_fn(run)
    return jax.vmap(step, in_axes=(0, 0, 0, None, None, None)) if run.lanes else step


@functools.lru_cache(maxsize=64)
def evaluate_program(metric_fn: Callable, lanes: bool) -> Callable:
    """Return the compiled metric: `metric(params, data)`, over lanes if there are."""
    return jax.jit(jax.vmap(metric_fn, in_axes=(0, None)) if lanes else metric_fn)


@functools.lru_cache(maxsize=64)
def plain_loss(loss_fn: Callable, has_aux: bool) -> Callable:
    """Return the loss function without its aux, the same object for the same function."""
    return (lambda params, data: loss_fn(params, data)[0]) if has_aux else loss_fn
