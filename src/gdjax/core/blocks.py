"""Many leaves, few equations: like leaves are traced, lowered and dispatched in blocks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax

BLOCK = 32  # leaves in one call; 1000 leaves cost 32 equations, and a first block traces quickly


def map_blocks(
    leaf: Callable, rows: Sequence[Any], keys: Sequence[Hashable], shared: Sequence[tuple] = ()
) -> list[Any]:
    """Return `[leaf(row, *more) for row, more in zip(rows, shared)]`, like rows in one call.

    Args:
      leaf: a jitted function, the same object in every call.
      rows: one pytree of arrays for each leaf.
      keys: rows with the same key should have the same shapes and dtypes (else a block is traced
        once more) and must have the same `shared`.
      shared: for each row, further arguments, which enter a block only once; none if empty.
    """
    out: list[Any] = [None] * len(rows)
    for block in like_blocks(keys):
        more = shared[block[0]] if shared else ()
        if len(block) == 1:
            out[block[0]] = leaf(rows[block[0]], *more)
            continue
        results = _blocked(leaf)([rows[i] for i in block], *more)
        for i, result in zip(block, results, strict=True):
            out[i] = result
    return out


def like_blocks(keys: Sequence[Hashable], size: int = BLOCK) -> list[list[int]]:
    """Return the positions of equal keys, in blocks of at most `size`.

    Example:
      >>> like_blocks(["a", "b", "a"])
      [[0, 2], [1]]
    """
    groups: dict[Hashable, list[int]] = {}
    for i, key in enumerate(keys):
        groups.setdefault(key, []).append(i)
    return [g[i : i + size] for g in groups.values() for i in range(0, len(g), size)]


@functools.lru_cache(maxsize=1024)
def _blocked(leaf: Callable) -> Callable:
    def block(rows, *shared):
        return [leaf(row, *shared) for row in rows]

    return jax.jit(block)
