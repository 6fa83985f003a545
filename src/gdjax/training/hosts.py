"""Arrays of which each host has only a part: their checksums, and their files, by Orbax."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gdjax.core.types import PyTree
from gdjax.training.progress import require


def is_spread(tree: PyTree) -> bool:
    """Return whether this host has only a part of an array."""
    return not all(getattr(x, "is_fully_addressable", True) for x in jax.tree.leaves(tree))


def sums_of(tree: PyTree) -> list[list[int]]:
    """Return two checksums of the bits of each array, which do not depend on where its parts are.

    One changed bit always changes the first one.
    """
    leaves = [_data(x) for x in jax.tree.leaves(tree)]
    if is_spread(leaves):
        sums = _sums_on_devices(leaves)
        return [[int(np.asarray(x.addressable_data(0))) for x in pair] for pair in sums]
    return [_sums_on_host(np.asarray(x).reshape(-1)) for x in leaves]


def _data(x: Any) -> Any:
    is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(x) if is_key else x


def _word(dtype: Any) -> int:
    """Return the bytes of the words that an array is taken as."""
    return min(4, np.dtype(dtype).itemsize)


def _sums_on_host(x: np.ndarray) -> list[int]:
    words, sums = x.view(f"u{_word(x.dtype)}"), np.zeros(2, np.uint32)
    for start in range(0, len(words), 2**20):
        block = words[start : start + 2**20].astype(np.uint32)
        places = np.arange(start, start + len(block), dtype=np.uint64).astype(np.uint32)
        sums += np.array(_sums(np, block, [places]))
    return sums.tolist()


@jax.jit
def _sums_on_devices(leaves: list[Array]) -> list[tuple[Array, Array]]:
    out = []
    for x in leaves:
        if jnp.iscomplexobj(x):
            x = jnp.stack([x.real, x.imag], -1)
        if x.dtype.kind == "b":
            x = x.astype(jnp.uint8)
        words = jax.lax.bitcast_convert_type(x, f"uint{8 * _word(x.dtype)}").astype(jnp.uint32)
        places = [jax.lax.broadcasted_iota(jnp.uint32, words.shape, i) for i in range(words.ndim)]
        out.append(_sums(jnp, words, places))
    return out


def _sums(xp: Any, words: Any, places: Sequence[Any]) -> tuple[Any, Any]:
    """Return sums modulo 2**32, in which a word has a factor that is odd and depends on its place.

    Args:
      xp: NumPy, or JAX's.
      words: uint32.
      places: for each axis, the indices of all words along it.
    """
    number, stride = xp.zeros_like(words), 1
    for size, place in zip(words.shape[::-1], places[::-1], strict=True):
        number = number + place * np.uint32(stride % 2**32)
        stride *= size
    first = xp.sum(words * (2 * number + np.uint32(1)), dtype=np.uint32)
    mixed = (words ^ number * np.uint32(0x9E3779B9)) * np.uint32(0x85EBCA6B)
    mixed = (mixed ^ mixed >> np.uint32(15)) * np.uint32(0xC2B2AE35)
    return first, xp.sum(mixed, dtype=np.uint32)


class SpreadFolders:
    """Folders with arrays that each host writes its part of, while it trains on."""

    def __init__(self, what: str):
        """Begin; `what` is what needs it, for errors."""
        checkpoint = require("orbax.checkpoint", "checkpoint", f"{what} with arrays on many hosts")
        self._checkpointer = checkpoint.StandardCheckpointer()

    def save(self, folder: Path, tree: PyTree) -> None:
        """Begin to write; all hosts must call this. The last folder is finished first."""
        leaves = {str(i): _data(x) for i, x in enumerate(jax.tree.leaves(tree))}
        self._checkpointer.save(folder.absolute(), leaves)

    def wait(self) -> None:
        """Wait until the last folder is complete, and has its name."""
        self._checkpointer.wait_until_finished()

    def load(self, folder: Path, like: PyTree) -> PyTree:
        """Return arrays with the shardings of `like`, or NumPy arrays where it has none."""
        leaves, treedef = jax.tree.flatten(like)
        data = {str(i): _data_shape(x) for i, x in enumerate(leaves)}
        found = self._checkpointer.restore(folder.absolute(), data)
        return treedef.unflatten([found[str(i)] for i in range(len(leaves))])

    def close(self) -> None:
        """Wait, and end."""
        self._checkpointer.close()


def _data_shape(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    data = jax.eval_shape(_data, x)
    return jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=x.sharding)
