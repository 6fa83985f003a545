"""Arithmetic leaf by leaf, with JAX's rules of type promotion."""

from __future__ import annotations

import functools
import operator

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gdjax.core.types import PyTree


def add(tree_x: PyTree, tree_y: PyTree, *other_trees: PyTree) -> PyTree:
    """Return the sum of two or more trees.

    Example:
      >>> import gdjax
      >>> gdjax.tree.add({"a": 1}, {"a": 2}, {"a": 3})
      {'a': 6}
    """
    return jax.tree.map(lambda *x: functools.reduce(operator.add, x), tree_x, tree_y, *other_trees)


def sub(tree_x: PyTree, tree_y: PyTree) -> PyTree:
    """Return the difference of two trees."""
    return jax.tree.map(operator.sub, tree_x, tree_y)


def mul(tree_x: PyTree, tree_y: PyTree) -> PyTree:
    """Return the product of two trees, element by element."""
    return jax.tree.map(operator.mul, tree_x, tree_y)


def div(tree_x: PyTree, tree_y: PyTree) -> PyTree:
    """Return the quotient of two trees, element by element."""
    return jax.tree.map(operator.truediv, tree_x, tree_y)


def scale(scalar: ArrayLike, tree: PyTree) -> PyTree:
    """Return a number times a tree.

    Example:
      >>> import gdjax
      >>> gdjax.tree.scale(3, {"a": 2})
      {'a': 6}
    """
    return jax.tree.map(lambda x: scalar * x, tree)


def add_scale(tree_x: PyTree, scalar: ArrayLike, tree_y: PyTree) -> PyTree:
    """Return tree_x + scalar * tree_y; the result is None where tree_x is None.

    Example:
      >>> import gdjax
      >>> print(gdjax.tree.add_scale({"a": 1.0}, 0.5, {"a": 4.0})["a"])
      3.0
    """
    scalar = jnp.asarray(scalar)
    return jax.tree.map(
        lambda x, y: None if x is None else x + scalar * y,
        tree_x,
        tree_y,
        is_leaf=lambda x: x is None,
    )


def where(condition: ArrayLike, tree_x: PyTree, tree_y: PyTree) -> PyTree:
    """Return elements of tree_x where the condition holds, and of tree_y elsewhere.

    Args:
      condition: a boolean, or a boolean array that broadcasts to every leaf.
      tree_x: a tree.
      tree_y: a tree of the same structure.
    """
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), tree_x, tree_y)


def clip(
    tree: PyTree, min_value: ArrayLike | None = None, max_value: ArrayLike | None = None
) -> PyTree:
    """Return the tree with every element clipped to [min_value, max_value]; None means no bound.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> print(gdjax.tree.clip([jnp.array([-2.0, 0.5])], min_value=-1.0)[0])
      [-1.   0.5]
    """
    return jax.tree.map(lambda x: jnp.clip(x, min_value, max_value), tree)


def conj(tree: PyTree) -> PyTree:
    """Return the complex conjugate of a tree."""
    return jax.tree.map(jnp.conj, tree)


def real(tree: PyTree) -> PyTree:
    """Return the real part of a tree."""
    return jax.tree.map(jnp.real, tree)
