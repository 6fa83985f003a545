"""Bounds of every parameter: as arguments, checked, and as a box that parameters are kept in."""

from __future__ import annotations

import jax
import jax.core
import jax.numpy as jnp
from jax import Array

from gdjax.core.checks import leaf_name
from gdjax.core.hyper import as_array, whole_leaf_values
from gdjax.core.numerics import compute_dtype
from gdjax.core.types import Params, PyTree
from gdjax.projections.reading import Bound, broadcasts


def pair_of_bounds(name: str, bounds: tuple[Bound, Bound]) -> tuple[Bound, Bound]:
    """Return `bounds`, or raise an error unless they are (lower, upper)."""
    if not isinstance(bounds, tuple) or len(bounds) != 2:
        raise ValueError(
            f"{name}(bounds=...) must be a pair (lower, upper), got {bounds!r}. SciPy's list "
            "of pairs is tuple(jnp.array(pairs).T)."
        )
    return bounds


def whole_bounds(name: str, lower: Bound, upper: Bound, params: Params) -> tuple[Params, Params]:
    """Return the bounds of every element, two trees like the parameters, of at least float32.

    Args:
      name: what the user called, for errors.
      lower: a number, an array, a prefix tree or `by_path` of those; None is no bound.
      upper: likewise.
      params: a tree of float arrays.
    """
    leaves, treedef = jax.tree.flatten(params)
    leaves = [p if hasattr(p, "dtype") else jnp.asarray(p) for p in leaves]  # or shapes, at init
    if any(jnp.iscomplexobj(p) for p in leaves):
        raise TypeError(f"{name} needs real parameters: complex numbers have no order.")
    low = _whole(f"{name}(lower=...)", lower, -jnp.inf, leaves, params)
    high = _whole(f"{name}(upper=...)", upper, jnp.inf, leaves, params)
    for a, b in zip(low, high, strict=True):
        known = not isinstance(a, jax.core.Tracer) and not isinstance(b, jax.core.Tracer)
        if known and not bool(jnp.all(a <= b)):  # also where one is nan
            raise ValueError(f"{name}(lower=..., upper=...) must have lower <= upper everywhere.")
    return treedef.unflatten(low), treedef.unflatten(high)


def _whole(argument: str, bound: Bound, none: float, leaves: list, params: Params) -> list[Array]:
    """Return the bound of every element, for each leaf."""
    values, whole = whole_leaf_values(argument, bound, params), []
    for i, (b, p) in enumerate(zip(values, leaves, strict=True)):
        b = as_array(argument, none if b is None else b)
        if not broadcasts(b.shape, p.shape):
            raise ValueError(
                f"{argument} has shape {b.shape} where the parameter at {leaf_name(params, i)!r} "
                f"has {p.shape}."
            )
        b = b.astype(p.dtype).astype(compute_dtype(p))  # what the parameter can be equal to
        whole.append(jnp.array(jnp.broadcast_to(b, p.shape), copy=True))
    return whole


def clipped(params: Params, lower: Params, upper: Params) -> Params:
    """Return the parameters, clipped to the box, in their own dtypes."""

    def clip(x, lower, upper):
        return jnp.clip(x, lower.astype(x.dtype), upper.astype(x.dtype))

    return jax.tree.map(clip, params, lower, upper)


def projected_gradient(params: Params, grads: PyTree, lower: Params, upper: Params) -> PyTree:
    """Return x - clip(x - grads, lower, upper)."""

    def project(x, g, lower, upper):  # not by x - g, which may be x, rounded
        return jnp.clip(g, x - upper, x - lower)

    return jax.tree.map(project, params, grads, lower, upper)
