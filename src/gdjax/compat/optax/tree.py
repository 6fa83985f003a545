"""Functions of trees: those of `gdjax.tree`, but sums and norms have the dtype of the leaves.

They are computed in at least float32 there, and rounded once, here.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array

from gdjax import tree as _native
from gdjax.compat.optax.base import ArrayTree
from gdjax.tree import add as add
from gdjax.tree import add_scale as add_scale
from gdjax.tree import allclose as allclose
from gdjax.tree import batch_shape as batch_shape
from gdjax.tree import bias_correction as bias_correction
from gdjax.tree import cast as cast
from gdjax.tree import cast_like as cast_like
from gdjax.tree import clip as clip
from gdjax.tree import conj as conj
from gdjax.tree import div as div
from gdjax.tree import dtype as dtype
from gdjax.tree import full_like as full_like
from gdjax.tree import get as get
from gdjax.tree import get_all_with_path as get_all_with_path
from gdjax.tree import map_params as map_params
from gdjax.tree import max as max
from gdjax.tree import min as min
from gdjax.tree import mul as mul
from gdjax.tree import ones_like as ones_like
from gdjax.tree import random_like as random_like
from gdjax.tree import real as real
from gdjax.tree import scale as scale
from gdjax.tree import set as set
from gdjax.tree import size as size
from gdjax.tree import split_key_like as split_key_like
from gdjax.tree import sub as sub
from gdjax.tree import unwrap_random_key_data as unwrap_random_key_data
from gdjax.tree import update_infinity_moment as update_infinity_moment
from gdjax.tree import update_moment as update_moment
from gdjax.tree import update_moment_per_elem_norm as update_moment_per_elem_norm
from gdjax.tree import where as where
from gdjax.tree import zeros_like as zeros_like


def norm(
    tree: ArrayTree,
    ord: int | float | Literal["inf", "infinity"] | None = None,  # noqa: A002
    squared: bool = False,
) -> Array:
    """Return the norm of all elements as one vector; see `gdjax.tree.norm`.

    Example:
      >>> from gdjax.compat import optax
      >>> import jax.numpy as jnp
      >>> optax.tree.norm([jnp.ones(400, jnp.bfloat16)])
      Array(20, dtype=bfloat16)
    """
    return jnp.asarray(_as_leaves(_native.norm(tree, ord, squared), tree))


def sum(tree: ArrayTree, associative_reduction: bool = False) -> Array | int:  # noqa: A001
    """Return the sum of all elements; see `gdjax.tree.sum`."""
    return _as_leaves(_native.sum(tree, associative_reduction), tree)


def vdot(tree_x: ArrayTree, tree_y: ArrayTree) -> Array | int:
    """Return the inner product of two trees, conjugating the first; see `gdjax.tree.vdot`."""
    return _as_leaves(_native.vdot(tree_x, tree_y), (tree_x, tree_y))


def _as_leaves(result: Array | int, tree: ArrayTree) -> Array | int:
    """Return the result in the common dtype of the leaves; a real one stays real."""
    leaves = jax.tree.leaves(tree)
    if not leaves:
        return result
    dtype = jnp.result_type(*leaves)
    if not jnp.issubdtype(dtype, jnp.inexact):
        return result
    real = not jnp.iscomplexobj(result)
    return jnp.asarray(result, jnp.finfo(dtype).dtype if real else dtype)
