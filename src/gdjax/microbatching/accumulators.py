"""How the results of the parts of a batch become one."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gdjax.core.numerics import compute_dtype, is_inexact


@dataclasses.dataclass(frozen=True)
class Accumulator:
    """How the results x_0, x_1, ... of the parts become one.

    carry = init(x_0's shape); carry = update(carry, x_i, i) for each part; finalize(carry)

    Attributes:
      init: `init(shape_dtype_struct) -> carry`.
      update: `update(carry, value, index) -> carry`, of the same avals.
      finalize: `finalize(carry) -> result`.
      aggregate: `aggregate(values) -> value`, of the values of one part's rows, stacked along the
        first axis; `micro_vmap` alone uses it.
    """

    init: Callable[[Any], Any]
    update: Callable[[Any, Any, Any], Any]
    finalize: Callable[[Any], Any]
    aggregate: Callable[[Any], Any]


class AccumulationType(enum.Enum):
    """The usual ways to make one result of those of the parts."""

    MEAN = enum.auto()  # sum, divided by the number of all parts
    SUM = enum.auto()
    RUNNING_MEAN = enum.auto()  # of the parts that were run: see `num_real_microbatches`
    CONCAT = enum.auto()  # along the first axis, in the order of the batch's rows


def _wide(x: Any) -> Any:
    """Return the dtype to gather in: at least float32, where small parts do not round away."""
    return compute_dtype(x) if is_inexact(x.dtype) else x.dtype


def _sum_rows(rows):
    return jnp.sum(rows, 0, dtype=_wide(rows)).astype(rows.dtype)


def _mean_rows(rows):
    return jnp.mean(rows, 0, dtype=compute_dtype(rows)).astype(rows.dtype)


def _check_float(kind: AccumulationType, x: Any) -> None:
    if not is_inexact(x.dtype):
        raise ValueError(f"{kind} needs floating-point results, got {x.dtype}.")


def _usual(kind: Any, shape: Any, parts: int) -> Accumulator:
    """Return the accumulator of one array, which the function returns with that shape and dtype."""
    if kind is AccumulationType.CONCAT:
        return Accumulator(
            init=lambda x: jnp.zeros((parts, *x.shape), x.dtype),
            update=lambda carry, x, i: carry.at[i].set(x),
            finalize=lambda carry: _in_order(carry) if carry.ndim > 1 else carry,
            aggregate=lambda rows: rows,
        )
    if kind not in (AccumulationType.SUM, AccumulationType.MEAN, AccumulationType.RUNNING_MEAN):
        raise ValueError(
            "accumulator=... must be an Accumulator, an AccumulationType or a tree of them, got "
            f"{kind!r}."
        )
    if kind is not AccumulationType.SUM:
        _check_float(kind, shape)

    def add(carry, x, i):
        return carry + x.astype(carry.dtype)

    def follow(carry, x, i):
        return carry + (x.astype(carry.dtype) - carry) / (jnp.asarray(i, carry.real.dtype) + 1)

    return Accumulator(
        init=lambda x: jnp.zeros(x.shape, _wide(x)),
        update=follow if kind is AccumulationType.RUNNING_MEAN else add,
        finalize=lambda carry: (carry / parts if kind is AccumulationType.MEAN else carry).astype(
            shape.dtype
        ),
        aggregate=_sum_rows if kind is AccumulationType.SUM else _mean_rows,
    )


def _in_order(parts: Any) -> Any:
    """Return rows as in the batch, from an array (parts, rows of a part, ...)."""
    return jnp.swapaxes(parts, 0, 1).reshape(-1, *parts.shape[2:])


def expand(accumulator: Any, shapes: Any, parts: int) -> Any:
    """Return the prefix tree with every kind replaced by a tree of accumulators, one per array."""

    def one(kind, below):
        if isinstance(kind, Accumulator):
            return kind
        return jax.tree.map(lambda x: _usual(kind, x, parts), below)

    return jax.tree.map(one, accumulator, shapes, is_leaf=is_accumulator)


def is_accumulator(x: Any) -> bool:
    """Return whether `x` says how results are combined."""
    return isinstance(x, (Accumulator, AccumulationType))


def apply(method: str, accumulators: Any, *trees: Any, index: tuple = ()) -> Any:
    """Call a method of every accumulator of a prefix tree."""
    return jax.tree.map(
        lambda a, *xs: getattr(a, method)(*xs, *index), accumulators, *trees,
        is_leaf=is_accumulator,
    )  # fmt: skip
