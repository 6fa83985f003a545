"""Arrays of other libraries: which are taken as they are, and what to do with the others."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Any

import jax
import numpy as np

from gdjax.core.checks import leaf_name
from gdjax.core.hyper import path_name
from gdjax.core.kinds import is_array, shown
from gdjax.core.types import PyTree

LIMITS = {"i": np.iinfo(np.int32), "u": np.iinfo(np.uint32)}  # what JAX holds without x64


def is_iterable(x: object) -> bool:
    """Return whether a leaf may be an iterable of batches: no array, text, table or set."""
    if isinstance(x, (str, bytes, range, Set, Mapping)) or _is_table(x) or _has_rows(x):
        return False
    return isinstance(x, Iterable) and not hasattr(x, "dtype")


def as_arrays(what: str, tree: PyTree) -> tuple[list[Any], Any]:
    """Return the leaves of a tree as arrays of NumPy or JAX, and its structure.

    Arrays of other libraries are taken if they have a `dtype` and can be read exactly: tensors of
    PyTorch and TensorFlow, Series of pandas, arrays of xarray and h5py. They may share memory.

    Args:
      what: the tree, for errors.
      tree: arrays or numbers at the leaves.

    Raises:
      TypeError: for any other leaf, with what to do.
    """
    leaves, treedef = jax.tree.flatten(tree, is_leaf=is_iterator)
    return [_as_array(what, tree, i, x) for i, x in enumerate(leaves)], treedef


def _as_array(what: str, tree: PyTree, i: int, x: Any) -> Any:
    if type(x) is np.ndarray and x.dtype.kind in "biufc" or isinstance(x, jax.Array):
        return x
    problem, array = "", x
    if not is_array(x) and hasattr(x, "dtype") and not _is_table(x):
        try:
            array = np.asarray(x)
        except Exception as error:  # of the other library, such as a tensor that needs a gradient
            problem = f": {error}".rstrip(".")
    if is_array(array):
        return np.asarray(array)
    paths = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_iterator)[0]
    name = "" if x is tree else f" at {path_name(paths[i][0])!r}"
    raise TypeError(
        f"{what} must have arrays of numbers at its leaves, got {described(x)}{name}{problem}. "
        f"{advice(x)}".rstrip()
    )


def check_fits(what: str, tree: PyTree, i: int, x: np.ndarray) -> None:
    """Raise if integers of an array would be cut off to the 32 bits that JAX has without x64.

    Args:
      what: the tree, for errors.
      tree: where the array is a leaf.
      i: which leaf it is.
      x: the leaf, as an array of NumPy.
    """
    limits = LIMITS.get(x.dtype.kind)
    if limits is None or x.dtype.itemsize < 8 or not x.size:
        return
    if not (limits.min <= x.min() and x.max() <= limits.max):
        raise ValueError(
            f"{what} has integers of more than 32 bits at {leaf_name(tree, i)!r}, which JAX would "
            'cut off. Use smaller ones, or jax.config.update("jax_enable_x64", True).'
        )


def described(x: Any) -> str:
    """Return what a value is, in a few words."""
    module = type(x).__module__.partition(".")[0]
    kind = type(x).__qualname__ if module == "builtins" else f"{module}.{type(x).__qualname__}"
    if hasattr(x, "dtype") and not _is_table(x):
        return f"{kind} of dtype {x.dtype}"
    return shown(x) if isinstance(x, (str, bytes, int, float)) or callable(x) else kind


def advice(x: Any) -> str:
    """Return what to do with a value that is neither an array nor an iterable of batches."""
    if inspect.isgeneratorfunction(x):
        return f"It is a function: call it, {getattr(x, '__name__', 'data')}()."
    if _is_table(x):
        return (
            "Give its numbers, as x.to_numpy(np.float32) for a table x, or a dict of its columns, "
            "{name: x[name].to_numpy() for name in names}."
        )
    if _has_rows(x):
        return (
            "It gives single examples. Read it into arrays, x.with_format('numpy')[:], or give a "
            "loader of batches, such as torch.utils.data.DataLoader(x, batch_size=...)."
        )
    if isinstance(x, Mapping):
        return "Give a dict of arrays: {name: np.asarray(x[name]) for name in x}."
    if isinstance(x, Set):
        return "A set has no order: give a list of batches."
    if isinstance(x, range):
        return "Give np.arange(...) for its numbers."
    if isinstance(x, (bool, int, float, complex)):
        return "Make one array of the numbers, np.asarray(...)."
    if is_iterable(x):
        return "An iterable of batches must be the whole of data; to read several, zip them."
    if hasattr(x, "dtype"):
        return "Convert it to NumPy first."
    if hasattr(x, "__getitem__") and hasattr(x, "__len__"):
        return (
            "If it is a data set of examples, give a loader of batches, such as "
            "torch.utils.data.DataLoader(x, batch_size=...)."
        )
    return ""


def is_iterator(x: Any) -> bool:
    """Return whether this is an iterator, which JAX takes for a leaf of a tree with a warning."""
    return isinstance(x, Iterator)


def _is_table(x: Any) -> bool:
    """Return whether this is a DataFrame of pandas, polars or the like."""
    return hasattr(x, "to_numpy") and hasattr(x, "columns")


def _has_rows(x: Any) -> bool:
    """Return whether this is a data set of Hugging Face, which iterates over single examples."""
    return hasattr(x, "with_format") and hasattr(x, "__getitem__")
