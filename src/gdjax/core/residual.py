"""Sequences at full precision behind parameters of lower precision.

Where a method computes its next point from the parameters, parameters of less than float32 would
lose every step that is smaller than half the distance to the next number. So the state keeps what
rounding took away: exact = param + residual, also after someone else has moved the parameter.
Parameters of at least float32 need none; their slot is None.

An update that is to land on a chosen number is itself a number of the parameter's dtype. It then
survives every cast between here and the parameter, and `param + update`, rounded once, in whatever
dtype the sum is taken, is the number that the residual was computed for. Not each number can be
reached so: 1 - 2**-20 has more digits than bfloat16. Where a step takes a parameter to less than
half its size, or to the other sign, it may land on a number nearby, and the residual holds the
rest.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gdjax.core.blocks import map_blocks
from gdjax.core.numerics import compute_dtype, rounded
from gdjax.core.placement import zeros_like
from gdjax.core.remember import register_node
from gdjax.core.types import Params, PyTree, Updates


@functools.partial(register_node, data_fields=["value"], meta_fields=["param_dtype"])
@dataclasses.dataclass(frozen=True)
class Residual:
    """What one parameter lost: its array, and the parameter's own dtype, which is static."""

    value: Array
    param_dtype: np.dtype


@functools.partial(register_node, data_fields=[], meta_fields=["dtype"])
@dataclasses.dataclass(frozen=True)
class StoredIn:
    """The dtype of one parameter of less than float32; it has no leaves."""

    dtype: np.dtype


def low_dtypes(params: Params) -> PyTree:
    """Return `StoredIn` for each parameter of less than float32, None for the others.

    Example:
      >>> import jax.numpy as jnp
      >>> low_dtypes([jnp.ones(2), jnp.ones(2, jnp.bfloat16)])
      [None, StoredIn(dtype=dtype(bfloat16))]
    """
    return jax.tree.map(
        lambda x: None if x.dtype == compute_dtype(x) else StoredIn(x.dtype), params
    )


def no_residual(params: Params, *, low: bool = False) -> PyTree:
    """Return a `Residual` of zero for each parameter of less than float32, None for the others.

    Args:
      params: the parameters.
      low: whether to keep it in the parameter's dtype, rounded, in place of float32.

    Example:
      >>> import jax.numpy as jnp
      >>> no_residual([jnp.ones(2), jnp.ones(2, jnp.bfloat16)])[1].value.dtype
      dtype('float32')
    """

    def one(x):
        wide = compute_dtype(x)
        if x.dtype == wide:
            return None
        return Residual(zeros_like(x, x.dtype if low else wide), x.dtype)

    return jax.tree.map(one, params)


def exact_params(params: Params, residual: PyTree) -> Params:
    """Return param + residual for each parameter that has one, and the others as they are."""

    def one(r, param):
        return param if r is None else _exact(param, r)

    return jax.tree.map(one, residual, params, is_leaf=lambda x: x is None or _is_residual(x))


def _exact(param, residual):
    wide = compute_dtype(param)  # rounded: XLA may hand on what the parameter was before that
    return rounded(param.astype(wide), residual.param_dtype) + residual.value.astype(wide)


def land(
    params: Params, exact: Params, updates: Updates, residual: PyTree
) -> tuple[Updates, PyTree]:
    """Return updates that take the parameters to exact + update, rounded, and the next residual.

    An element whose update is 0 stays where it is, and so does its residual.

    Args:
      params: the parameters, in at least float32.
      exact: what `exact_params` returned for them.
      updates: those of `exact`, shaped like it.
      residual: the old one.
    """
    kept, treedef = jax.tree.flatten(residual, is_leaf=lambda x: x is None or _is_residual(x))
    if not any(map(_is_residual, kept)):
        return updates, residual
    columns = (treedef.flatten_up_to(tree) for tree in (params, exact, updates))
    rows = list(zip(kept, *columns, strict=True))
    low = [i for i, r in enumerate(kept) if r is not None]
    keys = [(kept[i].value.shape, kept[i].value.dtype, kept[i].param_dtype) for i in low]
    moved = [row[3] for row in rows]
    for i, (update, new) in zip(low, map_blocks(_land, [rows[i] for i in low], keys), strict=True):
        moved[i], kept[i] = update, new
    return treedef.unflatten(moved), treedef.unflatten(kept)


@jax.jit
def _land(row):
    residual, param, exact, update = row
    dtype, stays = residual.param_dtype, update == 0
    param, new = rounded(param, dtype), exact + update
    step = rounded(rounded(new, dtype) - param, dtype)
    left = (new - rounded(param + step, dtype)).astype(residual.value.dtype)
    value = jnp.where(stays, residual.value, left)
    return jnp.where(stays, update, step), Residual(value, dtype)


def _is_residual(x: object) -> bool:
    return isinstance(x, Residual)
