"""Many leaves, few equations: one call for a block of leaves that are alike."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import jax.core

from gdjax.core.codecs import in_turn

BLOCK = 32  # leaves in one call, at most


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
    done = None
    for block in like_blocks(keys):
        more = shared[block[0]] if shared else ()
        first = in_turn(rows[block[0]], done)
        if len(block) == 1:
            out[block[0]] = done = leaf(first, *more)
            continue
        results = _blocked(leaf)([first, *(rows[i] for i in block[1:])], *more)
        done = results[-1]
        for i, result in zip(block, results, strict=True):
            out[i] = result
    return out


def like_blocks(
    keys: Sequence[Hashable], size: int | None = None, least: int = 1
) -> list[list[int]]:
    """Return the positions of equal keys, in blocks of at most `size`.

    With None, blocks have the size that traces fastest, from `least` to `BLOCK`.

    Example:
      >>> like_blocks(["a", "b", "a"], 2)
      [[0, 2], [1]]
    """
    groups: dict[Hashable, list[int]] = {}
    for i, key in enumerate(keys):
        groups.setdefault(key, []).append(i)
    blocks = []
    for group in groups.values():
        n = size or _block_size(len(group), least)
        blocks += [group[i : i + n] for i in range(0, len(group), n)]
    return blocks


@functools.cache
def _block_size(n: int, least: int) -> int:
    """Return the size of the blocks of `n` leaves for which fewest calls are traced.

    These are the calls of blocks, and those of the leaves inside of the first block and of a
    shorter last one. To trace a new block costs as much as about two calls.
    """

    def calls(size: int) -> int:
        whole, rest = divmod(n, size)
        inside = sum(k + 2 for k in (size, rest) if k > 1)
        return whole + (rest > 0) + inside

    return min(range(min(n, least), min(n, BLOCK) + 1), key=calls)


_blocks: weakref.WeakKeyDictionary[Callable, Callable] = weakref.WeakKeyDictionary()


def _blocked(leaf: Callable) -> Callable:
    """Return the program of a block of leaves, the same object in every call."""
    if leaf in _blocks:
        return _blocks[leaf]
    of_leaf = weakref.ref(leaf)  # what is kept by `leaf` must not keep it

    def block(rows, *shared):
        leaf = of_leaf()
        assert leaf is not None  # it is being called
        results = [leaf(rows[0], *shared)]
        for row in rows[1:]:
            results.append(leaf(in_turn(row, results[-1]), *shared))
        return results

    _blocks[leaf] = jax.jit(block)
    return _blocks[leaf]
