"""Projections that clip every element by itself."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from gdjax.core.checks import NONNEGATIVE, checked
from gdjax.core.hyper import leaf_values
from gdjax.projections.reading import read


def projection_non_negative(tree: Any) -> Any:
    """Set what is negative to 0.

    Args:
      tree: tree of float arrays.

    Example:
      >>> import jax.numpy as jnp
      >>> print(projection_non_negative(jnp.array([-1.0, 2.0])))
      [0. 2.]
    """
    return jax.tree.map(jax.nn.relu, read("projection_non_negative", tree))


def projection_box(tree: Any, lower: Any, upper: Any) -> Any:
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
    tree = _bound("lower", jnp.maximum, tree, lower)
    return _bound("upper", jnp.minimum, tree, upper)


def projection_hypercube(tree: Any, scale: Any = 1) -> Any:
    """Clip every element to [0, scale].

    Args:
      tree: tree of float arrays.
      scale: see `projection_box`.

    Example:
      >>> import jax.numpy as jnp
      >>> print(projection_hypercube(jnp.array([-1.0, 0.5, 2.0])))
      [0.  0.5 1. ]
    """
    return projection_box(read("projection_hypercube", tree), 0, scale)


@checked(scale=NONNEGATIVE)
def projection_linf_ball(tree: Any, scale: Any = 1) -> Any:
    """Clip every element to [-scale, scale].

    Args:
      tree: tree of float arrays.
      scale: the largest magnitude, >= 0.

    Example:
      >>> import jax.numpy as jnp
      >>> print(projection_linf_ball(jnp.array([-3.0, 0.5])))
      [-1.   0.5]
    """
    return projection_box(read("projection_linf_ball", tree), -scale, scale)


def _bound(name: str, limit: Any, tree: Any, bound: Any) -> Any:
    leaves, treedef = jax.tree.flatten(tree)
    bounds = leaf_values(f"projection_box({name}=...)", bound, tree)
    for i, (x, b) in enumerate(zip(leaves, bounds, strict=True)):
        if b is not None:
            leaves[i] = limit(x, jnp.broadcast_to(jnp.asarray(b, x.dtype), x.shape))
    return treedef.unflatten(leaves)
