"""Transforms without slots: a function of the gradients, or zero."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.base import Optimizer
from gdjax.core.checks import strict
from gdjax.core.lift import leafwise, treewise
from gdjax.core.types import Params, Updates

StatelessFn: TypeAlias = Callable[[Updates, Params], Updates]


class EmptyState(NamedTuple):
    """The empty state, for transforms of one's own."""


@strict()
def init_empty_state(params: Params) -> EmptyState:
    """Return the empty state, for any parameters: the `init` of a transform of one's own."""
    return EmptyState()


def _stateless(grads, slots, params, count, *, function, raw_params):
    return function(grads, raw_params), slots


@strict()
def stateless(f: StatelessFn) -> Optimizer:
    """Make a transform of a function of the gradients and the parameters.

    Args:
      f: `f(updates, params)` returns a tree like `updates`, which come in at least float32.
        `params` are those that `update` was called with, or None. The function is static: the same
        function gives the same `update`, and it is traced, not run in every step.

    Returns:
      An `Optimizer` without slots.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> opt = gdjax.stateless(lambda updates, params: jax.tree.map(jnp.sign, updates))
      >>> print(opt.update(jnp.array([3.0, -4.0]), opt.init(jnp.ones(2)))[0])
      [ 1. -1.]
    """
    return treewise(_stateless, function=f)


def _stateless_with_tree_map(grads, slots, params, count, *, function, raw_params):
    if raw_params is None:
        return jax.tree.map(lambda g: function(g, None), grads), slots
    return jax.tree.map(function, grads, raw_params), slots


@strict()
def stateless_with_tree_map(f: Callable[[Array, Array | None], Array]) -> Optimizer:
    """Make a transform of a function of one gradient and its parameter.

    Args:
      f: `f(update, param)` returns an array like `update`; otherwise as for `stateless`.

    Returns:
      An `Optimizer` without slots.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.stateless_with_tree_map(lambda update, param: update * jnp.abs(param))
      >>> params = {"w": jnp.array([2.0, -3.0])}
      >>> print(opt.update({"w": jnp.ones(2)}, opt.init(params), params)[0]["w"])
      [2. 3.]
    """
    return treewise(_stateless_with_tree_map, function=f)


def _set_to_zero(grad, slots, param, count):
    return jnp.zeros_like(grad), slots


def set_to_zero() -> Optimizer:
    """Return zeros for any gradients, so that the parameters do not change.

    To freeze some of the parameters, use `selective_transform`, which keeps no state for them.

    Returns:
      An `Optimizer` without slots.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.set_to_zero()
      >>> print(opt.update(jnp.array([jnp.nan, 1.0]), opt.init(jnp.ones(2)))[0])
      [0. 0.]
    """
    return leafwise(_set_to_zero)
