"""Run an optimizer on all parameters as one vector, or on stacks of parameters of equal shape."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.base import InitFn, Optimizer
from gdjax.core.blocks import like_blocks
from gdjax.core.chain import with_extra_args_support
from gdjax.core.checks import check_integer, strict
from gdjax.core.explicit import automatically
from gdjax.core.lift import treewise
from gdjax.core.numerics import scalar_dtype, upcast
from gdjax.core.trees import SMALL, derived
from gdjax.core.types import OptState, Pair, Params, PyTree


def _joined(tree: PyTree) -> Array | dict[str, Array]:
    """Return the concatenated leaves, at least float32; a dict of vectors if dtypes differ."""
    leaves = [jnp.asarray(x) for x in jax.tree.leaves(upcast(tree))]
    dtypes = sorted({str(x.dtype) for x in leaves})
    vectors = {
        d: jnp.concatenate([x.reshape(-1) for x in leaves if str(x.dtype) == d]) for d in dtypes
    }
    if len(vectors) > 1:
        return vectors
    return vectors[dtypes[0]] if vectors else jnp.zeros(0, scalar_dtype())


def _split(flat: Array | dict[str, Array], like: PyTree) -> PyTree:
    leaves, treedef = jax.tree.flatten(like)
    out, done = [], {}
    for x in leaves:
        vector = flat[str(x.dtype)] if isinstance(flat, dict) else flat
        start = done.get(str(x.dtype), 0)
        done[str(x.dtype)] = stop = start + math.prod(x.shape)
        out.append(vector[start:stop].reshape(x.shape))
    return treedef.unflatten(out)


def _blocks(leaves: list[Array], block: int) -> list[list[int]]:
    keys = [(x.shape, x.dtype) if x.size <= SMALL else i for i, x in enumerate(leaves)]
    return like_blocks(keys, block)


def _stacked(tree: PyTree, block: int) -> list[Array]:
    leaves = [jnp.asarray(x) for x in jax.tree.leaves(upcast(tree))]
    rows = [[leaves[i] for i in positions] for positions in _blocks(leaves, block)]
    return [_stack(row) if len(row) > 1 else row[0] for row in rows]


def _unstacked(rows: list[Array], like: PyTree, block: int) -> PyTree:
    leaves, treedef = jax.tree.flatten(like)
    out: list[Array | None] = [None] * len(leaves)
    for row, positions in zip(rows, _blocks(leaves, block), strict=True):
        parts = _cut(row) if len(positions) > 1 else [row]
        for i, part in zip(positions, parts, strict=True):
            out[i] = part
    return treedef.unflatten(out)


_stack = jax.jit(jnp.stack)  # jitted to be traced once for all blocks of a shape
_cut = jax.jit(lambda row: [jax.lax.index_in_dim(row, i, 0, False) for i in range(len(row))])


def _flatten(grads, slots, params, count, *, inner, block, **extra):
    join, cut = _joined, _split
    if block:
        join, cut = (
            functools.partial(_stacked, block=block),
            functools.partial(_unstacked, block=block),
        )
    updates, slots = inner(join(grads), slots, None if params is None else join(params), **extra)
    return cut(updates, grads), slots


def _fresh(init: InitFn, block: int | None, params: Params) -> OptState:
    join = functools.partial(_stacked, block=block) if block else _joined
    return init(derived(functools.partial(automatically, join), params))


@strict()
def flatten(inner: Pair, *, block: int | None = None) -> Optimizer:
    """Run an optimizer on one vector of all parameters, or on stacks of them.

    On one vector it takes norms and trust ratios over all parameters together; that costs a copy
    of the gradients, and on a mesh the vector lies whole on each device. gdjax processes leaves of
    equal shape in blocks, so having many leaves is no reason for it.

    On stacks (`block=16`) hundreds of small parameters cost less: a compiled step of AdamW on 1000
    leaves of 64 elements takes half the time on a CPU, since most of that is for passing buffers
    in and out, and 1000 moments are 63 here. It is for elementwise rules, with global norms or
    none, numbers without paths, and parameters that are not sharded.

    Args:
      inner: the `(init, update)` pair. It sees a vector of at least float32, or a dict of one for
        each dtype if parameters are real and complex, or float32 and float64; with `block`, a list
        of arrays.
      block: the largest number of parameters of one shape and dtype in a stack. Parameters of more
        than 4096 elements, and single ones of their shape, are not stacked. None is one vector.
        With 16, XLA's CPU compiler makes 16 different kernels that split a stack; with one vector,
        as many as there are parameters, which takes it minutes.

    Returns:
      An `Optimizer`.
      State: that of `inner`, shaped like the vector or the stacks.

    Raises:
      ValueError: if `block` is not an integer >= 2.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.flatten(gdjax.clip_by_block_rms(1.0))
      >>> grads = {"a": jnp.array([3.0, 3.0]), "b": jnp.zeros((2, 1))}
      >>> updates, state = opt.update(grads, opt.init(grads))
      >>> print(updates["a"])  # the rms of [3, 3, 0, 0] is 2.1213
      [1.4142 1.4142]
      >>> opt = gdjax.flatten(gdjax.adam(0.1), block=16)
      >>> state = opt.init({str(i): jnp.zeros((8, 8)) for i in range(20)})
      >>> print([x.shape for x in state.slots.slots.mu])
      [(16, 8, 8), (4, 8, 8)]
    """
    if block is not None:
        check_integer("flatten(block=...)", block, 2)
    init, update = with_extra_args_support(inner)
    slots = functools.partial(_fresh, init, block)
    return treewise(_flatten, slots, inner=update, block=block)
