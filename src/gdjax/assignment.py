"""Match rows and columns one to one with minimal total cost: the linear assignment problem.

Crouse (2016), "On implementing 2D rectangular assignment algorithms",
https://doi.org/10.1109/TAES.2016.140952: rows are added one by one, each along the shortest
augmenting path. Dijkstra's algorithm finds the path, with array operations over all columns.
Paper -> here: u, v -> row_price, column_price (the dual variables).
"""

from __future__ import annotations

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from gdjax.core.checks import strict
from gdjax.core.explicit import automatically
from gdjax.core.numerics import scalar_dtype


@strict()
def hungarian_algorithm(cost_matrix: ArrayLike) -> tuple[Array, Array]:
    """Return the min(rows, columns) pairs of rows and columns with minimal total cost.

    The time is at most of order rows * columns * min(rows, columns). The pairs do not depend
    continuously on the costs; the gradient of `cost[i, j].sum()` is that of the selected entries.

    Args:
      cost_matrix: real array [rows, columns], positive or negative; infinity forbids a pair. The
        computation is in float32, or in float64 with x64. For several matrices use `jax.vmap`.

    Returns:
      Row indices in ascending order, as in SciPy, and their column indices. If every assignment has
      a forbidden pair, the result has forbidden pairs too.

    Raises:
      TypeError: if the costs are not real.
      ValueError: if they are not a matrix or, outside of jit, contain NaN or minus infinity.

    Example:
      >>> import jax.numpy as jnp
      >>> cost = jnp.array([[8.0, 4.0, 7.0], [5.0, 2.0, 3.0], [9.0, 6.0, 7.0], [9.0, 4.0, 8.0]])
      >>> i, j = hungarian_algorithm(cost)
      >>> print(i, j, cost[i, j].sum())
      [0 1 3] [0 2 1] 15.0
    """
    return _assign("hungarian_algorithm", cost_matrix)


@strict()
def base_hungarian_algorithm(cost_matrix: ArrayLike) -> tuple[Array, Array]:
    """Return the result of `hungarian_algorithm`; optax has two implementations, gdjax one.

    Args:
      cost_matrix: see `hungarian_algorithm`.

    Example:
      >>> import jax.numpy as jnp
      >>> print(*base_hungarian_algorithm(jnp.array([[2.0, 1.0], [1.0, 2.0]])))
      [0 1] [1 0]
    """
    return _assign("base_hungarian_algorithm", cost_matrix)


def _assign(call: str, cost_matrix: ArrayLike) -> tuple[Array, Array]:
    cost = jax.lax.stop_gradient(jnp.asarray(cost_matrix))
    if jnp.issubdtype(cost.dtype, jnp.complexfloating):
        raise TypeError(f"{call}(cost_matrix=...) must be real, got dtype {cost.dtype}.")
    if cost.ndim != 2:
        raise ValueError(
            f"{call}(cost_matrix=...) must be a matrix, got shape {list(cost.shape)}. For several "
            "matrices use jax.vmap."
        )
    if not isinstance(cost, jax.core.Tracer):
        values = np.asarray(cost).astype(np.float64)
        if np.any(np.isnan(values) | (values == -np.inf)):
            raise ValueError(f"{call}(cost_matrix=...) contains NaN or minus infinity.")
    return automatically(_matched, cost.astype(scalar_dtype()))


def _matched(cost: Array) -> tuple[Array, Array]:
    if cost.shape[0] <= cost.shape[1]:
        return jnp.arange(cost.shape[0]), _columns_of_rows(cost)
    rows = _columns_of_rows(cost.T)
    order = jnp.argsort(rows)
    return rows[order], order


def _columns_of_rows(cost: Array) -> Array:
    """Return a column for each row; there must be at most as many rows as columns."""
    rows, columns = cost.shape
    free = jnp.full(columns, -1)
    prices = jnp.zeros(rows, cost.dtype), jnp.zeros(columns, cost.dtype)

    def add_row(row, carry):
        row_price, column_price, row_of, column_of = carry
        distance, before, seen, sink = _shortest_path(cost, row_price, column_price, row_of, row)
        # keep the reduced costs non-negative, and zero along the path
        slack = jnp.where(seen, distance[sink] - distance, 0)
        slack = jnp.where(jnp.isfinite(slack), slack, 0)  # a forbidden pair gives no information
        column_price -= slack
        row_price = row_price.at[jnp.where(row_of >= 0, row_of, rows)].add(slack, mode="drop")
        rise = jnp.where(jnp.isfinite(distance[sink]), distance[sink], 0)
        row_price = row_price.at[row].add(rise)

        def augment(carry):
            sink, row_of, column_of, _ = carry
            i = before[sink]
            row_of, column_of, sink = (
                row_of.at[sink].set(i),
                column_of.at[i].set(sink),
                column_of[i],
            )
            return sink, row_of, column_of, i == row

        path = sink, row_of, column_of, jnp.array(False)
        _, row_of, column_of, _ = jax.lax.while_loop(lambda c: ~c[-1], augment, path)
        return row_price, column_price, row_of, column_of

    if rows == 0:
        return jnp.zeros(0, free.dtype)
    start = (*prices, free, jnp.full(rows, -1))
    return jax.lax.fori_loop(0, rows, add_row, start)[-1]


def _shortest_path(cost, row_price, column_price, row_of, row):
    """Return distances, the row before each column, visited columns, and the free column found."""
    columns = cost.shape[1]

    def visit(carry):
        distance, before, seen, last, i, length = carry
        via = length + cost[i] - row_price[i] - column_price
        better = ~seen & (via < distance)
        distance, before = jnp.where(better, via, distance), jnp.where(better, i, before)
        # the nearest column not seen before; among equals, a free one
        nearest = jnp.min(jnp.where(seen, jnp.inf, distance))
        nearest_ones = ~seen & ((distance <= nearest) | (nearest == jnp.inf))
        last = jnp.argmax(nearest_ones * (1 + (row_of < 0))).astype(last.dtype)
        return distance, before, seen.at[last].set(True), last, row_of[last], nearest

    start = (
        jnp.full(columns, jnp.inf, cost.dtype),
        jnp.full(columns, row, row_of.dtype),
        jnp.zeros(columns, bool),
        jnp.zeros((), row_of.dtype),
        jnp.asarray(row, row_of.dtype),
        jnp.zeros((), cost.dtype),
    )
    distance, before, seen, last, _, _ = jax.lax.while_loop(lambda c: c[4] >= 0, visit, start)
    return distance, before, seen, last
