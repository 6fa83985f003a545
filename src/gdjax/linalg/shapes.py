"""Shapes for methods with a matrix for each axis of an array: axes merged, and cut in blocks."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array


def merged_shape(shape: tuple[int, ...], limit: int, keep_last: bool = False) -> tuple[int, ...]:
    """Return the shape with neighbouring axes merged, from the left, while they stay small.

    Args:
      shape: of an array; axes of length 1 are dropped.
      limit: the maximal length of a merged axis; axes that are longer stay as they are.
      keep_last: whether the last axis is merged with no other, so that a matrix stays one.

    Example:
      >>> merged_shape((3, 3, 64, 128), 1024), merged_shape((1, 512, 2048), 1024)
      ((576, 128), (512, 2048))
      >>> merged_shape((), 1024), merged_shape((32, 20), 1024)
      ((1,), (640,))
      >>> merged_shape((3, 3, 4, 8), 1024, keep_last=True)
      (36, 8)
    """
    merged: list[int] = []
    longer = [n for n in shape if n != 1]
    for i, n in enumerate(longer):
        apart = keep_last and i == len(longer) - 1
        if merged and not apart and merged[-1] * n <= limit:
            merged[-1] *= n
        else:
            merged.append(n)
    return tuple(merged) or (1,)


def first_axes(shape: tuple[int, ...], merged: tuple[int, ...]) -> list[int | None]:
    """Return for each axis of a merged shape the first axis of those that it was merged of.

    None stands for an axis of length 1 that was added.

    Example:
      >>> first_axes((3, 3, 64, 128), (576, 128)), first_axes((1, 4), (4,)), first_axes((), (1,))
      ([0, 3], [1], [None])
    """
    if shape == merged:
        return list(range(len(shape)))
    axes, found = iter([i for i, n in enumerate(shape) if n != 1]), []
    for size in merged:
        found.append(first := next(axes, None))
        done = 1 if first is None else shape[first]
        while done < size:
            done *= shape[next(axes)]
    return found


class Blocks(NamedTuple):
    """How an array is cut into blocks of equal shape.

    An axis whose length the number of blocks does not divide is padded with zeros, fewer than there
    are blocks. The zeros do not change the other entries of Gram matrices.

    Attributes:
      shape: of the whole array.
      grid: the number of blocks along each axis.
      block: the shape of one.
    """

    shape: tuple[int, ...]
    grid: tuple[int, ...]
    block: tuple[int, ...]

    def split(self, x: Array) -> Array:
        """Return the blocks of an array, (number of blocks, *block)."""
        fill = [(0, g * b - n) for n, g, b in zip(self.shape, self.grid, self.block, strict=True)]
        if any(after for _, after in fill):
            x = jnp.pad(x, fill)
        if math.prod(self.grid) == 1:
            return x[None]
        x = x.reshape([n for pair in zip(self.grid, self.block, strict=True) for n in pair])
        axes = range(len(self.shape))
        order = [2 * i for i in axes] + [2 * i + 1 for i in axes]
        return x.transpose(order).reshape(-1, *self.block)

    def join(self, blocks: Array) -> Array:
        """Return the array of its blocks: the inverse of `split`."""
        if math.prod(self.grid) == 1:
            x = blocks[0]
        else:
            n = len(self.shape)
            order = [k for i in range(n) for k in (i, n + i)]
            x = blocks.reshape(self.grid + self.block).transpose(order)
            x = x.reshape([g * b for g, b in zip(self.grid, self.block, strict=True)])
        return x[tuple(slice(n) for n in self.shape)] if x.shape != self.shape else x


def blocks_of(shape: tuple[int, ...], limit: int) -> Blocks:
    """Return how to cut an array into the fewest blocks of at most `limit` in each axis.

    All blocks of an array have one shape, so that one batched call processes them: 1500 is cut into
    750 + 750, not into 1024 + 476. This also costs less, as the work grows with the cube.

    Example:
      >>> blocks_of((1500, 512), 1024)
      Blocks(shape=(1500, 512), grid=(2, 1), block=(750, 512))
      >>> import jax.numpy as jnp
      >>> x = jnp.arange(10.0).reshape(5, 2)
      >>> cut = blocks_of(x.shape, 3)
      >>> cut.split(x).shape, bool((cut.join(cut.split(x)) == x).all())
      ((2, 3, 2), True)
    """
    grid = tuple(max(1, -(-n // limit)) for n in shape)
    return Blocks(shape, grid, tuple(-(-n // g) for n, g in zip(shape, grid, strict=True)))


def seen_shape(shape: tuple[int, ...], merge: int | None) -> tuple[int, ...]:
    """Return the shape in which a parameter is rotated: merged up to a length, or unchanged."""
    return shape if merge is None or len(shape) < 2 else merged_shape(shape, merge)


def rotated_axes(
    shape: tuple[int, ...], limit: int, one_sided: bool, precondition_1d: bool
) -> list[bool]:
    """Return for each axis whether it is rotated; see `soap`."""
    if 0 in shape or (len(shape) == 1 and not precondition_1d):
        return [False] * len(shape)
    rotated = [1 < n <= limit for n in shape]
    return only_shorter(shape, rotated) if one_sided else rotated


def only_shorter(shape: tuple[int, ...], chosen: list[bool]) -> list[bool]:
    """Return whether each axis is the shorter of the two longest, or the next that is chosen.

    In a convolution's kernel the shortest axes are those of its window, which say little; so do
    the axes of heads. Of equally long axes the first counts as shorter. A matrix of one column has
    none: the other side's factor has the rank of the number of steps only.

    Example:
      >>> only_shorter((3, 3, 64, 128), [True] * 4), only_shorter((8, 8), [True] * 2)
      ([False, False, True, False], [True, False])
      >>> only_shorter((5, 99), [True, False]), only_shorter((5, 1), [True, False])
      ([True, False], [False, False])
    """
    longest = sorted(range(len(shape)), key=lambda i: (-shape[i], -i))
    shorter = next((i for i in longest[1:] or longest if chosen[i]), None)
    return [i == shorter for i in range(len(shape))]
