"""The loop over the parts of a batch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gdjax.microbatching.accumulators import AccumulationType, apply, expand


def _in_parts(x: Any, size: int, axis: int) -> Any:
    """Return x with its batch axis as two, (rows of a part, parts): no row is copied elsewhere."""
    axis = axis % x.ndim
    return x.reshape(*x.shape[:axis], size, x.shape[axis] // size, *x.shape[axis + 1 :])


def reshape_batch_axis(tree: Any, microbatch_size: int, axis: int = 0) -> Any:
    """Split the batch axis of each array in two: (number of parts, rows of a part).

    Part k of K has the rows k, k + K, k + 2 K, ... of the batch.

    Args:
      tree: a tree of arrays.
      microbatch_size: rows of a part; it divides the length of the axis.
      axis: the batch axis.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> print(gdjax.microbatching.reshape_batch_axis(jnp.arange(6), 2))
      [[0 3]
       [1 4]
       [2 5]]
    """
    return jax.tree.map(
        lambda x: jnp.swapaxes(
            _in_parts(x, microbatch_size, axis), axis % x.ndim, axis % x.ndim + 1
        ),
        tree,
    )


def as_tuple(x: Any, one: type) -> tuple:
    """Return one or several of something as a tuple."""
    return (x,) if isinstance(x, one) else tuple(x)


def microbatch(
    fun: Callable[..., Any],
    argnums: int | Sequence[int],
    microbatch_size: int | None,
    accumulator: Any = AccumulationType.SUM,
    *,
    argnames: str | Sequence[str] = (),
    in_axes: int | Sequence[int] = 0,
    num_real_microbatches: Any = None,
) -> Callable[..., Any]:
    """Evaluate a function on parts of a batch, one after the other, and combine the results.

    Sums and means are gathered in at least float32 and returned in the function's dtypes.

    Args:
      fun: any function of arrays.
      argnums: positions of the arguments that have a batch axis; each may be a tree.
      microbatch_size: rows of a part; it must divide the batch. None returns `fun` itself.
      accumulator: how results become one: an `AccumulationType`, an `Accumulator`, or a prefix tree
        of those over the results.
      argnames: names of keyword arguments that have a batch axis.
      in_axes: the batch axis, one for all, or one for each of `argnums` and then `argnames`.
      num_real_microbatches: number of parts to run, also a traced one; None is all. For batches
        padded to one length, without a new program. (As in optax, MEAN still divides by the number
        of all parts, RUNNING_MEAN by that of those run.)

    Returns:
      A function of the same arguments. It can be differentiated in reverse unless
      `num_real_microbatches` is traced.

    Raises:
      ValueError: when called, if batch axes differ in length or the parts do not fit.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> kinds = (gdjax.microbatching.AccumulationType.CONCAT,
      ...          gdjax.microbatching.AccumulationType.SUM)
      >>> f = gdjax.microbatch(lambda x: (x + 1, jnp.sum(x)), 0, 2, kinds)
      >>> f(jnp.array([1, 2, 3, 4]))
      (Array([2, 3, 4, 5], dtype=int32), Array(10, dtype=int32))
    """
    if microbatch_size is None:
        return fun
    if microbatch_size < 1:
        raise ValueError(f"microbatch(microbatch_size=...) must be >= 1, got {microbatch_size}.")
    names = (*as_tuple(argnums, int), *as_tuple(argnames, str))
    axes = (in_axes,) * len(names) if isinstance(in_axes, int) else tuple(in_axes)
    if len(axes) != len(names):
        raise ValueError(
            f"microbatch(in_axes=...) must have one axis for each of {names}, got {axes}."
        )

    @functools.wraps(fun)
    def in_turns(*args, **kwargs):
        given = dict(enumerate(args)) | kwargs
        sizes = {
            x.shape[axis]
            for name, axis in zip(names, axes, strict=True)
            for x in jax.tree.leaves(given[name])
        }
        if len(sizes) != 1:
            raise ValueError(f"microbatch: batch axes must have one length, got {sorted(sizes)}.")
        (size,) = sizes
        if size % microbatch_size:
            raise ValueError(
                f"microbatch: a batch of {size} is no multiple of microbatch_size="
                f"{microbatch_size}. Pad it, and see num_real_microbatches."
            )
        parts = size // microbatch_size
        axis_of = dict(zip(names, axes, strict=True))
        split = {
            name: jax.tree.map(lambda x, a=axis: _in_parts(x, microbatch_size, a), given[name])
            for name, axis in axis_of.items()
        }

        def part(i):
            def rows(name):
                return jax.tree.map(
                    lambda x: jax.lax.dynamic_index_in_dim(
                        x, i, axis_of[name] % (x.ndim - 1) + 1, keepdims=False
                    ),
                    split[name],
                )

            now = {name: rows(name) if name in split else value for name, value in given.items()}
            return fun(*(now[i] for i in range(len(args))), **{k: now[k] for k in kwargs})

        shapes = jax.eval_shape(part, 0)
        kinds = expand(accumulator, shapes, parts)
        run = parts if num_real_microbatches is None else num_real_microbatches
        carry = jax.lax.fori_loop(
            0, run, lambda i, carry: apply("update", kinds, carry, part(i), index=(i,)),
            apply("init", kinds, shapes),
        )  # fmt: skip
        return apply("finalize", kinds, carry)

    return in_turns
