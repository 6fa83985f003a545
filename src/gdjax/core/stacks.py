"""Many equal leaves, one program: they are stacked, and a rule goes over the stack.

The sibling of `blocks`, for rules that cost much to compile or to run: those with products,
decompositions and branches. A block repeats the rule for each of its leaves; a stack holds it once.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array


def map_stacks(
    leaf: Callable,
    rows: Sequence[Any],
    keys: Sequence[Hashable],
    shared: Sequence[tuple] = (),
) -> list[Any]:
    """Return `[leaf(row, *more) for row, more in zip(rows, shared)]`, like rows in one `vmap`.

    Args:
      leaf: a function of one row.
      rows: one pytree of arrays for each leaf.
      keys: rows with the same key must have the same `shared`.
      shared: for each row, further arguments, which are not stacked; none if empty.
    """
    return _mapped(jax.vmap, leaf, rows, keys, shared)


def map_stacks_in_turn(
    leaf: Callable,
    rows: Sequence[Any],
    keys: Sequence[Hashable],
    shared: Sequence[tuple] = (),
) -> list[Any]:
    """Do as `map_stacks`, but row by row in a loop.

    A `lax.cond` on what differs between rows then costs only where it is true.
    """
    return _mapped(_loop, leaf, rows, keys, shared)


def _loop(function: Callable) -> Callable:
    return lambda stack: jax.lax.map(function, stack)


def _mapped(lift, leaf, rows, keys, shared):
    groups: dict[Hashable, list[int]] = {}
    for i, (key, row) in enumerate(zip(keys, rows, strict=True)):
        arrays, treedef = jax.tree.flatten(row)
        avals = tuple((x.shape, x.dtype) for x in arrays)
        groups.setdefault((key, treedef, avals), []).append(i)
    out: list[Any] = [None] * len(rows)
    for members in groups.values():
        more = shared[members[0]] if shared else ()
        if len(members) == 1:
            out[members[0]] = leaf(rows[members[0]], *more)
            continue
        stacks = jax.tree.map(lambda *xs: _stack(xs), *(rows[i] for i in members))
        results = lift(lambda row, more=more: leaf(row, *more))(stacks)
        arrays, treedef = jax.tree.flatten(results)
        columns = [_unstack(x) for x in arrays]
        for place, i in enumerate(members):
            out[i] = treedef.unflatten([column[place] for column in columns])
    return out


@jax.jit  # jitted so that arrays of one shape are traced once
def _stack(xs: tuple[Array, ...]) -> Array:
    return jnp.stack(xs)


@jax.jit
def _unstack(x: Array) -> list[Array]:
    return [x[i] for i in range(x.shape[0])]
