"""Trees in files: whole or not there, damage is seen, and every leaf has a name of its own.

A file is NumPy's .npz, with arrays and one JSON text and no Python objects, followed by the SHA-256
of all that. It is written under another name, flushed to the disk, and then renamed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import socket
import threading
import warnings
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import DictKey, FlattenedIndexKey, GetAttrKey, SequenceKey

from gdjax.core.types import PyTree

try:
    import fcntl
except ImportError:  # not a Unix system
    fcntl = None

DIGEST = hashlib.sha256().digest_size
PART = ".part"  # ends the name of a file that is being written


class DamagedFile(ValueError):
    """A file that is not what was written, or was not written by gdjax."""


# --- names of leaves ------------------------------------------------------------------------------


def leaf_path(path: tuple[Any, ...]) -> str:
    """Return the path of a leaf as printable ASCII text that no other path has.

    Keys that are strings are joined by "/". In them "/", "~" and what is not printable become "~x"
    with the code and ";". Keys of another kind begin with "~" and a letter.

    Example:
      >>> tree = {"a": {"b": 1}, "a/b": 2, "c": [3]}
      >>> print([leaf_path(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)])
      ['a/b', 'a~x2f;b', 'c/~s0']
    """
    return "/".join(map(_key_text, path))


def _key_text(key: Any) -> str:
    match key:
        case DictKey(key=str(name)):
            return _escaped(name)
        case DictKey(key=int(number)) if not isinstance(number, bool):
            return f"~i{number}"
        case SequenceKey(idx=number) | FlattenedIndexKey(key=number):
            return f"~s{number}"
        case GetAttrKey(name=name):
            return f"~a{_escaped(name)}"
    # An address would be another one in the next process.
    return "~r" + _escaped(re.sub(r" at 0x[0-9a-f]+", "", repr(getattr(key, "key", key))))


def _escaped(text: str) -> str:
    return re.sub(r"[^ -.0-}]|\\", lambda found: f"~x{ord(found[0]):x};", text)


def _key_of(text: str) -> Any:
    """Return the key of a dict for what `_key_text` gave."""
    kind, rest = (text[1:2], text[2:]) if text.startswith("~") else ("", text)
    if kind in ("i", "s"):
        return int(rest)
    if kind == "x":
        rest = text
    return re.sub(r"~x([0-9a-f]+);", lambda found: chr(int(found[1], 16)), rest)


# --- trees and arrays with names ------------------------------------------------------------------


def as_arrays(tree: PyTree) -> dict[str, np.ndarray]:
    """Return path -> array; keys of random numbers as their data."""
    out: dict[str, np.ndarray] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        name = leaf_path(path)
        if name in out:
            raise ValueError(
                f"two leaves have the path {jax.tree_util.keystr(path)} as text, so a file cannot "
                "tell them apart. Use strings or integers as keys."
            )
        out[name] = np.asarray(leaf)
    return out


def from_arrays(arrays: Mapping[str, np.ndarray], like: PyTree, what: str = "") -> PyTree:
    """Return a tree like `like`, arrays or their shapes, from what `as_arrays` returned.

    Args:
      arrays: path -> array, with exactly the paths of `like`.
      like: the tree; shapes may have more axes in front in `arrays`.
      what: names it in errors.

    Raises:
      ValueError: if a leaf is missing, there are others, or a shape differs.
    """
    paths, treedef = jax.tree_util.tree_flatten_with_path(like)
    names = [leaf_path(path) for path, _ in paths]
    if set(names) != set(arrays):
        missing, more = sorted(set(names) - set(arrays)), sorted(set(arrays) - set(names))
        raise ValueError(
            f"{what} has another structure than the file: it has leaves {missing[:8]} that are not "
            f"in the file, and lacks {more[:8]}."
        )
    leaves = []
    for name, (_, leaf) in zip(names, paths, strict=True):
        array, shape = arrays[name], np.shape(leaf)
        dtype: Any = getattr(leaf, "dtype", None)
        is_key = jnp.issubdtype(dtype, jax.dtypes.prng_key)
        given = array.shape[:-1] if is_key else array.shape
        if given[len(given) - len(shape) :] != shape:
            raise ValueError(
                f"{what} has the shape {shape} at {name!r}, the file {array.shape}: its last axes "
                "must be the same."
            )
        if is_key:
            impls: list[Any] = []  # `key_impl` takes arrays, but not their shapes
            jax.eval_shape(lambda key: impls.append(jax.random.key_impl(key)), leaf)  # noqa: B023
            array = jax.random.wrap_key_data(jnp.asarray(array), impl=impls[0])
        leaves.append(array)
    return treedef.unflatten(leaves)


def packed(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """Return what JSON can hold of dicts, lists, numbers, texts, bytes and arrays.

    Arrays are put into `arrays`, which gets a name for each.
    """

    def put(kind: str, array: Any, *more: str) -> dict[str, list[str]]:
        name = f"array {len(arrays)}"
        arrays[name] = np.array(array)
        return {kind: [name, *more]}

    if isinstance(value, bytes):
        return put("~bytes", np.frombuffer(value, np.uint8))
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            return put("~key", jax.random.key_data(value), str(jax.random.key_impl(value)))
        return put("~array", value)
    if isinstance(value, Mapping):
        return {_key_text(DictKey(k)): packed(v, arrays) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [packed(v, arrays) for v in value]
    return value


def unpacked(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """Return what `packed` was given; tuples as lists."""
    match value:
        case {"~bytes": [name]}:
            return arrays[name].tobytes()
        case {"~array": [name]}:
            return arrays[name]
        case {"~key": [name, impl]}:
            return jax.random.wrap_key_data(jnp.asarray(arrays[name]), impl=impl)
        case dict():
            return {_key_of(k): unpacked(v, arrays) for k, v in value.items()}
        case list():
            return [unpacked(v, arrays) for v in value]
    return value


def part_of(arrays: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """Return what `as_arrays` would give for one entry of a dict; the leaf itself is ""."""
    start = _escaped(name)
    inside = {
        k.removeprefix(start + "/"): v for k, v in arrays.items() if k.startswith(start + "/")
    }
    return inside | ({"": arrays[start]} if start in arrays else {})


def nested(arrays: Mapping[str, np.ndarray]) -> dict[Any, Any]:
    """Return dicts of dicts from what `as_arrays` gave, without a tree as a model.

    Positions in lists and tuples are integer keys, attributes are strings.
    """
    out: dict[Any, Any] = {}
    for path, array in arrays.items():
        *parents, last = map(_key_of, path.split("/"))
        node: Any = out
        for key in parents:
            node = node.setdefault(key, {}) if isinstance(node, dict) else None
        if not isinstance(node, dict) or last in node:
            raise ValueError(
                f"{path!r} is the name of two leaves as keys of dicts. Give a tree with the "
                "structure of the one that was saved."
            )
        node[last] = array
    return out


# --- files ----------------------------------------------------------------------------------------


def write_record(path: Path, about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write a dict that JSON can hold, and arrays, completely or not at all.

    Dtypes that NumPy lacks, such as bfloat16, are kept as bytes with their name.
    """
    foreign, named = {}, {}
    for i, (name, array) in enumerate(arrays.items()):
        if array.dtype.hasobject:
            raise TypeError(f"{path}: {name!r} holds Python objects, which no file may.")
        if array.dtype.isbuiltin != 1 and array.dtype.kind != "U":
            foreign[name] = [array.dtype.name, list(array.shape)]
            array = np.frombuffer(array.tobytes(), np.uint8)
        named[f"{i} {name}"] = array  # no number is twice, whatever zip makes of the name
    text = json.dumps({"about": dict(about), "names": list(arrays), "foreign": foreign})

    def write(file):
        np.savez(file, **{"about": np.array(text)}, **named)
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").digest()
        file.seek(0, os.SEEK_END)
        file.write(digest)

    replace_file(path, write)


