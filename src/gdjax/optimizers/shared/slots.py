"""Slots that depend on all parameters: on an index, on paths, or on which axes make matrices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax

from gdjax.core.base import Optimizer, State
from gdjax.core.checks import as_float_leaves, ranges_of, remember_ranges
from gdjax.core.placement import replicated_like
from gdjax.core.types import Params
from gdjax.linalg.matrices import MatrixSpec, matrix_axes

Rows: TypeAlias = Callable[[Params], Sequence[Any]]


def with_slots(optimizer: Optimizer, kind: type[Any], rows: Rows) -> Optimizer:
    """Return a leafwise optimizer whose slots are made from all parameters together.

    Args:
      optimizer: made by `leafwise` or `descend` without slots.
      kind: the NamedTuple class of the slots.
      rows: `rows(params)` returns a `kind` for each parameter, in the order of the leaves.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> from gdjax.optimizers.adam import Moments
      >>> def _rule(grad, slots, param, count):
      ...     return slots.nu * grad, slots
      >>> def _rows(params):
      ...     return [Moments(jnp.zeros(()), jnp.array(i, float)) for i in range(len(params))]
      >>> opt = with_slots(gdjax.leafwise(_rule), Moments, _rows)
      >>> params = [jnp.ones(2), jnp.ones(2)]
      >>> print(opt.update(params, opt.init(params))[0])
      [Array([0., 0.], dtype=float32), Array([1., 1.], dtype=float32)]
    """

    def init(params: Params) -> State:
        state = optimizer.init(params)
        leaves, treedef = as_float_leaves("the parameters", params)
        found = rows(treedef.unflatten(leaves))
        columns = ([row[i] for row in found] for i in range(len(kind._fields)))
        slots = replicated_like(kind(*map(treedef.unflatten, columns)), params)
        return remember_ranges(state._replace(slots=slots), ranges_of(state))

    return Optimizer(init, optimizer.update)


def matrix_rows(
    what: str, spec: MatrixSpec, slots: Callable[..., Any], splits: bool = False
) -> Rows:
    """Return `rows` for `with_slots`, for slots that depend on which axes make matrices.

    Args:
      what: the argument's name, for errors.
      spec: see `matrix_axes`.
      slots: `slots(param, axes, index)` returns the slots of one parameter; `axes` is None if it is
        not a matrix.
      splits: see `matrix_axes`.
    """

    def rows(params: Params) -> list[Any]:
        leaves, axes = jax.tree.leaves(params), matrix_axes(what, spec, params, splits)
        return [slots(x, a, i) for i, (x, a) in enumerate(zip(leaves, axes, strict=True))]

    return rows
