"""Trees of new arrays: filled, cast, stacked, random."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from gdjax.core.checks import check_choice, leaf_name, strict
from gdjax.core.types import ArrayTree, DType, KeyArray, PyTree
from gdjax.tree.mapping import map_named


@strict()
def zeros_like(tree: ArrayTree, dtype: DType = None) -> PyTree:
    """Return zeros shaped like the tree, in its dtypes or the given one."""
    return jax.tree.map(lambda x: jnp.zeros_like(x, dtype=dtype), tree)


@strict()
def ones_like(tree: ArrayTree, dtype: DType = None) -> PyTree:
    """Return ones shaped like the tree, in its dtypes or the given one."""
    return jax.tree.map(lambda x: jnp.ones_like(x, dtype=dtype), tree)


@strict()
def full_like(tree: ArrayTree, fill_value: ArrayLike, dtype: DType = None) -> PyTree:
    """Return arrays filled with one value, shaped like the tree, in its dtypes or the given one.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> print(gdjax.tree.full_like({"a": jnp.ones(2)}, 7.0)["a"])
      [7. 7.]
    """
    return map_named(
        "tree.full_like",
        lambda x: jnp.full_like(x, fill_value, dtype=dtype),
        also=["fill_value", "dtype"],
        tree=tree,
    )


@strict()
def batch_shape(tree: PyTree, shape: tuple[int, ...] = ()) -> PyTree:
    """Return the tree repeated along new leading axes.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> gdjax.tree.batch_shape(jnp.ones(2), (3, 4)).shape
      (3, 4, 2)
    """
    return map_named(
        "tree.batch_shape",
        lambda x: jnp.broadcast_to(x, (*shape, *jnp.shape(x))),
        also=["shape"],
        tree=tree,
    )


# --- dtypes ---------------------------------------------------------------------------------------


@strict()
def cast(tree: ArrayTree, dtype: DType) -> PyTree:
    """Return the tree with every leaf in one dtype; None leaves the tree as it is.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> gdjax.tree.cast({"a": jnp.ones(2)}, jnp.bfloat16)["a"].dtype
      dtype(bfloat16)
    """
    return tree if dtype is None else jax.tree.map(lambda x: jnp.asarray(x).astype(dtype), tree)


@strict()
def cast_like(tree: PyTree, other_tree: PyTree) -> PyTree:
    """Return the tree with each leaf in the dtype of its counterpart, if that has a dtype."""

    def like(x, other):
        return jnp.asarray(x).astype(other.dtype) if hasattr(other, "dtype") else x

    return map_named("tree.cast_like", like, tree=tree, other_tree=other_tree)


@strict()
def dtype(
    tree: ArrayTree, mixed_dtype_handler: Literal["promote", "highest", "lowest"] | None = None
) -> np.dtype:
    """Return the common dtype of a tree's leaves; that of `jnp.asarray([])` for an empty tree.

    Args:
      tree: a tree of arrays or numbers.
      mixed_dtype_handler: what to do if the dtypes of leaves differ. None raises an error.
        "promote" returns the dtype to which JAX promotes them. "highest" returns the dtype of a
        leaf to which all others can be promoted, "lowest" that of a leaf which can be promoted to
        all others; both raise an error if there is none.

    Raises:
      ValueError: if dtypes differ; see `mixed_dtype_handler`.

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
                    f"at {leaf_name(tree, i)!r}. Choose one with mixed_dtype_handler=..."
                )
        return dtypes[0]
    return functools.reduce(functools.partial(_extreme, mixed_dtype_handler), dtypes)


def _extreme(which: str, a: np.dtype, b: np.dtype) -> np.dtype:
    top = jnp.promote_types(a, b)
    if top not in (a, b):
        raise ValueError(f"tree.dtype: neither of {a} and {b} can be promoted to the other.")
    return top if which == "highest" else (b if top == a else a)


# --- random numbers -------------------------------------------------------------------------------


@strict()
def split_key_like(rng_key: KeyArray, target_tree: ArrayTree) -> PyTree:
    """Return a tree with a key for each leaf of `target_tree`."""
    treedef = jax.tree.structure(target_tree)
    return treedef.unflatten(list(jax.random.split(rng_key, treedef.num_leaves)))


@strict()
def random_like(
    rng_key: KeyArray,
    target_tree: ArrayTree,
    sampler: Callable[..., Array] = jax.random.normal,
    dtype: DType = None,
) -> PyTree:
    """Return independent random numbers shaped like the tree.

    Args:
      rng_key: a `jax.random.key`.
      target_tree: a tree of arrays.
      sampler: `sampler(key, shape, dtype)`, such as the functions of `jax.random`. If it has an
        argument `out_sharding`, it is passed the sharding of the leaf.
      dtype: the dtype of the random numbers; None means that of each leaf.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> noise = gdjax.tree.random_like(jax.random.key(0), {"a": jnp.zeros((500, 2))})
      >>> print(round(float(noise["a"].std()), 1))
      1.0
    """
    sharded = "out_sharding" in inspect.signature(sampler).parameters and hasattr(jax, "typeof")

    def draw(leaf, key):
        where = (
            {"out_sharding": jax.typeof(leaf).sharding}
            if sharded and hasattr(leaf, "dtype")
            else {}
        )
        return sampler(key, jnp.shape(leaf), dtype or jnp.result_type(leaf), **where)

    keys = split_key_like(rng_key, target_tree)
    return map_named(
        "tree.random_like", draw, also=["sampler", "dtype"], target_tree=target_tree, rng_key=keys
    )


@strict()
def unwrap_random_key_data(input_tree: PyTree) -> PyTree:
    """Return the tree with random keys replaced by their data, so that trees can be compared."""

    def unwrap(x):
        is_key = isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        return jax.random.key_data(x) if is_key else x

    return jax.tree.map(unwrap, input_tree)