def read_record(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return what `write_record` wrote.

    Raises:
      DamagedFile: if a bit of it is not as it was written.
    """
    with open(path, "rb") as file:
        _check_digest(path, file)
        try:
            with np.load(file, allow_pickle=False) as members:
                head = json.loads(str(members["about"]))
                arrays = {k: members[f"{i} {k}"] for i, k in enumerate(head["names"])}
        except Exception as error:  # zipfile, json and NumPy raise a dozen kinds
            raise DamagedFile(
                f"{path} was not written by this version of gdjax: {error}"
            ) from error
    for name, (dtype, shape) in head["foreign"].items():
        arrays[name] = arrays[name].view(jnp.dtype(dtype)).reshape(shape)
    return head["about"], arrays


def _check_digest(path: Path, file: BinaryIO) -> None:
    left = os.fstat(file.fileno()).st_size - DIGEST
    digest = hashlib.sha256()
    while left > 0 and (block := file.read(min(left, 2**20))):
        digest.update(block)
        left -= len(block)
    if left < 0 or file.read(DIGEST) != digest.digest():
        raise DamagedFile(f"{path} is damaged or incomplete: its checksum is not that of its data.")
    file.seek(0)


def replace_file(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write to a temporary file of this call's own next to it, then rename that."""
    beside = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{PART}")
    try:
        with open(beside, "w+b") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except Exception:  # a killed process leaves it
        beside.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Put the new name on the disk too, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class Writer:
    """One thread that writes while training goes on.

    After an error nothing more is written, and the next `put` or `close` raises it.
    """

    def __init__(self, sources: int):
        """Allow as many writes at a time as sources run at a time, one for each source."""
        self._thread = ThreadPoolExecutor(1)
        self._room = threading.Semaphore(sources)
        self._last: dict[Hashable, Future] = {}
        self._error: BaseException | None = None
        self._failed = False

    def put(self, source: Hashable, write: Callable[[], object]) -> None:
        """Write soon, in the order of the calls; first wait for the source's last write."""
        self.wait(source)
        self._room.acquire()
        self._raise()
        self._last[source] = self._thread.submit(self._run, write)

    def wait(self, source: Hashable) -> None:
        """Wait until what a source gave is written."""
        if source in self._last:
            self._last[source].result()

    def close(self) -> None:
        """Wait until everything is written."""
        self._thread.shutdown()
        self._raise()

    def _run(self, write: Callable[[], object]) -> None:
        try:
            if not self._failed:
                write()
        except BaseException as error:  # also an exit, which would be lost in this thread
            self._error, self._failed = error, True
        finally:
            self._room.release()

    def _raise(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error


# --- one process at a time ------------------------------------------------------------------------


class FolderLock:
    """The right to write into a folder; the system takes it back when the process ends or dies."""

    def __init__(self, what: str, folder: Path):
        """Take it, or raise an error that says who has it; `what` names the folder there."""
        self._file = open(folder / "lock", "a+")  # noqa: SIM115
        try:
            if fcntl is not None:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            holder = self._file.read().strip() or "another process"
            self._file.close()
            raise RuntimeError(
                f"{what} is in use by {holder}. Wait until that has ended, or give another "
                "directory."
            ) from None
        except OSError as error:
            warnings.warn(
                f"{what}: this file system has no locks ({error}), so nothing stops a second "
                "process from writing there.",
                stacklevel=2,
            )
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {socket.gethostname()}")
        self._file.flush()

    def release(self) -> None:
        """Give it back."""
        self._file.close()
