"""Reductions of all elements of a tree to one number, in at least float32."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gdjax.core.checks import strict
from gdjax.core.numerics import cast, compute_dtype, is_inexact, safe_sqrt
from gdjax.core.trees import magnitude, sum_sq
from gdjax.core.types import ArrayTree, PyTree
from gdjax.tree.mapping import map_named


def _up(x: ArrayLike) -> Array:
    x = jnp.asarray(x)
    return cast(x, compute_dtype(x)) if is_inexact(x.dtype) else x


def _floats(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: cast(jnp.asarray(x), compute_dtype(jnp.asarray(x))), tree)


@strict()
def sum(tree: ArrayTree, associative_reduction: bool = False) -> Array | int:
    """Return the sum of all elements; integers stay integers.

    Args:
      tree: a tree of arrays or numbers.
      associative_reduction: whether to add the sums of the leaves pairwise instead of one after the
        other.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> print(gdjax.tree.sum({"a": jnp.ones(1000, jnp.bfloat16), "b": 1.0}))
      1001.0
    """
    sums = [jnp.sum(_up(x)) for x in jax.tree.leaves(tree)]
    while associative_reduction and len(sums) > 1:
        pairs = [operator.add(*pair) for pair in zip(sums[::2], sums[1::2], strict=False)]
        sums = pairs + sums[2 * len(pairs) :]
    return functools.reduce(lambda a, b: a + b, sums, 0)


@strict()
def vdot(tree_x: ArrayTree, tree_y: ArrayTree) -> Array | int:
    """Return the inner product of two trees, conjugating the first, in at least float32.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> print(gdjax.tree.vdot([jnp.array([1j])], [jnp.array([2j])]))
      (2+0j)
    """

    def inner(x, y):
        x, y = _up(x), _up(y)
        if x.shape != y.shape:
            raise ValueError(f"tree.vdot needs leaves of one shape, got {x.shape} and {y.shape}.")
        return jnp.sum(jnp.conj(x) * y)

    products: list[Array] = jax.tree.leaves(
        map_named("tree.vdot", inner, tree_x=tree_x, tree_y=tree_y)
    )
    return functools.reduce(lambda a, b: a + b, products, 0)


def _extreme(
    tree: PyTree,
    of_array: Callable[[Array], Array],
    of_two: Callable[[ArrayLike, ArrayLike], Array],
    empty: float,
) -> Array | float:
    leaves = [x for x in jax.tree.leaves(tree) if jnp.size(x)]
    return functools.reduce(of_two, [of_array(jnp.asarray(x)) for x in leaves], empty)


@strict()
def max(tree: ArrayTree) -> Array | float:
    """Return the largest element; -inf if there are none.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> print(gdjax.tree.max({"a": jnp.array([1.0, 3.0]), "b": jnp.ones((0, 2))}))
      3.0
    """
    return _extreme(tree, jnp.max, jnp.maximum, -math.inf)


@strict()
def min(tree: ArrayTree) -> Array | float:
    """Return the smallest element; inf if there are none."""
    return _extreme(tree, jnp.min, jnp.minimum, math.inf)


@strict()
def size(tree: PyTree) -> int:
    """Return the number of elements.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> gdjax.tree.size({"a": jnp.ones((2, 3)), "b": 1.0})
      7
    """
    return functools.reduce(operator.add, [jnp.size(x) for x in jax.tree.leaves(tree)], 0)


@strict()
def norm(
    tree: ArrayTree,
    ord: int | float | Literal["inf", "infinity"] | None = None,
    squared: bool = False,
) -> Array:
    """Return the norm of all elements as one vector, in at least float32.

    Its derivative at zero is zero (optax: NaN), so that it can be part of a loss.

    Args:
      tree: a tree of arrays, real, complex or integer.
      ord: 2 or None, 1, or inf (also "inf" or "infinity").
      squared: whether to return the square.

    Raises:
      ValueError: if `ord` is not one of these.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> print(gdjax.tree.norm({"a": jnp.array([3.0]), "b": jnp.array([4.0])}))
      5.0
    """
    if ord is None or ord == 2:
        square = sum_sq(_floats(tree))
        return square if squared else safe_sqrt(square)
    if ord == 1:
        length = sum(jax.tree.map(magnitude, _floats(tree)))
    elif ord in (math.inf, "inf", "infinity"):
        leaves = [magnitude(x) for x in jax.tree.leaves(_floats(tree))]
        length = _extreme(leaves, jnp.max, jnp.maximum, 0.0)
    else:
        raise ValueError(f"tree.norm(ord=...) must be None, 1, 2 or inf, got {ord!r}.")
    length = jnp.asarray(length, jnp.result_type(length, jnp.float32))
    return length**2 if squared else length


@strict()
def allclose(
    a: ArrayTree,
    b: ArrayTree,
    rtol: ArrayLike = 1e-5,
    atol: ArrayLike = 1e-8,
    equal_nan: bool = False,
) -> Array | bool:
    """Return whether `abs(a - b) <= atol + rtol * abs(b)` for all elements of two trees.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> print(gdjax.tree.allclose([jnp.ones(2)], [jnp.ones(2) + 1e-7]))
      True
    """
    close = map_named(
        "tree.allclose",
        lambda x, y: jnp.allclose(x, y, rtol, atol, equal_nan),
        also=["rtol", "atol"],
        a=a,
        b=b,
    )
    return functools.reduce(operator.and_, jax.tree.leaves(close), True)
