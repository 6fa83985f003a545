"""The nearest point of a box that lies on a hyperplane, by a root of one multiplier.

Boyd & Vandenberghe (2004), section 5.5.3: the point is clip(x - tau a, lower, upper), with tau such
that <a, .> is right, which falls with tau, piece by piece a line.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

from gdjax.core.checks import as_float_leaves, check_like, strict
from gdjax.core.explicit import automatically
from gdjax.core.hyper import whole_leaf_values
from gdjax.core.numerics import cast_like, upcast
from gdjax.core.types import Number, PyTree
from gdjax.linalg.bracketing import best, bracketed_root
from gdjax.projections.reading import Bound, broadcasts, number


@strict()
def projection_box_section(
    tree: PyTree, lower: Bound, upper: Bound, a: PyTree, b: Number
) -> PyTree:
    r"""Return the nearest point of a hyperplane within bounds.

    .. math::

       \arg\min_y \lVert y - x \rVert \quad \text{over } l \le y \le u,\; \langle a, y \rangle = b

    Good for: the dual of a support vector machine with an intercept; portfolios with limits.

    Where there is no such y, also where a lower bound is above an upper one, the result is NaN. It
    is differentiable with respect to all arguments.

    Args:
      tree: tree of float arrays.
      lower: a number, an array, or a prefix tree or `by_path` of those; None is no bound.
      upper: likewise, >= `lower`.
      a: the normal, a tree of the same structure and shapes.
      b: a number.

    Example:
      >>> import jax.numpy as jnp
      >>> x = jnp.array([2.0, 0.3, -1.0])
      >>> print(projection_box_section(x, 0.0, 0.8, jnp.ones(3), 1.0).round(4))
      [0.8 0.2 0. ]
    """
    call = "projection_box_section"
    right = number(f"{call}(b=...)", b)
    leaves, treedef = as_float_leaves(f"{call}(tree=...)", tree)
    normals, _ = as_float_leaves(f"{call}(a=...)", a)
    if any(jnp.iscomplexobj(x) for x in [*leaves, *normals]):
        raise TypeError(f"{call}(tree=..., a=...) must be real, got a complex array.")
    check_like(f"{call}(tree=...)", leaves, treedef, f"{call}(a=...)", a)
    tree = treedef.unflatten([jnp.asarray(x) for x in leaves])
    if not any(x.size for x in leaves):
        return tree
    ends = []
    for name, bound, none in (("lower", lower, -jnp.inf), ("upper", upper, jnp.inf)):
        values = whole_leaf_values(f"{call}({name}=...)", bound, tree)
        values = [none if v is None else jnp.asarray(v) for v in values]
        for v, leaf in zip(values, leaves, strict=True):
            if not broadcasts(jnp.shape(v), leaf.shape):
                raise ValueError(
                    f"{call}({name}=...) of shape {jnp.shape(v)} does not fit an array of "
                    f"{leaf.shape}."
                )
        ends.append(values)
    return automatically(_tree_section, tree, *ends, a, right)


def _tree_section(tree: PyTree, low: list[Any], high: list[Any], a: PyTree, b: Array) -> PyTree:
    x, unravel = ravel_pytree(upcast(tree))

    def whole(values: list[Any]) -> Array:
        parts = [jnp.broadcast_to(v, y.shape) for v, y in zip(values, jax.tree.leaves(tree))]
        return ravel_pytree(parts)[0].astype(x.dtype)

    normal = ravel_pytree(upcast(a))[0].astype(x.dtype)
    return cast_like(unravel(_section(x, whole(low), whole(high), normal, b.astype(x.dtype))), tree)


@jax.jit  # in one program, whatever the arrays are
def _section(x: Array, lower: Array, upper: Array, a: Array, b: Array) -> Array:
    fixed = jax.lax.stop_gradient((x, lower, upper, a, b))
    tau = jax.lax.stop_gradient(_multiplier(*fixed))
    y = jnp.clip(x - tau * a, lower, upper)
    # now known: which elements are inside of the box; they give tau exactly, with derivatives
    inside = (a != 0) & (lower < x - tau * a) & (x - tau * a < upper)
    held = jnp.sum(jnp.where(inside, 0, a * y))
    square = jnp.sum(jnp.where(inside, a * a, 0))
    tau = (jnp.sum(jnp.where(inside, a * x, 0)) + held - b) / jnp.where(square > 0, square, 1)
    y = jnp.where(inside, jnp.clip(x - tau * a, lower, upper), y)
    # what rounding took from <a, y>: the terms may be smaller than those of <a, x>
    rest = (jnp.vdot(a, y) - b) / jnp.where(square > 0, square, 1)
    y = jnp.where(inside, jnp.clip(y - rest * a, lower, upper), y)
    return jnp.where(_is_empty(lower, upper, a, b), jnp.nan, y)


def _is_empty(lower: Array, upper: Array, a: Array, b: Array) -> Array:
    """Return whether no y in the box has <a, y> = b, but for rounding."""
    pairs = (lower, upper), (upper, lower)
    ends = [jnp.where(a == 0, 0, a * jnp.where(a > 0, *pair)) for pair in pairs]
    least, most = (jnp.sum(end) for end in ends)
    eps = jnp.finfo(a.dtype).eps
    slack = 4 * eps * (sum(jnp.sum(jnp.abs(jnp.where(jnp.isfinite(e), e, 0))) for e in ends))
    slack += 4 * eps * jnp.abs(b)
    fits = jnp.all(lower <= upper) & (b >= least - slack) & (b <= most + slack)
    return ~fits  # also where something is NaN


def _multiplier(x: Array, lower: Array, upper: Array, a: Array, b: Array) -> Array:
    """Return tau with <a, clip(x - tau a, lower, upper)> = b, or the end that comes nearest."""

    def excess(tau):
        return jnp.vdot(a, jnp.clip(x - tau * a, lower, upper)) - b

    corners = jnp.concatenate([(x - lower) / a, (x - upper) / a])  # not finite: there is none
    corners = jnp.where(jnp.isfinite(corners), corners, jnp.nan)
    first, last = (jnp.nan_to_num(end(corners)) for end in (jnp.nanmin, jnp.nanmax))
    # before the first corner and after the last only what has no bound on that side moves
    up, down = ~jnp.isfinite(upper), ~jnp.isfinite(lower)
    slope_before = jnp.sum(jnp.where(jnp.where(a > 0, up, down), a * a, 0))
    slope_after = jnp.sum(jnp.where(jnp.where(a > 0, down, up), a * a, 0))
    first += jnp.where(slope_before > 0, jnp.minimum(excess(first), 0) / slope_before, 0)
    last += jnp.where(slope_after > 0, jnp.maximum(excess(last), 0) / slope_after, 0)
    return best(bracketed_root(excess, first, last, jnp.zeros_like(first))).x
