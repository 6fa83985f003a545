"""Arguments and results of projections: checked trees, computed in at least float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gdjax.core.checks import as_float_leaves, check_like
from gdjax.core.hyper import as_array
from gdjax.core.numerics import cast_like, upcast
from gdjax.core.types import Number, PrefixTree, PyTree

Bound: TypeAlias = ArrayLike | PrefixTree | None  # None is no bound


def read(call: str, tree: PyTree, complex_too: bool = False, argument: str = "tree") -> PyTree:
    """Return a tree of float arrays, or raise an error that names the caller and the argument."""
    leaves, treedef = as_float_leaves(f"{call}({argument}=...)", tree)
    leaves = [jnp.asarray(x) for x in leaves]
    for x in leaves:
        if jnp.iscomplexobj(x) and not complex_too:
            raise TypeError(f"{call}({argument}=...) must be real, got dtype {x.dtype}.")
    return treedef.unflatten(leaves)


def pair(call: str, x: PyTree, a: PyTree) -> tuple[PyTree, PyTree]:
    """Return two trees of real arrays of the same shapes."""
    x, a = read(call, x, argument="x"), read(call, a, argument="a")
    check_like(f"{call}(x=...)", *jax.tree.flatten(x), f"{call}(a=...)", a)
    return x, a


def keep(function: Callable[..., Array], tree: PyTree, *others: PyTree) -> PyTree:
    """Map over trees in float32 at least and return to the dtypes of the first."""
    return cast_like(jax.tree.map(function, upcast(tree), *map(upcast, others)), tree)


def number(what: str, x: Number) -> Array:
    """Return one number as an array, or raise an error that names it."""
    x = as_array(what, x)
    if x.ndim:
        raise ValueError(f"{what} must be one number, got an array of shape {x.shape}.")
    return x


def broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    """Return whether an array of one shape can be broadcast to another."""
    sizes = zip(shape[::-1], to[::-1], strict=False)
    return len(shape) <= len(to) and all(n in (1, m) for n, m in sizes)
