"""Running moments of a tree, for optimizers written by hand.

They compute in at least float32 and return the common dtype of the leaves, or float32 for integers.
The result is None where the updates are None.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gdjax.core.checks import strict
from gdjax.core.numerics import abs_sq, cast, compute_dtype, is_inexact
from gdjax.core.types import ArrayTree, Number, PyTree, Updates
from gdjax.tree.mapping import map_named


def _map(
    call: str,
    numbers: Sequence[str],
    leaf: Callable[[Array, Array], ArrayLike],
    updates: Updates,
    moments: PyTree,
) -> PyTree:
    def one(g, t):
        if g is None:
            return None
        g, t = jnp.asarray(g), jnp.asarray(t)
        new = jnp.asarray(leaf(cast(g, compute_dtype(g)), cast(t, compute_dtype(t))))
        same = g.dtype == t.dtype and is_inexact(t.dtype)  # integers would lose the fraction
        return cast(new, t.dtype if same else jnp.result_type(new, t))

    none = lambda x: x is None  # noqa: E731
    return map_named(call, one, also=numbers, is_leaf=none, updates=updates, moments=moments)


@strict()
def update_moment(
    updates: ArrayTree, moments: ArrayTree, decay: Number, order: ArrayLike
) -> PyTree:
    """Return decay * moment + (1 - decay) * g**order.

    Args:
      updates: a tree of gradients.
      moments: a tree of moments, shaped like it.
      decay: weight of the old moment, in [0, 1].
      order: the power: 1 for a mean, 2 for a second moment of real gradients (for complex ones see
        `update_moment_per_elem_norm`).

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> print(gdjax.tree.update_moment([jnp.array([2.0])], [jnp.array([0.0])], 0.75, 2)[0])
      [1.]
    """
    return _map(
        "tree.update_moment",
        ["decay", "order"],
        lambda g, t: (1 - decay) * g**order + decay * t,
        updates,
        moments,
    )


@strict()
def update_moment_per_elem_norm(
    updates: ArrayTree, moments: ArrayTree, decay: Number, order: float
) -> PyTree:
    """Return `update_moment`, with `abs(g)**order` in place of `g**order` for complex gradients.

    Args:
      updates: a tree of gradients.
      moments: a tree of real moments, shaped like it.
      decay: weight of the old moment, in [0, 1].
      order: the power.
    """

    def power(g):
        if jnp.isrealobj(g):
            return g**order
        half = order / 2
        return abs_sq(g) ** (int(half) if float(half).is_integer() else half)

    return _map(
        "tree.update_moment_per_elem_norm",
        ["decay", "order"],
        lambda g, t: (1 - decay) * power(g) + decay * t,
        updates,
        moments,
    )


@strict()
def update_infinity_moment(
    updates: ArrayTree, moments: ArrayTree, decay: Number, eps: ArrayLike
) -> PyTree:
    """Return the larger of `abs(g) + eps` and `decay * moment`.

    Args:
      updates: a tree of gradients.
      moments: a tree of real moments, shaped like it.
      decay: weight of the old moment, in [0, 1].
      eps: added to `abs(g)`.
    """
    return _map(
        "tree.update_infinity_moment",
        ["decay", "eps"],
        lambda g, t: jnp.maximum(jnp.abs(g) + eps, decay * t),
        updates,
        moments,
    )


@strict()
def bias_correction(moment: ArrayTree, decay: Number, count: Number) -> PyTree:
    """Return moment / (1 - decay**count), computed in at least float32 and returned in its dtype.

    Args:
      moment: a tree of running means that started at zero.
      decay: their decay, in [0, 1).
      count: number of updates that they include, >= 1.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> print(gdjax.tree.bias_correction([jnp.array([0.1])], 0.9, 1)[0])
      [1.]
    """
    weight = 1 - jnp.asarray(decay) ** count

    def correct(t):
        t = jnp.asarray(t)
        dtype = compute_dtype(t)
        mean = cast(t, dtype) / weight.astype(jnp.finfo(dtype).dtype)
        return cast(mean, t.dtype if is_inexact(t.dtype) else dtype)

    return map_named("tree.bias_correction", correct, also=["decay", "count"], moment=moment)
