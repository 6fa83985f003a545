"""One kernel for all matrices of a tree: like matrices are put into buckets.

Measured on 2 CPU cores, 48 matrices of a transformer of width 256, five steps of Newton-Schulz: one
matrix after the other 138 ms, a scan over the stacked bucket 160 ms, one batched product 327 ms.
XLA compiles equal kernels once, but each slice of a stack anew (13 ms each), so that a bucket of
100 takes 0.6 s to compile one by one and 1.8 s stacked. On accelerators, small products leave the
units idle and each kernel costs a launch, so there the bucket is one batch.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gdjax.core.blocks import map_blocks


def map_buckets(
    function: Callable,
    rows: Sequence[Any],
    shared: Sequence[tuple] = (),
    *,
    batched: bool | None = None,
) -> list[Any]:
    """Return `[function(row, *more) for row, more in zip(rows, shared)]`, by buckets of like rows.

    Args:
      function: `function(row, *more)` for one matrix, or one tuple of matrices, without batch axes;
        returns an array or a tree of arrays. A function of a module, or one that is remembered: it
        is traced once for each bucket, and its compiled form is kept for the object.
      rows: arrays [*batch, m, n], or trees of them with the same batch axes in each leaf of a row.
        To share a bucket with a transposed matrix, transpose it (`polar` does).
      shared: for each row, further arguments, which are not batched; none if empty. Rows of one
        bucket have the same objects here.
      batched: whether a bucket is stacked and mapped by `vmap`, or its matrices are processed in
        turn, batch axes by a scan; None takes the faster one: batched unless JAX's default backend
        is the CPU.

    Returns:
      One result for each row, batch axes first.

    Example:
      >>> import jax.numpy as jnp
      >>> rows = [jnp.eye(2), jnp.full((3, 2, 2), 2.0), jnp.ones((1, 4))]
      >>> [x.shape for x in map_buckets(jnp.linalg.norm, rows)]
      [(), (3,), ()]
    """
    if batched is None:
        batched = jax.default_backend() != "cpu"
    shared = shared or [()] * len(rows)
    keys = [
        (_like(row, slice(-2 if batched else 0, None)), *map(id, jax.tree.leaves(more)))
        for row, more in zip(rows, shared, strict=True)
    ]
    if not batched:
        return map_blocks(_in_turn(function), rows, keys, shared)
    buckets: dict[Hashable, list[int]] = {}
    for i, key in enumerate(keys):
        buckets.setdefault(key, []).append(i)
    out: list[Any] = [None] * len(rows)
    for members in buckets.values():
        results = _at_once(function)([rows[i] for i in members], *shared[members[0]])
        for i, result in zip(members, results, strict=True):
            out[i] = result
    return out


def _like(row: Any, part: slice) -> Hashable:
    leaves, treedef = jax.tree.flatten(row)
    return treedef, tuple((x.shape[part], x.dtype) for x in leaves)


def _flat(row: Any) -> tuple[Any, tuple[int, ...]]:
    """Return the row with one batch axis, and the batch axes it had."""
    batch = jax.tree.leaves(row)[0].shape[:-2]
    size = math.prod(batch)
    return jax.tree.map(lambda x: x.reshape(size, *x.shape[-2:]), row), batch


@functools.lru_cache(maxsize=1024)
def _in_turn(function: Callable) -> Callable:
    def in_turn(row, *more):
        flat, batch = _flat(row)
        if not batch:
            return function(row, *more)
        out = jax.lax.map(lambda one: function(one, *more), flat)
        return jax.tree.map(lambda x: x.reshape(*batch, *x.shape[1:]), out)

    return jax.jit(in_turn)


@functools.lru_cache(maxsize=1024)
def _at_once(function: Callable) -> Callable:
    def at_once(rows, *more):
        flats, batches = zip(*map(_flat, rows), strict=True)
        stack = jax.tree.map(lambda *xs: jnp.concatenate(xs), *flats)
        out = jax.vmap(lambda one: function(one, *more))(stack)
        results, start = [], 0
        for batch in batches:
            end = start + math.prod(batch)
            cut = functools.partial(jax.lax.slice_in_dim, start_index=start, limit_index=end)
            results.append(jax.tree.map(lambda x: cut(x).reshape(*batch, *x.shape[1:]), out))  # noqa: B023
            start = end
        return results

    return jax.jit(at_once)
