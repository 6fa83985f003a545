"""The metric of an optimizer: what it divides each element of its step by; see `HasDiagonal`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.blocks import map_blocks
from gdjax.core.checks import leaf_name
from gdjax.core.codecs import decoded
from gdjax.core.hyper import leaf_numbers
from gdjax.core.numerics import upcast
from gdjax.core.protocols import HasDiagonal, states_in
from gdjax.core.types import OptState, Params


def diagonal_metric(state: OptState, params: Params) -> list[Array | None]:
    """Return for each parameter what its last step was divided by; None for nothing."""
    leaves, treedef = jax.tree.flatten(params)
    found: list[Any] = [None] * len(leaves)
    for _, node in states_in(state):
        if not isinstance(node.slots, HasDiagonal):
            continue
        slots: Any = decoded(node.slots)
        columns = [treedef.flatten_up_to(tree) for tree in slots]
        mine = [i for i, x in enumerate(columns[0]) if x is not None]  # the others: other groups'
        last = jnp.maximum(node.count - 1, 0)
        numbers = leaf_numbers("diagonal", node, slots[0], last)
        rows = [type(slots)(*(column[i] for column in columns)) for i in mine]
        given = [{k: v[j] for k, v in numbers.items()} for j in range(len(rows))]
        keys = [
            (x[0].shape, x[0].dtype, *map(id, g.values())) for x, g in zip(rows, given, strict=True)
        ]
        if getattr(slots, "uniform", False):
            same = {key[2:]: (x, g) for key, x, g in zip(keys, rows, given, strict=True)}
            once = {key: x.diagonal(node.count, **g) for key, (x, g) in same.items()}
            diagonals = [once[key[2:]] for key in keys]
        else:
            diagonals = map_blocks(_diagonal, rows, keys, [(node.count, g) for g in given])
        for i, d in zip(mine, diagonals, strict=True):
            if found[i] is not None or d.shape not in ((), leaves[i].shape):
                raise ValueError(
                    f"the metric of the optimizer for {leaf_name(params, i)!r} is not that of one "
                    "optimizer, element by element. Pass metric=... yourself."
                )
            found[i] = d
    return found


@jax.jit
def _diagonal(row, count, numbers):
    row = upcast(row)
    real = row[-1].real.dtype
    numbers = {k: None if v is None else v.astype(real) for k, v in numbers.items()}
    return row.diagonal(count, **numbers)
