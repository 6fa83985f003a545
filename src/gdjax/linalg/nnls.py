"""Least squares under x >= 0, by an accelerated projected gradient.

Polyak (2015), "Projected gradient method for non-negative least squares"; the momentum of Beck &
Teboulle (2009), dropped where it points uphill (O'Donoghue & Candes 2012,
https://arxiv.org/abs/1204.3982, section 3.2), which optax does not do.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import Precision
from jax.typing import ArrayLike

from gdjax.core.checks import NONNEGATIVE, as_float_leaves, check_integer, checked
from gdjax.core.numerics import cast, compute_dtype
from gdjax.core.types import Number


@checked(L=NONNEGATIVE)
def nnls(
    A: ArrayLike,
    b: ArrayLike,
    iters: int,
    unroll: int | bool = 1,
    L: Number | None = None,
) -> Array:
    """Approximate the x >= 0 that minimizes |A x - b| by `iters` steps.

    Where the columns of A are independent the error falls geometrically, with a rate that depends
    on the square of A's condition number. It can be differentiated.

    Args:
      A: real float array [m, n].
      b: real float array [m], or [m, k] for k problems at once.
      iters: how many steps, >= 0.
      unroll: how many of them at a time in the compiled loop, as in `jax.lax.scan`.
      L: an upper bound of the largest eigenvalue of A^T A; None is the smaller of two norms.

    Returns:
      The solution [n] or [n, k], in the common dtype of A and b (computed in float32 at least).

    Raises:
      TypeError: if an array is not real and float.
      ValueError: if shapes do not fit or `iters` is not an integer >= 0.

    Example:
      >>> import jax.numpy as jnp
      >>> A, b = jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([5.0, 6.0])
      >>> print(nnls(A, b, 1000))
      [0.  1.7]
    """
    arrays = [as_float_leaves(f"nnls({k}=...)", x)[0][0] for k, x in (("A", A), ("b", b))]
    matrix, right = map(jnp.asarray, arrays)
    for name, x in (("A", matrix), ("b", right)):
        if jnp.iscomplexobj(x):
            raise TypeError(f"nnls({name}=...) must be real, got dtype {x.dtype}.")
    if matrix.ndim != 2 or right.ndim not in (1, 2) or right.shape[0] != matrix.shape[0]:
        raise ValueError(
            f"nnls needs A [m, n] and b [m] or [m, k], got {list(matrix.shape)} and "
            f"{list(right.shape)}."
        )
    iters = check_integer("nnls(iters=...)", iters, 0)
    if unroll is not True and unroll is not False:
        check_integer("nnls(unroll=...)", unroll, 0)

    dtype = compute_dtype(matrix, right)
    a, r = cast(matrix, dtype), cast(right, dtype)
    gram = jnp.matmul(a.T, a, precision=Precision.HIGHEST)
    target = jnp.matmul(a.T, r, precision=Precision.HIGHEST)
    if L is None:
        columns = jnp.max(jnp.sum(jnp.abs(gram), axis=0), initial=0)
        L = jnp.minimum(jnp.sqrt(jnp.sum(gram * gram)), columns)
    L = jnp.asarray(L, dtype)
    L = jnp.where(L > 0, L, 1)

    def step(carry, _):
        x, ahead, t = carry
        slope = jnp.matmul(gram, ahead, precision=Precision.HIGHEST) - target
        new = jnp.maximum(ahead - slope / L, 0)
        uphill = jnp.sum((ahead - new) * (new - x), axis=0) > 0
        t = jnp.where(uphill, 1, t)
        new_t = (1 + jnp.sqrt(1 + 4 * t * t)) / 2
        momentum = jnp.broadcast_to((t - 1) / new_t, new.shape)
        return (new, new + momentum * (new - x), new_t), None

    x = jnp.zeros_like(target)
    begin = x, x, jnp.ones(target.shape[1:], dtype)
    (x, _, _), _ = jax.lax.scan(step, begin, length=iters, unroll=unroll)
    return cast(x, jnp.promote_types(matrix.dtype, right.dtype))
