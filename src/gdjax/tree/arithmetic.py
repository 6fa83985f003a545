"""Arithmetic leaf by leaf, with JAX's rules of type promotion."""

from __future__ import annotations

import functools
import operator

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gdjax.core.checks import strict
from gdjax.core.types import ArrayTree, PyTree
from gdjax.tree.mapping import map_named


@strict()
def add(tree_x: ArrayTree, tree_y: ArrayTree, *other_trees: ArrayTree) -> PyTree:
    """Return the sum of two or more trees.

    Example:
      >>> import gdjax
      >>> gdjax.tree.add({"a": 1}, {"a": 2}, {"a": 3})
      {'a': 6}
    """
    more = {f"other_trees[{i}]": tree for i, tree in enumerate(other_trees)}
    return map_named(
        "tree.add",
        lambda *x: functools.reduce(operator.add, x),
        tree_x=tree_x,
        tree_y=tree_y,
        **more,
    )


@strict()
def sub(tree_x: ArrayTree, tree_y: ArrayTree) -> PyTree:
    """Return the difference of two trees."""
    return map_named("tree.sub", operator.sub, tree_x=tree_x, tree_y=tree_y)


@strict()
def mul(tree_x: ArrayTree, tree_y: ArrayTree) -> PyTree:
    """Return the product of two trees, element by element."""
    return map_named("tree.mul", operator.mul, tree_x=tree_x, tree_y=tree_y)


@strict()
def div(tree_x: ArrayTree, tree_y: ArrayTree) -> PyTree:
    """Return the quotient of two trees, element by element."""
    return map_named("tree.div", operator.truediv, tree_x=tree_x, tree_y=tree_y)


@strict()
def scale(scalar: ArrayLike, tree: ArrayTree) -> PyTree:
    """Return a number times a tree.

    Example:
      >>> import gdjax
      >>> gdjax.tree.scale(3, {"a": 2})
      {'a': 6}
    """
    return map_named("tree.scale", lambda x: scalar * x, also=["scalar"], tree=tree)


@strict()
def add_scale(tree_x: ArrayTree, scalar: ArrayLike, tree_y: ArrayTree) -> PyTree:
    """Return tree_x + scalar * tree_y; the result is None where tree_x is None.

    Example:
      >>> import gdjax
      >>> print(gdjax.tree.add_scale({"a": 1.0}, 0.5, {"a": 4.0})["a"])
      3.0
    """
    scalar = jnp.asarray(scalar)
    return map_named(
        "tree.add_scale",
        lambda x, y: None if x is None else x + scalar * y,
        also=["scalar"],
        is_leaf=lambda x: x is None,
        tree_x=tree_x,
        tree_y=tree_y,
    )


@strict()
def where(condition: ArrayLike, tree_x: PyTree, tree_y: PyTree) -> PyTree:
    """Return elements of tree_x where the condition holds, and of tree_y elsewhere.

    Args:
      condition: a boolean, or a boolean array that broadcasts to every leaf.
      tree_x: a tree.
      tree_y: a tree of the same structure.
    """
    return map_named(
        "tree.where",
        lambda x, y: jnp.where(condition, x, y),
        also=["condition"],
        tree_x=tree_x,
        tree_y=tree_y,
    )


@strict()
def clip(
    tree: ArrayTree, min_value: ArrayLike | None = None, max_value: ArrayLike | None = None
) -> PyTree:
    """Return the tree with every element clipped to [min_value, max_value]; None means no bound.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> print(gdjax.tree.clip([jnp.array([-2.0, 0.5])], min_value=-1.0)[0])
      [-1.   0.5]
    """
    return map_named(
        "tree.clip",
        lambda x: jnp.clip(x, min_value, max_value),
        also=["min_value", "max_value"],
        tree=tree,
    )


@strict()
def conj(tree: ArrayTree) -> PyTree:
    """Return the complex conjugate of a tree."""
    return jax.tree.map(jnp.conj, tree)


@strict()
def real(tree: ArrayTree) -> PyTree:
    """Return the real part of a tree."""
    return jax.tree.map(jnp.real, tree)
