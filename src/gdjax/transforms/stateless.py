"""Transforms that remember nothing: a plain function of the gradients, or zero."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax.core.base import Optimizer
from gdjax.core.lift import leafwise
from gdjax.core.treewise import treewise


class EmptyState(NamedTuple):
    """The state of a transform of one's own that remembers nothing."""


def init_empty_state(params: Any) -> EmptyState:
    """Return the state of a transform that remembers nothing, for any parameters."""
    return EmptyState()


def _stateless(grads, slots, params, count, *, function, raw_params):
    return function(grads, raw_params), slots


def stateless(f: Callable[[Any, Any], Any]) -> Optimizer:
    """Make a transform of a function of the gradients and the parameters.

    Args:
      f: `f(updates, params)` returns a tree like `updates`, which come in at least float32.
        `params` are those that `update` was called with, or None. It is structure: the same
        function gives the same `update`, and it is traced, not run in every step.

    Returns:
      An `Optimizer` that remembers nothing.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> opt = gdjax.stateless(lambda updates, params: jax.tree.map(jnp.sign, updates))
      >>> print(opt.update(jnp.array([3.0, -4.0]), opt.init(jnp.ones(2)))[0])
      [ 1. -1.]
    """
    return treewise(_stateless, function=f)


def _each_leaf(grads, slots, params, count, *, function, raw_params):
    if raw_params is None:
        return jax.tree.map(lambda g: function(g, None), grads), slots
    return jax.tree.map(function, grads, raw_params), slots


def stateless_with_tree_map(f: Callable[[Any, Any], Any]) -> Optimizer:
    """Make a transform of a function of one gradient and its parameter.

    Args:
      f: `f(update, param)` returns an array like `update`; otherwise as for `stateless`.

    Returns:
      An `Optimizer` that remembers nothing.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.stateless_with_tree_map(lambda update, param: update * jnp.abs(param))
      >>> params = {"w": jnp.array([2.0, -3.0])}
      >>> print(opt.update({"w": jnp.ones(2)}, opt.init(params), params)[0]["w"])
      [2. 3.]
    """
    return treewise(_each_leaf, function=f)


def _set_to_zero(grad, slots, param, count):
    return jnp.zeros_like(grad), slots


def set_to_zero() -> Optimizer:
    """Return zeros, whatever the gradients are: the parameters stay.

    To freeze some of the parameters, `freeze` needs no state for them and no step.

    Returns:
      An `Optimizer` that remembers nothing.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.set_to_zero()
      >>> print(opt.update(jnp.array([jnp.nan, 1.0]), opt.init(jnp.ones(2)))[0])
      [0. 0.]
    """
    return leafwise(_set_to_zero)
