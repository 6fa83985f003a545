"""The eigenvalue of largest magnitude, by repeated multiplication (von Mises 1929)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import Precision
from jax.typing import ArrayLike

from gdjax.core.checks import NONNEGATIVE, as_float_leaves, checked
from gdjax.core.explicit import automatically
from gdjax.core.numerics import real_dtype, safe_sqrt, upcast
from gdjax.core.trees import sum_sq
from gdjax.core.types import KeyArray, Number, PyTree


@checked(num_iters=NONNEGATIVE, error_tolerance=NONNEGATIVE)
def power_iteration(
    matrix: ArrayLike | Callable[[Any], Any],
    *,
    v0: PyTree | None = None,
    num_iters: Number = 100,
    error_tolerance: Number = 1e-6,
    precision: Precision = Precision.HIGHEST,
    key: KeyArray | None = None,
) -> tuple[Array, PyTree]:
    r"""Return the eigenvalue of largest magnitude, and its eigenvector.

    Each product reduces the error by the ratio of the two largest magnitudes; if these are equal
    with different signs, it does not converge. A zero matrix has eigenvalue 0 (optax: NaN).

    Args:
      matrix: float array [n, n] with a real eigenvalue of largest magnitude (for example symmetric
        or Hermitian), or a linear function of a tree.
      v0: the first vector: an array [n], or a tree that the function takes. None is uniform in
        [-1, 1], for an array only.
      num_iters: the maximal number of products.
      error_tolerance: stop when :math:`\lVert A v - \lambda v \rVert` is less than this times the
        eigenvalue :math:`\lambda`.
      precision: of the products with an array.
      key: for the random start; None is `jax.random.PRNGKey(0)`.

    Returns:
      The eigenvalue, in at least float32, and the eigenvector, of norm 1, in the dtype of the
      computation.

    Raises:
      ValueError: if the matrix is not square, or is a function without `v0`.
      TypeError: if it is not float or complex.

    Example:
      >>> import jax.numpy as jnp
      >>> value, vector = power_iteration(jnp.array([[2.0, 0.0], [0.0, -3.0]]))
      >>> print(value.round(4), abs(vector.round(4)))
      -3.0 [0. 1.]
    """
    if callable(matrix):
        if v0 is None:
            raise ValueError("power_iteration(v0=...) must be given if the matrix is a function.")
    else:
        ((array,), _) = as_float_leaves("power_iteration(matrix=...)", matrix)
        if array.ndim != 2 or array.shape[0] != array.shape[1]:
            raise ValueError(
                f"power_iteration(matrix=...) must be square, got {list(array.shape)}."
            )
        array = upcast(jnp.asarray(array))
        if v0 is None:
            key = jax.random.PRNGKey(0) if key is None else key
            v0 = jax.random.uniform(key, array.shape[:1], real_dtype(array.dtype), -1.0, 1.0)
            v0 = v0.astype(array.dtype)
        elif jnp.shape(v0) != array.shape[:1]:
            raise ValueError(
                f"power_iteration(v0=...) must have shape {list(array.shape[:1])}, got "
                f"{list(jnp.shape(v0))}."
            )
        matrix = array

    leaves, treedef = as_float_leaves("power_iteration(v0=...)", v0)
    start = treedef.unflatten([jnp.asarray(x) for x in leaves])
    iterated = functools.partial(_iterated, num_iters=num_iters, precision=precision)
    return automatically(iterated, start, matrix, jnp.asarray(error_tolerance))


def _iterated(
    start: PyTree,
    matrix: Array | Callable[[Any], Any],
    tolerance: Array,
    *,
    num_iters: Number,
    precision: Precision,
) -> tuple[Array, PyTree]:
    def product(v):
        return matrix(v) if callable(matrix) else jnp.matmul(matrix, v, precision=precision)

    def unfinished(carry):
        v, image, value, count = carry
        residual = jax.tree.map(lambda a, b: a - value.astype(b.dtype) * b, image, v)
        error = safe_sqrt(sum_sq(residual))
        return (count < num_iters) & ((count == 0) | (error > tolerance * jnp.abs(value)))

    def step(carry):
        _, image, _, count = carry
        v = _unit(image)
        image = upcast(product(v))
        return v, image, _dot(v, image), count + 1

    start = _unit(upcast(start))
    image = upcast(product(start))
    begin = start, image, jnp.zeros_like(_dot(start, image)), jnp.zeros((), jnp.int32)
    _, image, value, _ = jax.lax.while_loop(unfinished, step, begin)
    return value, _unit(image)


def _dot(x: PyTree, y: PyTree) -> Array:
    parts = jax.tree.map(lambda x, y: jnp.vdot(x, y).real, x, y)
    return functools.reduce(jnp.add, jax.tree.leaves(parts))


def _unit(x: PyTree) -> PyTree:
    norm = safe_sqrt(sum_sq(x))
    norm = jnp.where(norm > 0, norm, 1)
    return jax.tree.map(lambda leaf: leaf / norm.astype(leaf.real.dtype), x)
