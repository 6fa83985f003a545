"""Proximal operators: prox(x) = argmin_y 0.5 ||x - y||^2 + scaling * g(y), for a whole tree.

A step of proximal gradient descent is `prox_lasso(apply_updates(params, updates), l1reg, step)`.
Names, arguments and formulas are jaxopt's, which call the strength `l1reg` and `l2reg` and the step
size `scaling`. Parikh & Boyd (2014), "Proximal algorithms", section 6. Where the functions separate
over elements, strength and scaling may be arrays, prefix trees or `by_path`; a None in a tree means
that the leaf is not penalized. Leaves keep their dtype; mathematics is float32 at least. Complex
elements are shrunk in magnitude. Deviation: finite at zero, where jaxopt's group lasso is NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gdjax.core.checks import NONNEGATIVE, as_float_leaves, checked, strict
from gdjax.core.hyper import whole_leaf_values
from gdjax.core.numerics import (
    abs_sq,
    cast,
    cast_like,
    compute_dtype,
    power_of_two,
    safe_sqrt,
    upcast,
)
from gdjax.core.trees import over, sum_sq, times, unit_of
from gdjax.core.types import Number, PrefixTree, PyTree
from gdjax.projections.reading import broadcasts

Strength: TypeAlias = ArrayLike | PrefixTree | None  # None is 1, or in a tree "no penalty"
Scaling: TypeAlias = ArrayLike | PrefixTree


@strict()
def prox_none(x: PyTree, hyperparams: Any = None, scaling: Scaling = 1.0) -> PyTree:
    """Return x: the operator of g = 0.

    Args:
      x: tree of arrays.
      hyperparams: ignored.
      scaling: ignored.

    Example:
      >>> prox_none(3.0)
      3.0
    """
    del hyperparams, scaling
    return x


@checked(l1reg=NONNEGATIVE, scaling=NONNEGATIVE)
def prox_lasso(x: PyTree, l1reg: Strength = None, scaling: Scaling = 1.0) -> PyTree:
    r"""Shrink every element towards 0: the operator of the 1-norm.

    .. math::

       \operatorname{sign}(x) \max(|x| - \eta \lambda,\; 0)
       = \arg\min_y \tfrac12 \lVert x - y \rVert^2 + \eta \lambda \lVert y \rVert_1

    Args:
      x: tree of float or complex arrays.
      l1reg: :math:`\lambda` >= 0, strength of the penalty; None is 1.
      scaling: :math:`\eta` >= 0, the step size.

    Raises:
      TypeError: if a leaf is not float or complex.
      ValueError: if a number is negative, or a tree of numbers does not fit `x`.

    Example:
      >>> import jax.numpy as jnp
      >>> print(prox_lasso(jnp.array([-3.0, 0.5, 2.0]), 1.0))
      [-2.  0.  1.]
    """
    return _each("prox_lasso", _soft, x, l1reg, scaling)


@checked(l1reg=NONNEGATIVE, scaling=NONNEGATIVE)
def prox_non_negative_lasso(x: PyTree, l1reg: Strength = None, scaling: Scaling = 1.0) -> PyTree:
    r"""Lower every element, to 0 at most: `prox_lasso` under y >= 0.

    .. math::

       \max(x - \eta \lambda,\; 0)

    Args:
      x: tree of float arrays.
      l1reg: see `prox_lasso`.
      scaling: see `prox_lasso`.

    Example:
      >>> import jax.numpy as jnp
      >>> print(prox_non_negative_lasso(jnp.array([-3.0, 0.5, 2.0]), 1.0))
      [0. 0. 1.]
    """
    return _each("prox_non_negative_lasso", _lower, x, l1reg, scaling, real=True)


@checked(hyperparams=NONNEGATIVE, scaling=NONNEGATIVE)
def prox_elastic_net(
    x: PyTree, hyperparams: tuple[Strength, Strength] | None = None, scaling: Scaling = 1.0
) -> PyTree:
    r"""Shrink, then scale: the operator of the 1-norm plus a squared 2-norm.

    .. math::

       \frac{\operatorname{prox}_{\text{lasso}}(x)}{1 + \eta \lambda \gamma}
       = \arg\min_y \tfrac12 \lVert x - y \rVert^2 + \eta \lambda
       (\lVert y \rVert_1 + \tfrac12 \gamma \lVert y \rVert^2)

    Args:
      x: tree of float or complex arrays.
      hyperparams: the pair :math:`(\lambda, \gamma)`, both >= 0; None is (1, 1).
      scaling: see `prox_lasso`.

    Example:
      >>> import jax.numpy as jnp
      >>> print(prox_elastic_net(jnp.array([-3.0, 0.5, 2.0]), (1.0, 1.0)))
      [-1.   0.   0.5]
    """
    return _elastic("prox_elastic_net", _soft, x, hyperparams, scaling)


@checked(hyperparams=NONNEGATIVE, scaling=NONNEGATIVE)
def prox_non_negative_elastic_net(
    x: PyTree, hyperparams: tuple[Strength, Strength] | None = None, scaling: Scaling = 1.0
) -> PyTree:
    """Lower, then scale: `prox_elastic_net` under y >= 0.

    Args:
      x: tree of float arrays.
      hyperparams: see `prox_elastic_net`.
      scaling: see `prox_lasso`.

    Example:
      >>> import jax.numpy as jnp
      >>> print(prox_non_negative_elastic_net(jnp.array([-3.0, 0.5, 2.0]), (1.0, 1.0)))
      [0.  0.  0.5]
    """
    call = "prox_non_negative_elastic_net"
    return _elastic(call, _lower, x, hyperparams, scaling, real=True)


@checked(l2reg=NONNEGATIVE, scaling=NONNEGATIVE)
def prox_group_lasso(x: PyTree, l2reg: Number | None = None, scaling: Number = 1.0) -> PyTree:
    r"""Shrink the norm of the whole tree: the operator of the 2-norm.

    .. math::

       x \max(1 - \eta \lambda / \lVert x \rVert,\; 0)
       = \arg\min_y \tfrac12 \lVert x - y \rVert^2 + \eta \lambda \lVert y \rVert

    The tree is one group. For a group per row use `jax.vmap`, per leaf `jax.tree.map`.

    Args:
      x: tree of float or complex arrays.
      l2reg: :math:`\lambda` >= 0, strength of the penalty, one number; None is 1.
      scaling: :math:`\eta` >= 0, the step size, one number.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> print(jax.vmap(prox_group_lasso)(jnp.array([[3.0, 4.0], [0.3, 0.4]])))
      [[2.4 3.2]
       [0.  0. ]]
    """
    leaves, treedef = _leaves("prox_group_lasso", x)
    leaves = [jnp.asarray(leaf) for leaf in leaves]
    x = treedef.unflatten(leaves)
    unit = unit_of(leaves)
    norm = safe_sqrt(sum_sq(over(leaves, unit)))
    threshold = jnp.multiply(jnp.asarray(scaling, norm.dtype), 1.0 if l2reg is None else l2reg)
    return cast_like(times(upcast(x), _kept(norm, threshold / unit)), x)


@checked(l2reg=NONNEGATIVE, scaling=NONNEGATIVE)
def prox_ridge(x: PyTree, l2reg: Strength = None, scaling: Scaling = 1.0) -> PyTree:
    r"""Divide by a number: the operator of the squared 2-norm.

    .. math::

       \frac{x}{1 + \eta \lambda}
       = \arg\min_y \tfrac12 \lVert x - y \rVert^2 + \tfrac12 \eta \lambda \lVert y \rVert^2

    Args:
      x: tree of float or complex arrays.
      l2reg: :math:`\lambda` >= 0, strength of the penalty; None is 1.
      scaling: see `prox_lasso`.

    Example:
      >>> import jax.numpy as jnp
      >>> print(prox_ridge(jnp.array([-3.0, 2.0]), 1.0))
      [-1.5  1. ]
    """
    return _each("prox_ridge", lambda x, t: x / (1 + t), x, l2reg, scaling)


@checked(l2reg=NONNEGATIVE, scaling=NONNEGATIVE)
def prox_non_negative_ridge(x: PyTree, l2reg: Strength = None, scaling: Scaling = 1.0) -> PyTree:
    r"""Set what is negative to 0 and divide by a number: `prox_ridge` under y >= 0.

    .. math::

       \frac{\max(x, 0)}{1 + \eta \lambda}

    Args:
      x: tree of float arrays.
      l2reg: see `prox_ridge`.
      scaling: see `prox_lasso`.

    Example:
      >>> import jax.numpy as jnp
      >>> print(prox_non_negative_ridge(jnp.array([-3.0, 2.0]), 1.0))
      [0. 1.]
    """
    call = "prox_non_negative_ridge"
    return _each(call, lambda x, t: jax.nn.relu(x) / (1 + t), x, l2reg, scaling, real=True)


@strict()
def make_prox_from_projection(projection: Callable[..., Any], *args: Any) -> Callable[..., Any]:
    """Return a projection as a proximal operator: of 0 inside of the set and infinity outside.

    Args:
      projection: a function of a tree and further arguments, as in `gdjax.projections`.
      *args: the further arguments, if they are fixed.

    Returns:
      A function prox(x, hyperparams=None, scaling=1.0), where `hyperparams`, if given, is the only
      further argument of the projection and `scaling` has no effect.

    Example:
      >>> import jax.numpy as jnp
      >>> from gdjax.projections import projection_box
      >>> prox = make_prox_from_projection(projection_box, 0.0, 1.0)
      >>> print(prox(jnp.array([-1.0, 0.5, 3.0]), scaling=0.1))
      [0.  0.5 1. ]
    """
    if not callable(projection):
        raise TypeError(
            "make_prox_from_projection(projection=...) must be a function of a tree, got "
            f"{projection!r}."
        )

    def prox(x: PyTree, hyperparams: Any = None, scaling: Scaling = 1.0) -> PyTree:
        del scaling
        return projection(x, *args) if hyperparams is None else projection(x, *args, hyperparams)

    prox.projection = projection  # pyright: ignore[reportFunctionMemberAccess]
    return prox


def _soft(x: Array, threshold: Array) -> Array:
    if jnp.iscomplexobj(x):
        unit = power_of_two(jnp.maximum(jnp.abs(x.real), jnp.abs(x.imag)))
        return x * _kept(safe_sqrt(abs_sq(x / unit)), threshold / unit)
    return jnp.sign(x) * jax.nn.relu(jnp.abs(x) - threshold)


def _lower(x: Array, threshold: Array) -> Array:
    return jax.nn.relu(x - threshold)


def _kept(norm: Array, threshold: Array) -> Array:
    """Return the factor by which a norm shrinks, max(0, 1 - threshold / norm)."""
    none = norm <= threshold
    share = jnp.where(norm < jnp.inf, norm - threshold, 1) / jnp.where(
        none | jnp.isinf(norm), 1, norm
    )
    return jnp.where(none, 0, share)


def _elastic(
    call: str,
    shrink: Callable[[Array, Array], Array],
    x: PyTree,
    hyperparams: tuple[Strength, Strength] | None,
    scaling: Scaling,
    real: bool = False,
) -> PyTree:
    def rule(x, threshold, gamma):
        return shrink(x, threshold) / (1 + threshold * gamma)

    hyperparams = (1.0, 1.0) if hyperparams is None else hyperparams
    if not isinstance(hyperparams, (tuple, list)) or len(hyperparams) != 2:
        raise TypeError(
            f"{call}(hyperparams=...) must be the pair (l1reg, gamma), got {hyperparams!r}."
        )
    l1reg, gamma = hyperparams
    return _each(call, rule, x, l1reg, scaling, gamma, real=real)


def _leaves(call: str, x: PyTree, real: bool = False) -> tuple[list[Array], Any]:
    leaves, treedef = as_float_leaves(f"{call}(x=...)", x)
    leaves = [jnp.asarray(leaf) for leaf in leaves]
    for leaf in leaves:
        if real and jnp.iscomplexobj(leaf):
            raise TypeError(f"{call}(x=...) must be real, got dtype {leaf.dtype}.")
    return leaves, treedef


def _each(
    call: str,
    rule: Callable[..., Array],
    x: PyTree,
    strength: Strength,
    scaling: Scaling,
    *more: Strength,
    real: bool = False,
) -> PyTree:
    """Apply rule(leaf, strength * scaling, *more) to every leaf that has all of these numbers."""
    leaves, treedef = _leaves(call, x, real)
    numbers = (1.0 if strength is None else strength, scaling, *more)
    columns = [whole_leaf_values(f"{call}: a number", n, x) for n in numbers]
    for i, (leaf, *row) in enumerate(zip(leaves, *columns, strict=True)):
        if all(n is not None for n in row):
            wide = cast(leaf, compute_dtype(leaf))
            row = [_number_for(call, n, wide) for n in row]
            leaves[i] = cast(rule(wide, row[0] * row[1], *row[2:]), leaf.dtype)
    return treedef.unflatten(leaves)


def _number_for(call: str, x: ArrayLike, leaf: Array) -> Array:
    x = jnp.asarray(x, leaf.real.dtype)
    if not broadcasts(x.shape, leaf.shape):
        raise ValueError(f"{call}: a number of shape {x.shape} does not fit x of {leaf.shape}.")
    return jnp.broadcast_to(x, leaf.shape)
