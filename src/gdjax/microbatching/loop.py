"""The loop over the microbatches of a batch."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.checks import check_integer, strict
from gdjax.core.types import ArrayTree, PyTree
from gdjax.microbatching.accumulators import AccumulationType, expand, map_accumulators


def _split(x: Array, size: int, axis: int) -> Array:
    """Split the batch axis into (rows of a microbatch, microbatches), without moving rows."""
    axis = axis % x.ndim
    return x.reshape(*x.shape[:axis], size, x.shape[axis] // size, *x.shape[axis + 1 :])


@strict()
def reshape_batch_axis(tree: ArrayTree, microbatch_size: int, axis: int = 0) -> PyTree:
    """Split the batch axis of each array into (number of microbatches, microbatch_size).

    Microbatch k of K has the rows k, k + K, k + 2 K, ... of the batch.

    Args:
      tree: a tree of arrays.
      microbatch_size: rows of a microbatch; it must divide the length of the axis.
      axis: the batch axis.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> print(gdjax.microbatching.reshape_batch_axis(jnp.arange(6), 2))
      [[0 3]
       [1 4]
       [2 5]]
    """
    check_integer("reshape_batch_axis(microbatch_size=...)", microbatch_size)
    for x in jax.tree.leaves(tree):
        if not -jnp.ndim(x) <= axis < jnp.ndim(x):
            raise ValueError(
                f"reshape_batch_axis(axis=...) must be an axis of every array in tree, got {axis} "
                f"for one of shape {jnp.shape(x)}."
            )
        if jnp.shape(x)[axis] % microbatch_size:
            raise ValueError(
                "reshape_batch_axis(microbatch_size=...) must divide the axis of every array in "
                f"tree, got {microbatch_size} for one of shape {jnp.shape(x)}."
            )
    return jax.tree.map(
        lambda x: jnp.swapaxes(_split(x, microbatch_size, axis), axis % x.ndim, axis % x.ndim + 1),
        jax.tree.map(jnp.asarray, tree),
    )


def as_tuple(x: Any, kind: type) -> tuple[Any, ...]:
    """Return one instance of a class, or a sequence of them, as a tuple."""
    return (x,) if isinstance(x, kind) else tuple(x)


def _positional(fun: Callable[..., Any]) -> list[str]:
    """Return the names of the parameters that may be given by position or by name."""
    try:
        parameters = inspect.signature(fun).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]


def _as_given(name: int | str, given: dict[int | str, Any], positional: list[str]) -> int | str:
    """Return the position or name by which an argument was given, which is declared by either."""
    if isinstance(name, int):
        other = positional[name] if 0 <= name < len(positional) else name
    else:
        other = positional.index(name) if name in positional else name
    for key in (name, other):
        if key in given:
            return key
    raise TypeError(
        f"microbatch: argument {name!r}, which has a batch axis, was not given; got {list(given)}."
    )


@strict()
def microbatch(
    fun: Callable[..., Any],
    argnums: int | Sequence[int],
    microbatch_size: int | None,
    accumulator: PyTree = AccumulationType.SUM,
    *,
    argnames: str | Sequence[str] = (),
    in_axes: int | Sequence[int] = 0,
    num_real_microbatches: int | Array | None = None,
) -> Callable[..., Any]:
    """Evaluate a function on microbatches, one after the other, and combine the results.

    Sums and means are accumulated in at least float32 and returned in the dtypes of the function's
    results.

    Args:
      fun: any function of arrays.
      argnums: positions of the arguments that have a batch axis; each may be a tree. Arguments
        that are declared by position may be given by name, and the other way round.
      microbatch_size: rows of a microbatch; it must divide the batch. None returns `fun` itself.
      accumulator: how results are combined: an `AccumulationType`, an `Accumulator`, or a tree of
        them that is a prefix of the results.
      argnames: names of arguments that have a batch axis.
      in_axes: the batch axis, one for all, or one for each of `argnums` and then `argnames`.
      num_real_microbatches: number of microbatches to run, which may be traced; None means all.
        With it, batches padded to one length share a compiled program. (As in optax, MEAN still
        divides by the number of all microbatches, RUNNING_MEAN by the number of those that ran.)

    Returns:
      A function of the same arguments. Reverse-mode differentiation works unless
      `num_real_microbatches` is traced.

    Raises:
      ValueError: when called, if batch axes differ in length or `microbatch_size` does not divide
        them.
      TypeError: when called without an argument that has a batch axis.

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
    check_integer("microbatch(microbatch_size=...)", microbatch_size)
    names = (*as_tuple(argnums, int), *as_tuple(argnames, str))
    axes = (in_axes,) * len(names) if isinstance(in_axes, int) else tuple(in_axes)
    if len(axes) != len(names):
        raise ValueError(
            f"microbatch(in_axes=...) must have one axis for each of {names}, got {axes}."
        )

    positional = _positional(fun)

    @functools.wraps(fun)
    def in_microbatches(*args, **kwargs):
        given = dict(enumerate(args)) | kwargs
        axis_of = {
            _as_given(name, given, positional): axis for name, axis in zip(names, axes, strict=True)
        }
        sizes = {
            x.shape[axis] for name, axis in axis_of.items() for x in jax.tree.leaves(given[name])
        }
        if len(sizes) != 1:
            raise ValueError(
                f"microbatch: batch axes must have the same length, got {sorted(sizes)}."
            )
        (size,) = sizes
        if size % microbatch_size:
            raise ValueError(
                f"microbatch: a batch of {size} rows is not divisible by microbatch_size="
                f"{microbatch_size}. Pad the batch, see num_real_microbatches."
            )
        parts = size // microbatch_size
        split = {
            name: jax.tree.map(lambda x, a=axis: _split(x, microbatch_size, a), given[name])
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

            inputs = {k: rows(k) if k in split else value for k, value in given.items()}
            return fun(*(inputs[i] for i in range(len(args))), **{k: inputs[k] for k in kwargs})

        shapes = jax.eval_shape(part, 0)
        kinds = expand(accumulator, shapes, parts)
        run = parts if num_real_microbatches is None else num_real_microbatches

        def body(i, carry):
            return map_accumulators(lambda a, c, x: a.update(c, x, i), kinds, carry, part(i))

        start = map_accumulators(lambda a, shape: a.init(shape), kinds, shapes)
        carry = jax.lax.fori_loop(0, run, body, start)
        return map_accumulators(lambda a, c: a.finalize(c), kinds, carry)

    return in_microbatches
