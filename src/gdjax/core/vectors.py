"""Trees as real vectors, for methods that solve linear systems over all parameters together."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.explicit import automatically
from gdjax.core.numerics import cast, compute_dtype, real_dtype
from gdjax.core.types import PyTree


def as_vector(tree: PyTree) -> Array:
    """Return all leaves as one real vector of at least float32; complex numbers are two reals.

    Example:
      >>> import jax.numpy as jnp
      >>> print(as_vector({"a": jnp.array(1.0), "b": jnp.array([2.0, 3.0 + 4.0j])}))
      [1. 2. 3. 0. 4.]
    """
    return automatically(_as_vector, tree)


def _as_vector(tree: PyTree) -> Array:
    leaves = [jnp.asarray(x) for x in jax.tree.leaves(tree)]
    dtype = real_dtype(compute_dtype(*leaves))
    parts = []
    for x in leaves:
        parts += [x.real, x.imag] if jnp.iscomplexobj(x) else [x]
    flat = [cast(jnp.ravel(x), dtype) for x in parts]
    return jnp.concatenate(flat) if flat else jnp.zeros(0, dtype)


def as_tree(vector: Array, like: PyTree) -> PyTree:
    """Return the tree whose vector is given, in the structure, shapes and dtypes of `like`.

    Example:
      >>> import jax.numpy as jnp
      >>> tree = {"a": jnp.array(1.0), "b": jnp.array([2.0, 3.0 + 4.0j])}
      >>> print(as_tree(2 * as_vector(tree), tree)["b"])
      [4.+0.j 6.+8.j]
    """
    leaves, treedef = jax.tree.flatten(like)
    out, start = [], 0
    for x in map(jnp.asarray, leaves):
        part = vector[start : start + x.size].reshape(x.shape)
        start += x.size
        if jnp.iscomplexobj(x):
            part = jax.lax.complex(part, vector[start : start + x.size].reshape(x.shape))
            start += x.size
        out.append(cast(part, x.dtype))
    return treedef.unflatten(out)
