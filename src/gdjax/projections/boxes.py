"""Projections that clip each element independently."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gdjax.core.checks import NONNEGATIVE, checked, strict
from gdjax.core.hyper import as_array, whole_leaf_values
from gdjax.core.types import PyTree
from gdjax.projections.reading import Bound, broadcasts, read

HYPERCUBE = "projection_hypercube(scale=...)"


@strict()
def projection_non_negative(tree: PyTree) -> PyTree:
    """Set what is negative to 0.

    Args:
      tree: tree of float arrays.

    Example:
      >>> import jax.numpy as jnp
      >>> print(projection_non_negative(jnp.array([-1.0, 2.0])))
      [0. 2.]
    """
    return jax.tree.map(jax.nn.relu, read("projection_non_negative", tree))


@strict()
def projection_box(tree: PyTree, lower: Bound, upper: Bound) -> PyTree:
    """Clip every element to [lower, upper].

    Args:
      tree: tree of float arrays.
      lower: a number, an array, or a prefix tree or `by_path` of those; None is no bound.
      upper: likewise. Where it is below `lower`, it wins.

    Example:
      >>> import jax.numpy as jnp
      >>> tree = {"a": jnp.array([-1.0, 0.5, 2.0]), "b": jnp.array(9.0)}
      >>> print(projection_box(tree, 0.0, {"a": 1.0, "b": None}))
      {'a': Array([0. , 0.5, 1. ], dtype=float32), 'b': Array(9., dtype=float32)}
    """
    tree = read("projection_box", tree)
    tree = _bound("projection_box(lower=...)", jnp.maximum, tree, lower)
    return _bound("projection_box(upper=...)", jnp.minimum, tree, upper)


@strict()
def projection_hypercube(tree: PyTree, scale: Bound = 1) -> PyTree:
    """Clip every element to [0, scale].

    Args:
      tree: tree of float arrays.
      scale: see `projection_box`.

    Example:
      >>> import jax.numpy as jnp
      >>> print(projection_hypercube(jnp.array([-1.0, 0.5, 2.0])))
      [0.  0.5 1. ]
    """
    tree = _bound(HYPERCUBE, jnp.maximum, read("projection_hypercube", tree), 0)
    return _bound(HYPERCUBE, jnp.minimum, tree, scale)


@checked(scale=NONNEGATIVE)
def projection_linf_ball(tree: PyTree, scale: ArrayLike = 1) -> PyTree:
    """Clip every element to [-scale, scale].

    Args:
      tree: tree of float arrays.
      scale: the largest magnitude, >= 0.

    Example:
      >>> import jax.numpy as jnp
      >>> print(projection_linf_ball(jnp.array([-3.0, 0.5])))
      [-1.   0.5]
    """
    what, tree = "projection_linf_ball(scale=...)", read("projection_linf_ball", tree)
    scale = as_array(what, scale)
    tree = _bound(what, jnp.maximum, tree, -scale)
    return _bound(what, jnp.minimum, tree, scale)


def _bound(
    what: str, limit: Callable[[Array, Array], Array], tree: PyTree, bound: Bound | ArrayLike
) -> PyTree:
    leaves, treedef = jax.tree.flatten(tree)
    bounds = whole_leaf_values(what, bound, tree)
    for i, (x, b) in enumerate(zip(leaves, bounds, strict=True)):
        if b is not None:
            b = as_array(what, b).astype(x.dtype)
            if not broadcasts(b.shape, x.shape):
                raise ValueError(f"{what} has shape {b.shape} where the tree has {x.shape}.")
            leaves[i] = limit(x, jnp.broadcast_to(b, x.shape))
    return treedef.unflatten(leaves)
