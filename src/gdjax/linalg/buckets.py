"""Batches of matrices of equal shape: they are stacked, and a rule is mapped over the stack.

For rules with products, decompositions and branches. On accelerators small products leave the units
idle and each kernel costs a launch. On a CPU nothing is stacked; rules are applied in blocks
(`gdjax.core.lift`): equal kernels are compiled once there too, nothing is copied into stacks and
out, and matrices stay in the cache. Measurements are in bench/README.md.
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
from gdjax.core.dealing import Dealing, on_devices, places, stacked, unstacked
from gdjax.core.remember import remembered


def in_turn(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that maps `function` over a leading axis in a loop, unlike `jax.vmap`.

    A `lax.cond` whose condition differs between the elements then costs only where it is true.
    """
    return functools.partial(jax.lax.map, function)


def map_buckets(
    function: Callable[..., Any],
    rows: Sequence[Any],
    keys: Sequence[Hashable],
    shared: Sequence[tuple[Any, ...]] = (),
    *,
    lift: Callable[..., Any] = jax.vmap,
    stacks: bool = False,
    batched: bool | None = None,
) -> list[Any]:
    """Return `[function(row, *more) for row, more in zip(rows, shared)]`, by buckets of equal rows.

    A bucket holds the rows of equal key, shapes and dtypes.

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
    out: list[Any] = [None] * len(rows)
    for members in _buckets(keys):
        more, bucket = shared[members[0]] if shared else (), [rows[i] for i in members]
        if len(bucket) == 1 and not stacks:
            out[members[0]] = function(bucket[0], *more)
            continue
        stack = jax.tree.map(lambda *xs: _join(xs, stacks), *bucket)
        results = lift(lambda row, more=more: function(row, *more))(stack)
        arrays, treedef = jax.tree.flatten(results)
        sizes = tuple(len(jax.tree.leaves(row)[0]) for row in bucket) if stacks else None
        columns = [_cut(x, sizes) for x in arrays]
        for position, i in enumerate(members):
            out[i] = treedef.unflatten([column[position] for column in columns])
    return out


map_in_turn = functools.partial(map_buckets, lift=in_turn)


def map_scanned(
    function: Callable[..., Any],
    rows: Sequence[Any],
    keys: Sequence[Hashable],
    shared: Sequence[tuple[Any, ...]] = (),
) -> list[Any]:
    """Do as `map_buckets`, on a CPU in a loop over the stack: for rules that compile slowly."""
    lift = in_turn if jax.default_backend() == "cpu" else jax.vmap
    return map_buckets(function, rows, keys, shared, lift=lift, batched=True)


def map_dealt(
    function: Callable[..., Any],
    rows: Sequence[Any],
    keys: Sequence[Hashable],
    shared: Sequence[tuple[Any, ...]],
    over: Dealing,
) -> list[Any]:
    """Do as `map_buckets` with `stacks=True`, each bucket dealt over the devices of a mesh.

    Args:
      function: see `map_buckets`.
      rows: pytrees of arrays with one leading axis of the same length. The first array of each is
        of matrices, whose sides say what a row costs.
      keys: see `map_buckets`.
      shared: see `map_buckets`.
      over: the devices.
    """
    keys = [(key, _like(row, True)) for key, row in zip(keys, rows, strict=True)]
    buckets = _buckets(keys)
    first = [jax.tree.leaves(row)[0] for row in rows]
    counts = [sum(len(first[i]) for i in members) for members in buckets]
    costs = [_cost(first[members[0]]) for members in buckets]
    out: list[Any] = [None] * len(rows)
    one = _with_nothing_kept(function)
    for members, at in zip(buckets, places(counts, costs, over.devices), strict=True):
        sizes = [len(first[i]) for i in members]
        single = max(sizes) == 1
        bucket = [jax.tree.map(lambda x: x[0], rows[i]) if single else rows[i] for i in members]

        def in_stack(*xs, at=at, single=single):
            return stacked(xs, at, over, not single)

        moved = jax.tree.map(in_stack, *bucket)
        results, _ = on_devices(one, moved, (), shared[members[0]], at, over)
        arrays, treedef = jax.tree.flatten(results)
        columns = [unstacked(x, sizes, at, over, not single) for x in arrays]
        for position, i in enumerate(members):
            found = treedef.unflatten([column[position] for column in columns])
            out[i] = jax.tree.map(lambda x: x[None], found) if single else found
    return out


def _cost(stack: Array) -> float:
    m, n = sorted(stack.shape[-2:])
    return float(m * m * n)


@remembered
def _with_nothing_kept(function: Callable[..., Any]) -> Callable[..., Any]:
    def with_nothing(row, kept, *shared):
        return function(row, *shared), kept

    return with_nothing


def _buckets(keys: Sequence[Hashable]) -> list[list[int]]:
    """Return the positions of equal keys."""
    buckets: dict[Hashable, list[int]] = {}
    for i, key in enumerate(keys):
        buckets.setdefault(key, []).append(i)
    return list(buckets.values())


def _like(row: Any, stacks: bool) -> Hashable:
    arrays, treedef = jax.tree.flatten(row)
    return treedef, tuple((x.shape[1:] if stacks else x.shape, x.dtype) for x in arrays)


@remembered
def _one_by_one(function: Callable[..., Any]) -> Callable[..., Any]:
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
