"""Accumulators, which combine the results of microbatches."""

from __future__ import annotations

import dataclasses
import enum
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gdjax.core.numerics import compute_dtype, is_inexact
from gdjax.core.types import PyTree


@dataclasses.dataclass(frozen=True)
class Accumulator:
    """Functions that combine the results x_0, x_1, ... of microbatches.

    carry = init(shape of x_0); carry = update(carry, x_i, i) for each microbatch; finalize(carry)

    Attributes:
      init: `init(shape_dtype_struct) -> carry`.
      update: `update(carry, value, index) -> carry`, with the same shapes and dtypes.
      finalize: `finalize(carry) -> result`.
      aggregate: `aggregate(values) -> value` for the values of the rows of one microbatch, stacked
        along the first axis; only used by `micro_vmap`.
    """

    init: Callable[[Any], PyTree]
    update: Callable[[Any, Any, Array], PyTree]
    finalize: Callable[[Any], PyTree]
    aggregate: Callable[[Any], PyTree]


class AccumulationType(enum.Enum):
    """Common ways to combine the results of microbatches."""

    MEAN = enum.auto()  # the sum divided by the number of all microbatches
    SUM = enum.auto()
    RUNNING_MEAN = enum.auto()  # over those that were run, see `num_real_microbatches`
    CONCAT = enum.auto()  # along the first axis, in the order of the rows of the batch


def _sum_dtype(x: Array | jax.ShapeDtypeStruct) -> np.dtype:
    """Return the dtype of sums: at least float32, so that small terms are not rounded away."""
    return compute_dtype(x) if is_inexact(x.dtype) else x.dtype


def _check_kind(kind: AccumulationType, x: Array | jax.ShapeDtypeStruct) -> None:
    if not isinstance(kind, AccumulationType):
        raise ValueError(
            "accumulator=... must be an Accumulator, an AccumulationType or a tree of them, got "
            f"{kind!r}."
        )
    means = (AccumulationType.MEAN, AccumulationType.RUNNING_MEAN)
    if kind in means and not is_inexact(x.dtype):
        raise ValueError(f"{kind} needs floating-point results, got {x.dtype}.")


def _aggregate(kind: AccumulationType, rows: Array) -> Array:
    """Combine the values of the rows of one microbatch, along the first axis."""
    _check_kind(kind, rows)
    if kind is AccumulationType.CONCAT:
        return rows
    combine = jnp.sum if kind is AccumulationType.SUM else jnp.mean
    return combine(rows, 0, dtype=_sum_dtype(rows)).astype(rows.dtype)


def _accumulator(kind: AccumulationType, shape: jax.ShapeDtypeStruct, parts: int) -> Accumulator:
    """Return the accumulator for one array with the given shape and dtype."""
    _check_kind(kind, shape)
    if kind is AccumulationType.CONCAT:
        return Accumulator(
            init=lambda x: jnp.zeros((parts, *x.shape), x.dtype),
            update=lambda carry, x, i: carry.at[i].set(x),
            finalize=lambda carry: _in_order(carry) if carry.ndim > 1 else carry,
            aggregate=functools.partial(_aggregate, kind),
        )

    def add(carry, x, i):
        return carry + x.astype(carry.dtype)

    def running_mean(carry, x, i):
        return carry + (x.astype(carry.dtype) - carry) / (jnp.asarray(i, carry.real.dtype) + 1)

    return Accumulator(
        init=lambda x: jnp.zeros(x.shape, _sum_dtype(x)),
        update=running_mean if kind is AccumulationType.RUNNING_MEAN else add,
        finalize=lambda carry: (carry / parts if kind is AccumulationType.MEAN else carry).astype(
            shape.dtype
        ),
        aggregate=functools.partial(_aggregate, kind),
    )


def _in_order(parts: Array) -> Array:
    """Return rows in the order of the batch, from an array (microbatches, rows of each, ...)."""
    return jnp.swapaxes(parts, 0, 1).reshape(-1, *parts.shape[2:])


def expand(accumulator: PyTree, shapes: PyTree, parts: int) -> PyTree:
    """Return the prefix tree with every kind replaced by a tree of accumulators, one per array."""

    def one(kind, below):
        if isinstance(kind, Accumulator):
            return kind
        return jax.tree.map(lambda x: _accumulator(kind, x, parts), below)

    return jax.tree.map(one, accumulator, shapes, is_leaf=is_accumulator)


def aggregate(accumulator: PyTree, rows: PyTree) -> PyTree:
    """Combine the values of the rows of one microbatch by a prefix tree of accumulators."""

    def one(kind, below):
        if isinstance(kind, Accumulator):
            return kind.aggregate(below)
        return jax.tree.map(functools.partial(_aggregate, kind), below)

    return jax.tree.map(one, accumulator, rows, is_leaf=is_accumulator)


def is_accumulator(x: Any) -> bool:
    """Return whether `x` is an accumulator or a kind of accumulation."""
    return isinstance(x, (Accumulator, AccumulationType))


def map_accumulators(call: Callable[..., PyTree], accumulators: PyTree, *trees: PyTree) -> PyTree:
    """Return `call(accumulator, *values)` for every accumulator of a prefix tree."""
    return jax.tree.map(call, accumulators, *trees, is_leaf=is_accumulator)
