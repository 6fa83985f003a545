"""Arithmetic leaf by leaf, with JAX's own rules for dtypes."""

from __future__ import annotations

import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp


def add(tree_x: Any, tree_y: Any, *other_trees: Any) -> Any:
    """Return the sum of two or more trees.

    Example:
      >>> import gdjax
      >>> gdjax.tree.add({"a": 1}, {"a": 2}, {"a": 3})
      {'a': 6}
    """
    return jax.tree.map(lambda *x: functools.reduce(operator.add, x), tree_x, tree_y, *other_trees)


def sub(tree_x: Any, tree_y: Any) -> Any:
    """Return the difference of two trees."""
    return jax.tree.map(operator.sub, tree_x, tree_y)


def mul(tree_x: Any, tree_y: Any) -> Any:
    """Return the product of two trees, element by element."""
    return jax.tree.map(operator.mul, tree_x, tree_y)


def div(tree_x: Any, tree_y: Any) -> Any:
    """Return the quotient of two trees, element by element."""
    return jax.tree.map(operator.truediv, tree_x, tree_y)


def scale(scalar: Any, tree: Any) -> Any:
    """Return a number times a tree.

    Example:
      >>> import gdjax
      >>> gdjax.tree.scale(3, {"a": 2})
      {'a': 6}
    """
    return jax.tree.map(lambda x: scalar * x, tree)


def add_scale(tree_x: Any, scalar: Any, tree_y: Any) -> Any:
    """Return tree_x + scalar * tree_y; where tree_x has None, so has the result.

    Example:
      >>> import gdjax
      >>> print(gdjax.tree.add_scale({"a": 1.0}, 0.5, {"a": 4.0})["a"])
      3.0
    """
    scalar = jnp.asarray(scalar)
    return jax.tree.map(
        lambda x, y: None if x is None else x + scalar * y,
        tree_x, tree_y, is_leaf=lambda x: x is None,
    )  # fmt: skip


def where(condition: Any, tree_x: Any, tree_y: Any) -> Any:
    """Return the leaves of tree_x where the condition holds, else those of tree_y.

    Args:
      condition: one boolean, or an array of them that broadcasts to every leaf.
      tree_x: a tree.
      tree_y: a tree of the same structure.
    """
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), tree_x, tree_y)


def clip(tree: Any, min_value: Any = None, max_value: Any = None) -> Any:
    """Return the tree with every element clipped to [min_value, max_value]; None is no bound.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> print(gdjax.tree.clip([jnp.array([-2.0, 0.5])], min_value=-1.0)[0])
      [-1.   0.5]
    """
    return jax.tree.map(lambda x: jnp.clip(x, min_value, max_value), tree)


def conj(tree: Any) -> Any:
    """Return the complex conjugate of a tree."""
    return jax.tree.map(jnp.conj, tree)


def real(tree: Any) -> Any:
    """Return the real part of a tree."""
    return jax.tree.map(jnp.real, tree)
