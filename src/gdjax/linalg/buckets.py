"""Many like matrices, one program: they are stacked, and a rule goes over the stack.

For rules with products, decompositions and branches. On a CPU they are not stacked but go in blocks
(`gdjax.core.blocks`): equal kernels are compiled once all the same, nothing is copied into stacks
and out, and matrices stay in the cache. On accelerators small products leave the units idle and
each kernel costs a launch. Measurements are in bench/README.md.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.blocks import map_blocks


def in_turn(function: Callable) -> Callable:
    """Return a function that maps `function` over a leading axis in a loop: `jax.vmap`'s sibling.

    A `lax.cond` on what differs from one to the next then costs only where it is true.
    """
    return functools.partial(jax.lax.map, function)


def map_buckets(
    function: Callable,
    rows: Sequence[Any],
    keys: Sequence[Hashable],
    shared: Sequence[tuple] = (),
    *,
    lift: Callable = jax.vmap,
    stacks: bool = False,
    batched: bool | None = None,
) -> list[Any]:
    """Return `[function(row, *more) for row, more in zip(rows, shared)]`, by buckets of like rows.

    Args:
      function: a function of one row, the same object in every call.
      rows: pytrees of arrays.
      keys: rows with the same key must have the same `shared`.
      shared: for each row, further arguments, which are not stacked; none if empty.
      lift: how a function goes over a stack: `jax.vmap` or `in_turn`.
      stacks: whether each row is itself a stack: all its arrays have one leading axis of the same
        length, over which `function` is mapped.
      batched: whether buckets are stacked; None: unless JAX's default backend is the CPU.

    Example:
      >>> import jax.numpy as jnp
      >>> rows = [jnp.eye(2), jnp.ones((1, 4)), 2 * jnp.eye(2)]
      >>> [float(x) for x in map_buckets(jnp.trace, rows, [0, 0, 0])]
      [2.0, 1.0, 4.0]
      >>> [x.shape for x in map_buckets(jnp.diag, rows, [0, 0, 0], stacks=True)]
      [(2, 2, 2), (1, 4, 4), (2, 2, 2)]
    """
    keys = [(key, _like(row, stacks)) for key, row in zip(keys, rows, strict=True)]
    if not (jax.default_backend() != "cpu" if batched is None else batched):
        return map_blocks(_one_by_one(function) if stacks else function, rows, keys, shared)
    buckets: dict[Hashable, list[int]] = {}
    for i, key in enumerate(keys):
        buckets.setdefault(key, []).append(i)
    out: list[Any] = [None] * len(rows)
    for members in buckets.values():
        more, few = shared[members[0]] if shared else (), [rows[i] for i in members]
        if len(few) == 1 and not stacks:
            out[members[0]] = function(few[0], *more)
            continue
        stack = jax.tree.map(lambda *xs: _join(xs, stacks), *few)
        results = lift(lambda row, more=more: function(row, *more))(stack)
        arrays, treedef = jax.tree.flatten(results)
        sizes = tuple(len(jax.tree.leaves(row)[0]) for row in few) if stacks else None
        columns = [_cut(x, sizes) for x in arrays]
        for place, i in enumerate(members):
            out[i] = treedef.unflatten([column[place] for column in columns])
    return out


map_in_turn = functools.partial(map_buckets, lift=in_turn)


def map_scanned(
    function: Callable,
    rows: Sequence[Any],
    keys: Sequence[Hashable],
    shared: Sequence[tuple] = (),
) -> list[Any]:
    """Do as `map_buckets`, but on a CPU in a loop over the stack: for rules slow to compile."""
    lift = in_turn if jax.default_backend() == "cpu" else jax.vmap
    return map_buckets(function, rows, keys, shared, lift=lift, batched=True)


def _like(row: Any, stacks: bool) -> Hashable:
    arrays, treedef = jax.tree.flatten(row)
    return treedef, tuple((x.shape[1:] if stacks else x.shape, x.dtype) for x in arrays)


@functools.lru_cache(maxsize=1024)
def _one_by_one(function: Callable) -> Callable:
    def one_by_one(stack, *more):
        if len(jax.tree.leaves(stack)[0]) == 1:
            one = function(jax.tree.map(lambda x: x[0], stack), *more)
            return jax.tree.map(lambda x: x[None], one)
        return in_turn(lambda x: function(x, *more))(stack)

    return jax.jit(one_by_one)


@functools.partial(jax.jit, static_argnums=1)  # so that arrays of one shape are traced once
def _join(xs: tuple[Array, ...], stacks: bool) -> Array:
    return jnp.concatenate(xs) if stacks else jnp.stack(xs)


@functools.partial(jax.jit, static_argnums=1)
def _cut(x: Array, sizes: tuple[int, ...] | None) -> list[Array]:
    if sizes is None:
        return [x[i] for i in range(len(x))]
    return jnp.split(x, list(itertools.accumulate(sizes))[:-1])
