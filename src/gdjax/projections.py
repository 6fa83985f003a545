"""Euclidean projections: the nearest point of a set, for a whole tree as one vector.

Used after a step they keep parameters in the set: `projection_simplex(apply_updates(params, u))`.
Leaves keep their dtype; mathematics is float32 at least. Where the nearest point is not unique (the
sphere seen from its centre) one of them is returned; a set given by a zero normal is taken as no
constraint. Values and gradients are finite there too. The half-space and hyperplane divide by
<a, a> as in Boyd & Vandenberghe (2004), section 8.1.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

from gdjax.core.checks import NONNEGATIVE, as_float_leaves, check_like, checked
from gdjax.core.hyper import leaf_values
from gdjax.core.numerics import cast_like, safe_sqrt, sum_sq, upcast
from gdjax.solvers.box_section import projection_box_section as projection_box_section


def projection_non_negative(tree: Any) -> Any:
    """Set what is negative to 0.

    Args:
      tree: tree of float arrays.

    Example:
      >>> import jax.numpy as jnp
      >>> print(projection_non_negative(jnp.array([-1.0, 2.0])))
      [0. 2.]
    """
    return jax.tree.map(jax.nn.relu, _read("projection_non_negative", tree))


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
    tree = _read("projection_box", tree)
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
    return projection_box(_read("projection_hypercube", tree), 0, scale)


@checked(scale=NONNEGATIVE)
def projection_simplex(tree: Any, scale: Any = 1) -> Any:
    """Return the nearest non-negative tree whose elements sum to `scale`.

    Args:
      tree: tree of float arrays.
      scale: the sum, >= 0.

    Example:
      >>> import jax.numpy as jnp
      >>> print(projection_simplex(jnp.array([2.5, 3.0, -1.0])))
      [0.25 0.75 0.  ]

    References:
      Held, Wolfe & Crowder (1974), "Validation of subgradient optimization".
    """
    tree = _read("projection_simplex", tree)
    x, unravel = ravel_pytree(upcast(tree))
    return cast_like(unravel(unit_simplex(x, scale)), tree)


@checked(scale=NONNEGATIVE)
def projection_l1_sphere(tree: Any, scale: Any = 1) -> Any:
    """Return the nearest tree whose magnitudes sum to `scale`.

    Elements that are 0 may grow, to the positive side (optax leaves them 0, off the sphere).

    Args:
      tree: tree of float arrays.
      scale: the sum of magnitudes, >= 0.

    Example:
      >>> import jax.numpy as jnp
      >>> print(projection_l1_sphere(jnp.array([2.5, -3.0, 0.0])))
      [ 0.25 -0.75  0.  ]
    """
    return _l1(_read("projection_l1_sphere", tree), scale, ball=False)


@checked(scale=NONNEGATIVE)
def projection_l1_ball(tree: Any, scale: Any = 1) -> Any:
    """Return the nearest tree whose magnitudes sum to at most `scale`.

    Args:
      tree: tree of float arrays.
      scale: the largest sum of magnitudes, >= 0.

    Example:
      >>> import jax.numpy as jnp
      >>> print(projection_l1_ball(jnp.array([2.5, -3.0, 0.5])))
      [ 0.25 -0.75  0.  ]

    References:
      Duchi et al. (2008), "Efficient projections onto the l1-ball for learning in high dimensions".
    """
    return _l1(_read("projection_l1_ball", tree), scale, ball=True)


@checked(scale=NONNEGATIVE)
def projection_l2_sphere(tree: Any, scale: Any = 1) -> Any:
    """Return the nearest tree of Euclidean norm `scale`; a zero tree goes to equal elements.

    Args:
      tree: tree of float or complex arrays.
      scale: the norm, >= 0.

    Example:
      >>> import jax.numpy as jnp
      >>> print(projection_l2_sphere(jnp.array([3.0, 4.0])))
      [0.6 0.8]
    """
    tree = _read("projection_l2_sphere", tree, complex_too=True)
    size = sum(x.size for x in jax.tree.leaves(tree))
    norm = safe_sqrt(sum_sq(tree))
    factor = scale / jnp.where(norm > 0, norm, 1)
    equal = scale / max(size, 1) ** 0.5
    return _keep(lambda x: jnp.where(norm > 0, x * factor.astype(x.real.dtype), equal), tree)


@checked(scale=NONNEGATIVE)
def projection_l2_ball(tree: Any, scale: Any = 1) -> Any:
    """Shrink the tree to a Euclidean norm of at most `scale`.

    Args:
      tree: tree of float or complex arrays.
      scale: the largest norm, >= 0.

    Example:
      >>> import jax.numpy as jnp
      >>> print(projection_l2_ball(jnp.array([3.0, 4.0])))
      [0.6 0.8]
    """
    tree = _read("projection_l2_ball", tree, complex_too=True)
    norm = safe_sqrt(sum_sq(tree))
    factor = jnp.where(norm > scale, scale / jnp.where(norm > scale, norm, 1), 1)
    return _keep(lambda x: x * factor.astype(x.real.dtype), tree)


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
    return projection_box(_read("projection_linf_ball", tree), -scale, scale)


def projection_vector(x: Any, a: Any) -> Any:
    """Return the nearest multiple of `a`, <x, a> / <a, a> * a.

    Args:
      x: tree of float arrays.
      a: tree of the same structure and shapes. If it is zero, so is the result (optax: NaN).

    Example:
      >>> import jax.numpy as jnp
      >>> print(projection_vector(jnp.array([3.0, 4.0]), jnp.array([2.0, 0.0])))
      [3. 0.]
    """
    x, a = _pair("projection_vector", x, a)
    factor = _over(_dot(x, a), _dot(a, a))
    return _keep(lambda _, y: factor.astype(y.dtype) * y, x, a)


def projection_hyperplane(x: Any, a: Any, b: Any) -> Any:
    """Return the nearest y with <a, y> = b.

    Args:
      x: tree of float arrays.
      a: the normal, a tree of the same structure and shapes, not zero.
      b: a number.

    Example:
      >>> import jax.numpy as jnp
      >>> print(projection_hyperplane(jnp.array([3.0, 4.0]), jnp.array([1.0, 1.0]), 1.0))
      [0. 1.]
    """
    x, a = _pair("projection_hyperplane", x, a)
    factor = _over(b - _dot(x, a), _dot(a, a))
    return _keep(lambda x, y: x + factor.astype(y.dtype) * y, x, a)


def projection_halfspace(x: Any, a: Any, b: Any) -> Any:
    """Return the nearest y with <a, y> <= b.

    Args:
      x: tree of float arrays.
      a: the outer normal, a tree of the same structure and shapes, not zero.
      b: a number.

    Example:
      >>> import jax.numpy as jnp
      >>> print(projection_halfspace(jnp.array([3.0, 4.0]), jnp.array([1.0, 1.0]), 9.0))
      [3. 4.]
    """
    x, a = _pair("projection_halfspace", x, a)
    factor = jnp.minimum(_over(b - _dot(x, a), _dot(a, a)), 0)
    return _keep(lambda x, y: x + factor.astype(y.dtype) * y, x, a)


def unit_simplex(x: Array, scale: Any = 1) -> Array:
    """Project the rows of x, over the last axis, onto the simplex of sum `scale`.

    p = max(x - tau, 0), with tau such that the sum is right. Only which elements are positive is
    found by sorting; tau is a mean over those, so gradients of any order are right.

    Example:
      >>> import jax.numpy as jnp
      >>> print(unit_simplex(jnp.array([[1e4, 1e4 - 0.5], [0.0, 0.0]])))
      [[0.75 0.25]
       [0.5  0.5 ]]
    """
    if x.shape[-1] == 0:
        return x
    scale = jnp.asarray(scale, x.dtype)
    x = x - jax.lax.stop_gradient(jnp.max(x, axis=-1, keepdims=True))  # shifts tau only
    fixed, size = jax.lax.stop_gradient((x, scale))
    ordered = -jnp.sort(-fixed, axis=-1)
    rank = jax.lax.broadcasted_iota(x.dtype, x.shape, x.ndim - 1) + 1
    slack = ordered * rank - jnp.cumsum(ordered, axis=-1) + size
    count = jnp.maximum(jnp.sum(slack > 0, axis=-1, keepdims=True), 1)
    # ties with the last of them are in too: they get the same value
    support = fixed >= jnp.take_along_axis(ordered, count - 1, axis=-1)
    number = jnp.sum(support, axis=-1, keepdims=True).astype(x.dtype)
    tau = (jnp.sum(jnp.where(support, x, 0), axis=-1, keepdims=True) - scale) / number
    return jnp.where(support | jnp.isnan(x), jnp.maximum(x - tau, 0), 0)


def _read(call: str, tree: Any, complex_too: bool = False) -> Any:
    leaves, treedef = as_float_leaves(f"{call}(tree=...)", tree)
    leaves = [jnp.asarray(x) for x in leaves]
    for x in leaves:
        if jnp.iscomplexobj(x) and not complex_too:
            raise TypeError(f"{call}(tree=...) must be real, got dtype {x.dtype}.")
    return treedef.unflatten(leaves)


def _pair(call: str, x: Any, a: Any) -> tuple[Any, Any]:
    x, a = _read(call, x), _read(call, a)
    check_like(f"{call}(x=...)", *jax.tree.flatten(x), f"{call}(a=...)", a)
    return x, a


def _keep(function: Any, tree: Any, *others: Any) -> Any:
    """Map over trees in float32 at least and return to the dtypes of the first."""
    return cast_like(jax.tree.map(function, upcast(tree), *map(upcast, others)), tree)


def _bound(name: str, limit: Any, tree: Any, bound: Any) -> Any:
    leaves, treedef = jax.tree.flatten(tree)
    bounds = leaf_values(f"projection_box({name}=...)", bound, tree)
    for i, (x, b) in enumerate(zip(leaves, bounds, strict=True)):
        if b is not None:
            leaves[i] = limit(x, jnp.broadcast_to(jnp.asarray(b, x.dtype), x.shape))
    return treedef.unflatten(leaves)


def _l1(tree: Any, scale: Any, ball: bool) -> Any:
    x, unravel = ravel_pytree(upcast(tree))
    sign, size = jnp.where(x < 0, -1, 1).astype(x.dtype), jnp.abs(x)
    projected = sign * unit_simplex(size, scale)
    if ball:
        projected = jnp.where(jnp.sum(size) <= scale, x, projected)
    return cast_like(unravel(projected), tree)


def _dot(x: Any, y: Any) -> Array:
    products = jax.tree.map(lambda x, y: jnp.sum(x * y), upcast(x), upcast(y))
    return sum(jax.tree.leaves(products), start=jnp.zeros(()))


def _over(above: Array, below: Array) -> Array:
    return jnp.where(below > 0, above / jnp.where(below > 0, below, 1), 0)
