"""Functions of whole trees in few equations, for rules that need all leaves together."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.blocks import like_blocks, map_blocks
from gdjax.core.dealing import DealtTree
from gdjax.core.numerics import (
    Decay,
    abs_sq,
    cast,
    compute_dtype,
    power_of_two,
    real_dtype,
    safe_sqrt,
    scalar_dtype,
    upcast,
)
from gdjax.core.remember import remembered
from gdjax.core.types import DType, PyTree, T


def map_leaves(
    leaf: Callable[..., Any], outputs: int, trees: Sequence[PyTree], *shared: Array | None
) -> tuple[PyTree, ...]:
    """Return the trees that a function for one array gives over all leaves.

    Args:
      leaf: `leaf(*arrays, *shared)`, a function of a module (it is traced once for each shape, and
        remembered); returns one array or a tuple of `outputs` arrays of any shape.
      outputs: how many; needed for a tree without leaves.
      trees: trees of one structure; their leaves come in at least float32.
      *shared: numbers for all leaves, which come in the leaf's own real dtype, or None.

    Returns:
      A tuple of `outputs` trees.

    Example:
      >>> import jax.numpy as jnp
      >>> def _double(x, factor): return factor * x
      >>> print(*map_leaves(_double, 1, [{"a": jnp.ones(2)}], jnp.array(2.0)))
      {'a': Array([2., 2.], dtype=float32)}
    """
    leaves, treedef = jax.tree.flatten(trees[0])
    rows = list(zip(leaves, *(treedef.flatten_up_to(t) for t in trees[1:]), strict=True))
    keys = [tuple((x.shape, x.dtype) for x in row) for row in rows]
    out = map_blocks(_lifted(leaf), rows, keys, [shared] * len(rows))
    return tuple(treedef.unflatten([o[i] for o in out]) for i in range(outputs))


def total_count(counts: PyTree) -> Array:
    """Return the sum of the integers of a tree, leaf by leaf: lanes of a `vmap` stay apart.

    Example:
      >>> print(total_count({"a": jnp.array(1), "b": jnp.array(2)}))
      3
    """
    is_dealt = lambda x: isinstance(x, DealtTree)  # noqa: E731
    found = []
    for node in jax.tree.leaves(counts, is_leaf=is_dealt):
        stacks = jax.tree.leaves(node.stacks) if is_dealt(node) else []
        found += [jnp.sum(x, -1, dtype=jnp.int32) for x in stacks]
        found += jax.tree.leaves(node.rest if is_dealt(node) else node)
    return sum(found, start=jnp.zeros((), jnp.int32))


@remembered
def _lifted(leaf: Callable) -> Callable:
    @jax.jit
    def row(arrays, *shared):
        arrays = upcast(arrays)
        real = real_dtype(compute_dtype(*arrays))
        out = leaf(*arrays, *(None if s is None else _number(s).astype(real) for s in shared))
        return out if isinstance(out, tuple) else (out,)

    return row


def _number(x: Any) -> Array | Decay:
    return x if isinstance(x, Decay) else jnp.asarray(x)


def total(tree: PyTree) -> Array:
    """Return the sum of the leaves of a tree of numbers; 0 for an empty tree."""
    numbers = jax.tree.leaves(tree)
    dtype = compute_dtype(*numbers)  # lax.add, which traces faster than jnp.add, wants one dtype
    return functools.reduce(jax.lax.add, [cast(x, dtype) for x in numbers] or [zero()])


def sum_sq(tree: PyTree) -> Array:
    """Return the sum of |x|**2 over all leaves, accumulated in at least float32.

    Example:
      >>> import jax.numpy as jnp
      >>> print(sum_sq({"a": jnp.ones(3), "b": jnp.full((2,), 2.0)}))
      11.0
    """
    leaves = jax.tree.leaves(tree)
    kinds = [(x.shape, x.dtype) for x in leaves]
    blocks = like_blocks(kinds, least=16)  # a block of small arrays is a kernel to compile
    parts = [part for block in blocks for part in _sums_sq([leaves[i] for i in block])]
    dtype = compute_dtype(*parts)  # float32 and float64 leaves may be mixed
    parts = [cast(x, dtype) for x in parts]
    return functools.reduce(jax.lax.add, parts) if parts else jnp.zeros((), scalar_dtype())


def unit_of(*trees: PyTree) -> Array:
    """Return a power of two near the largest element: see `over`.

    It is 1 for zeros, and where an element is not finite.

    Example:
      >>> import jax.numpy as jnp
      >>> print(unit_of(jnp.array([3.0, -20.0]), jnp.array(1j)))
      16.0
    """
    parts = [jnp.abs(y) for x in jax.tree.leaves(upcast(trees)) for y in _real_parts(x)]
    sizes = [jnp.max(x, initial=0) for x in parts]
    dtype = compute_dtype(*sizes)
    return power_of_two(functools.reduce(jnp.maximum, sizes, jnp.zeros((), dtype)))


def over(tree: T, unit: Array) -> T:
    """Return a tree, in at least float32, over a power of two, which rounds nothing.

    With that of `unit_of`, squares neither overflow nor underflow.
    """
    return jax.tree.map(lambda x: x / cast(unit, x.real.dtype), upcast(tree))


def _real_parts(x: Array) -> list[Array]:
    return [x.real, x.imag] if jnp.iscomplexobj(x) else [x]


SMALL = 4096  # elements; like arrays of at most this size are added first, then summed once


@jax.jit
def _sums_sq(arrays: list[Array]) -> list[Array]:
    squares = [abs_sq(x) for x in upcast(arrays)]
    if arrays[0].size <= SMALL:  # measured on 1000 leaves of 64: 0.3 s to compile against 2.5 s
        squares = [functools.reduce(jax.lax.add, squares)]
    return [jnp.sum(x) for x in squares]


def times(tree: T, factor: Array) -> T:
    """Return the tree times a number, each leaf in its own dtype."""
    leaves, treedef = jax.tree.flatten(tree)
    keys = [(x.shape, x.dtype) for x in leaves]
    return treedef.unflatten(map_blocks(_times, leaves, keys, [(factor,)] * len(leaves)))


@jax.jit
def _times(x: Array, factor: Array) -> Array:
    return x * factor.astype(x.real.dtype)


def inner_product(a: Array, b: Array) -> Array:
    """Return the real inner product of two arrays: complex numbers count as pairs of reals.

    Example:
      >>> import jax.numpy as jnp
      >>> print(inner_product(jnp.array([1j, 2.0]), jnp.array([1j, 1.0])))
      3.0
    """
    return jnp.sum(product(a, b))


def product(a: Array, b: Array) -> Array:
    """Return the real inner product elementwise: its sign says whether two arrays agree."""
    return a.real * b.real + a.imag * b.imag if jnp.iscomplexobj(a) else a * b


def magnitude(x: Array) -> Array:
    """Return |x| elementwise, with derivative 0 at 0, also for complex x."""
    return safe_sqrt(abs_sq(x)) if jnp.iscomplexobj(x) else jnp.abs(x)


def derived(function: Callable[[PyTree], T], tree: PyTree) -> T:
    """Return `function(tree)`, or its shapes if there are `jax.ShapeDtypeStruct` in the tree.

    For what `init` computes from the values of the parameters, which abstract ones do not have.
    """
    leaves = jax.tree.leaves(tree)
    if any(isinstance(x, jax.ShapeDtypeStruct) for x in leaves):
        return jax.eval_shape(function, tree)
    return function(tree)


def copied(tree: T, dtype: DType = None) -> T:
    """Return a copy to keep, at least float32, that shares no buffer with the tree."""
    return jax.tree.map(
        functools.partial(derived, lambda x: jnp.array(x, dtype or compute_dtype(x), copy=True)),
        tree,
    )


def zeros_like(tree: T) -> T:
    """Return zeros of at least float32, shaped like the tree."""
    return jax.tree.map(lambda x: jnp.zeros_like(x, dtype=compute_dtype(x)), tree)


def real_zeros_like(tree: T) -> T:
    """Return real zeros of at least float32, shaped like the tree."""
    return jax.tree.map(lambda x: jnp.zeros_like(x, dtype=real_dtype(compute_dtype(x))), tree)


def zero() -> Array:
    """Return a number 0 of the dtype in which numbers are kept."""
    return jnp.zeros((), scalar_dtype())
