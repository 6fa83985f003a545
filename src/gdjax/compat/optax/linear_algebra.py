"""Norms, eigenvalues, inverse roots and nonnegative least squares: those of gdjax."""

from __future__ import annotations

from jax import Array

from gdjax.compat.optax import tree
from gdjax.compat.optax.base import ArrayTree
from gdjax.linalg.inverse_root import matrix_inverse_pth_root as matrix_inverse_pth_root
from gdjax.linalg.nnls import nnls as nnls
from gdjax.linalg.power_iteration import power_iteration as power_iteration


def global_norm(updates: ArrayTree) -> Array:
    """Return the Euclidean norm of all elements of a tree, in the dtype of its leaves.

    Example:
      >>> from gdjax.compat import optax
      >>> import jax.numpy as jnp
      >>> print(optax.global_norm({"a": jnp.array([3.0]), "b": jnp.array([4.0])}))
      5.0
    """
    return tree.norm(updates)
