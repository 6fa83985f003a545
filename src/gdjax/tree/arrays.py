"""Trees of new arrays: filled, cast, stacked, random."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gdjax.core.checks import check_choice, leaf_name


def zeros_like(tree: Any, dtype: Any = None) -> Any:
    """Return zeros shaped like the tree, in its dtypes or the given one."""
    return jax.tree.map(lambda x: jnp.zeros_like(x, dtype=dtype), tree)


def ones_like(tree: Any, dtype: Any = None) -> Any:
    """Return ones shaped like the tree, in its dtypes or the given one."""
    return jax.tree.map(lambda x: jnp.ones_like(x, dtype=dtype), tree)


def full_like(tree: Any, fill_value: Any, dtype: Any = None) -> Any:
    """Return one value everywhere, shaped like the tree, in its dtypes or the given one.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> print(gdjax.tree.full_like({"a": jnp.ones(2)}, 7.0)["a"])
      [7. 7.]
    """
    return jax.tree.map(lambda x: jnp.full_like(x, fill_value, dtype=dtype), tree)


def batch_shape(tree: Any, shape: tuple[int, ...] = ()) -> Any:
    """Return the tree repeated along new leading axes.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> gdjax.tree.batch_shape(jnp.ones(2), (3, 4)).shape
      (3, 4, 2)
    """
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (*shape, *jnp.shape(x))), tree)


# --- dtypes ---------------------------------------------------------------------------------------


def cast(tree: Any, dtype: Any) -> Any:
    """Return the tree with every leaf in one dtype; None leaves it as it is.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> gdjax.tree.cast({"a": jnp.ones(2)}, jnp.bfloat16)["a"].dtype
      dtype(bfloat16)
    """
    return tree if dtype is None else jax.tree.map(lambda x: jnp.asarray(x).astype(dtype), tree)


def cast_like(tree: Any, other_tree: Any) -> Any:
    """Return the tree with each leaf in the dtype of its counterpart, where that has one."""

    def like(x, other):
        return jnp.asarray(x).astype(other.dtype) if hasattr(other, "dtype") else x

    return jax.tree.map(like, tree, other_tree)


def dtype(tree: Any, mixed_dtype_handler: str | None = None) -> Any:
    """Return the dtype of a tree; that of `jnp.asarray([])` if it is empty.

    Args:
      tree: a tree of arrays or numbers.
      mixed_dtype_handler: what to do if leaves differ: None raises; "promote" gives the dtype that
        JAX promotes all to; "highest" and "lowest" give that of a leaf, to or from which all others
        can be promoted, and raise if there is none.

    Raises:
      ValueError: see `mixed_dtype_handler`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tree = {"a": jnp.ones(2), "b": jnp.ones(2, jnp.bfloat16)}
      >>> [str(gdjax.tree.dtype(tree, how)) for how in ("lowest", "highest", "promote")]
      ['bfloat16', 'float32', 'float32']
    """
    choices = (None, "promote", "highest", "lowest")
    check_choice("tree.dtype(mixed_dtype_handler=...)", mixed_dtype_handler, choices)
    dtypes = [jnp.asarray(x).dtype for x in jax.tree.leaves(tree)]
    if not dtypes:
        return jnp.asarray([]).dtype
    if mixed_dtype_handler == "promote":
        return functools.reduce(jnp.promote_types, dtypes)
    if mixed_dtype_handler is None:
        for i, found in enumerate(dtypes):
            if found != dtypes[0]:
                raise ValueError(
                    f"tree.dtype: leaves differ, {dtypes[0]} at {leaf_name(tree, 0)!r} and {found} "
                    f"at {leaf_name(tree, i)!r}. Say what to do: mixed_dtype_handler=..."
                )
        return dtypes[0]
    return functools.reduce(functools.partial(_extreme, mixed_dtype_handler), dtypes)


def _extreme(which: str, a: Any, b: Any) -> Any:
    top = jnp.promote_types(a, b)
    if top not in (a, b):
        raise ValueError(f"tree.dtype: neither of {a} and {b} can be promoted to the other.")
    return top if which == "highest" else (b if top == a else a)


# --- random numbers -------------------------------------------------------------------------------


def split_key_like(rng_key: Any, target_tree: Any) -> Any:
    """Return a tree with a key for each leaf of `target_tree`."""
    treedef = jax.tree.structure(target_tree)
    return treedef.unflatten(list(jax.random.split(rng_key, treedef.num_leaves)))


def random_like(
    rng_key: Any,
    target_tree: Any,
    sampler: Callable[..., Any] = jax.random.normal,
    dtype: Any = None,
) -> Any:
    """Return random numbers shaped like the tree, independent in every element.

    Args:
      rng_key: a `jax.random.key`.
      target_tree: a tree of arrays.
      sampler: `sampler(key, shape, dtype)`, as the functions of `jax.random`. One that takes
        `out_sharding` is given that of the leaf.
      dtype: the numbers' dtype; None is that of each leaf.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> noise = gdjax.tree.random_like(jax.random.key(0), {"a": jnp.zeros((500, 2))})
      >>> print(round(float(noise["a"].std()), 1))
      1.0
    """
    sharded = "out_sharding" in inspect.signature(sampler).parameters and hasattr(jax, "typeof")

    def draw(leaf, key):
        where = {"out_sharding": jax.typeof(leaf).sharding} if sharded else {}
        return sampler(key, leaf.shape, dtype or leaf.dtype, **where)

    return jax.tree.map(draw, target_tree, split_key_like(rng_key, target_tree))


def unwrap_random_key_data(input_tree: Any) -> Any:
    """Return the tree with the data of random keys in their place, so that it can be compared."""

    def unwrap(x):
        is_key = isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        return jax.random.key_data(x) if is_key else x

    return jax.tree.map(unwrap, input_tree)
