"""What projections are given and return: checked trees, in and out of at least float32."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from gdjax.core.checks import as_float_leaves, check_like
from gdjax.core.numerics import cast_like, upcast


def read(call: str, tree: Any, complex_too: bool = False) -> Any:
    """Return a tree of float arrays, or raise in the name of the caller."""
    leaves, treedef = as_float_leaves(f"{call}(tree=...)", tree)
    leaves = [jnp.asarray(x) for x in leaves]
    for x in leaves:
        if jnp.iscomplexobj(x) and not complex_too:
            raise TypeError(f"{call}(tree=...) must be real, got dtype {x.dtype}.")
    return treedef.unflatten(leaves)


def pair(call: str, x: Any, a: Any) -> tuple[Any, Any]:
    """Return two trees of real arrays of the same shapes."""
    x, a = read(call, x), read(call, a)
    check_like(f"{call}(x=...)", *jax.tree.flatten(x), f"{call}(a=...)", a)
    return x, a


def keep(function: Any, tree: Any, *others: Any) -> Any:
    """Map over trees in float32 at least and return to the dtypes of the first."""
    return cast_like(jax.tree.map(function, upcast(tree), *map(upcast, others)), tree)
