"""Batches from a loader: read in a thread of their own while steps run, checked, with a position.

The thread calls only the loader and NumPy, never JAX, whose settings differ between threads: the
program that takes a step moves its batches to the device, while the step before it runs.
"""

from __future__ import annotations

import base64
import collections
import contextlib
import dataclasses
import json
import pickle
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding

from gdjax.core.checks import check_integer, leaf_name, strict
from gdjax.core.kinds import shown
from gdjax.core.numerics import scalar_dtype
from gdjax.core.types import PyTree, TreeDef
from gdjax.training.foreign import advice, as_arrays, check_fits, described, is_iterable
from gdjax.training.meshes import on_mesh, shape_of_rows

AHEAD = 2  # batches that are read ahead, if they are large
TOGETHER = 32  # most batches for one call of a program
TOGETHER_BYTES = 2**20  # most bytes of them; above that, calls take no noticeable time
MANY_SHAPES = 8  # each is a compilation
# What JAX has of them without x64.
WIDE = ("int64", "int32"), ("uint64", "uint32"), ("float64", "float32"), ("complex128", "complex64")
NARROWED: dict[Any, Any] = {np.dtype(wide): np.dtype(narrow) for wide, narrow in WIDE}


@dataclasses.dataclass(frozen=True)
class Batches:
    """An iterable of batches, and how to read it; see `batches`."""

    source: Iterable[PyTree]
    prefetch: int | None = None
    sharding: NamedSharding | None = None


@strict()
def batches(
    source: Iterable[PyTree],
    *,
    prefetch: int | None = None,
    sharding: NamedSharding | None = None,
) -> Batches:
    """Say that something is an iterable of batches, and how to read it.

    `fit` and `sweep` take loaders, iterators and lists of tuples or dicts as they are. This is for
    what they cannot tell apart, such as a list of arrays, and for loaders that must not be read in
    another thread.

    Args:
      source: anything that gives batches, trees of arrays: a loader, a list, an iterator.
      prefetch: batches that are read ahead, in a thread, while steps run. None is 2, or more of
        small ones: as many as 1 MiB holds, at most 32, which then are one call of the program.
        0 reads each batch when it is needed, in the thread of the caller, as a connection to SQLite
        requires or a loader that depends on a context of JAX, such as `jax.set_mesh`.
      sharding: how batches lie on a mesh, such as `NamedSharding(mesh, PartitionSpec("data"))`,
        which splits the examples of each array over the axis "data". Along an axis that the
        devices do not divide, as in a smaller last batch, an array is not split. With several
        processes each one gives its own part of a batch, whose size the devices must divide. None
        gives host arrays to all devices whole; arrays of JAX stay where they are.

    Returns:
      What to give as `data`. Memory: one copy of each batch that is read ahead, on the host, and
      up to three batches on the device.

    Raises:
      TypeError: for what is no iterable of batches, such as a table or a string, and for a sharding
        that is no `NamedSharding`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> def loss_fn(x, batch):
      ...     return jnp.mean((x - batch) ** 2)
      >>> data = gdjax.batches([jnp.ones(4), 3 * jnp.ones(4)])
      >>> print(gdjax.fit(loss_fn, jnp.zeros(()), gdjax.sgd(0.25), data, epochs=20).params.round(2))
      2.33
    """
    if prefetch is not None:
        check_integer("batches(prefetch=...)", prefetch, 0)
    if not (isinstance(source, (list, tuple)) or is_iterable(source)):
        raise TypeError(
            f"batches(source=...) must be an iterable of batches, got {described(source)}. "
            f"{advice(source)}".rstrip()
        )
    if sharding is not None and not isinstance(sharding, NamedSharding):
        raise TypeError(
            f"batches(sharding=...) must be a jax.sharding.NamedSharding, got {shown(sharding)}."
        )
    return Batches(source, prefetch, sharding)


def is_stream(data: PyTree) -> bool:
    """Return whether `data` is an iterable of batches, not a tree of arrays."""
    if isinstance(data, (Batches, Stream)) or type(data) is list:
        return True
    is_leaf = isinstance(data, Iterator) or jax.tree_util.all_leaves([data])
    return is_leaf and is_iterable(data)


def batches_per_epoch(data: Any) -> int | None:
    """Return how many batches a pass over an iterable has; None if it does not say."""
    source: Any = data.source if isinstance(data, Batches) else data
    try:
        return None if isinstance(source, Iterator) else len(source)
    except Exception:  # of a loader that does not know, such as one of an IterableDataset
        return None


class Place(NamedTuple):
    """Where a stream stands, after a batch."""

    epoch: int = 0  # passes that are complete
    read: int = 0  # batches of the pass after these
    state: str | None = None  # what the loader itself says about where it stands, see `_packed`


class Batch(NamedTuple):
    """A batch on the host, in arrays that nobody else writes to."""

    leaves: list[Any]
    treedef: TreeDef
    place: Place  # after it
    together: int  # batches of this kind for one call of a program

    @property
    def tree(self) -> PyTree:
        """The batch as a tree."""
        return self.treedef.unflatten(self.leaves)

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shapes of its leaves."""
        return tuple(x.shape for x in self.leaves)


class Stream:
    """The batches of a run.

    Attributes:
      caller: the function that errors name.
      what: its argument, for errors.
      source: what the user gave.
      prefetch: see `batches`.
      sharding: see `batches`.
      epochs: the passes after which it ends; None: no limit.
      one_shot: whether it is an iterator, which can be read only once.
      per_epoch: batches in a pass, None if the source does not say.
      ended: why it ended before its time, or an empty string.
      place: after the last batch whose step has been reported.
      places: step -> the place after its batch, in the last chunk; it begins with the one before.
    """

    def __init__(
        self, caller: str, data: Any, steps: int | None, epochs: int | None, name: str = "data"
    ):
        """Check what can be checked without reading a batch."""
        given = data if isinstance(data, Batches) else Batches(data)
        self.caller, self.what, self.ended = caller, f"{caller}({name}=...)", ""
        self.source, self.prefetch, self.sharding = given.source, given.prefetch, given.sharding
        self.one_shot = isinstance(self.source, Iterator)
        self.per_epoch = batches_per_epoch(self.source)
        self._like: Kinds | None = None
        if steps is not None:
            check_integer(f"{caller}(steps=...)", steps)
        if epochs is not None:
            check_integer(f"{caller}(epochs=...)", epochs)
        if self.per_epoch == 0:
            raise ValueError(f"{self.what} has no batch, its length is 0.")
        kind = _kind(self.source)
        if self.one_shot and epochs is not None:
            raise ValueError(
                f"{caller}(epochs=...): {kind} is an iterator, which can be read only once, so it "
                "has no epochs. Give steps, or neither to read it to its end; or give what can be "
                "read again: a loader, a list of batches, an object whose __iter__ begins anew."
            )
        if not self.one_shot and (steps is None) == (epochs is None):
            raise ValueError(
                f"{caller} needs exactly one of steps=... and epochs=..., got {steps} and "
                f"{epochs}: {kind} can be read again and again."
            )
        if isinstance(data, list):
            _check_list(self.what, data)
        self.places: dict[int, Place] = {}  # after the steps of the last chunk
        self.epochs = epochs
        self.place = Place()
        self._last = epochs or 0, 0

    @property
    def total(self) -> int | None:
        """The steps of all epochs, if the source says how many batches it has."""
        return self.epochs and self.per_epoch and self.epochs * self.per_epoch

    @property
    def position(self) -> str:
        """Where the stream stands, as JSON: after the last batch whose step has been reported.

        Batches that were read ahead do not count.
        """
        return json.dumps(self.place)

    def position_after(self, step: int) -> str:
        """Return where the stream stood after a step of the last chunk, or at its end."""
        return json.dumps(self.places.get(step, self.place))

    def go_to(self, position: str, further: bool = False) -> None:
        """Go to a position that a stream of this source, or of a copy of it, had.

        A source with `state_dict` and `load_state_dict`, or whose iterator has `get_state` and
        `set_state`, is told to. Any other one that can be read again is read anew and its first
        batches are left out, at the cost of loading these; an iterator is left as it is.

        Args:
          position: see `position`.
          further: whether `epochs` are counted from there, not from the beginning.
        """
        self.place = Place(*json.loads(position))
        if further:
            self._last = self.place.epoch + (self.epochs or 0), self.place.read

    def on_devices(self, batches: PyTree, stacked: bool = False) -> PyTree:
        """Return a batch, or several that are stacked, as a program takes it: on the mesh."""
        if (sharding := self.sharding) is None:
            return batches
        return jax.tree.map(lambda x: on_mesh(x, sharding, stacked), batches)

    @contextlib.contextmanager
    def reading(self, done: int, stop: int | None) -> Iterator[Reading]:
        """Read from the position on, in a thread that ends with this context.

        Args:
          done: the steps before.
          stop: the step at which to end; None: no limit.
        """
        self.ended = ""
        if self.one_shot and self.place == Place():
            self.place = Place(state=_packed(_getter(self.source, self.source)()))
        items = self._batches(done, stop, narrow=scalar_dtype() == np.float32)
        if self.prefetch == 0:
            yield Reading(self, items)
            return
        ahead = ReadingAhead(self, items)
        ahead.thread.start()
        try:
            yield ahead
        finally:
            ahead.close()

    def _batches(self, done: int, stop: int | None, narrow: bool) -> Iterator[Batch]:
        """Give one batch after the other; `narrow` is whether JAX has only 32 bits."""
        start, (epoch, read, state), iterator = done, self.place, self.iterator()
        goal = None if state is None else self.per_epoch  # of the pass that is continued
        where = _getter(self.source, iterator)
        while done != stop and (self.epochs is None or (epoch, read) < self._last):
            try:
                batch = next(iterator)
            except StopIteration:
                if self.one_shot or not read:
                    self.ended = self._early_end(done, done - start, stop)
                    return
                epoch, read, iterator, goal = epoch + 1, 0, iter(self.source), None
                where = _getter(self.source, iterator)
                continue
            done, read = done + 1, read + 1
            if goal is not None and read > goal:
                raise ValueError(
                    f"{self.what}: the pass that continued at batch {self.place.read} gave more "
                    f"than the {goal} batches that its len() says. After load_state_dict, "
                    f"{_kind(self.source)} must continue within the pass, where state_dict was "
                    "called. Without these methods, the first batches of the pass are left out."
                )
            place = Place(epoch, read, _packed(where()))
            yield self._checked(batch, done - 1, place, narrow)

    def _early_end(self, done: int, given: int, stop: int | None) -> str:
        if not done:
            raise ValueError(f"{self.what}: the iterable gave no batch.")
        if self.one_shot:
            return f"the iterator ended after {given} batches" if stop is not None else ""
        return (
            f"{_kind(self.source)} gave no batch when it was read again, as if an iterator were "
            "behind it"
        )

    def iterator(self) -> Iterator[PyTree]:
        """Return the iterator of the source, at the position."""
        _, read, state = self.place
        if state is not None and _has(self.source, "state_dict", "load_state_dict"):
            self.source.load_state_dict(_unpacked(state))  # pyright: ignore[reportAttributeAccessIssue]
            return iter(self.source)
        iterator: Any = iter(self.source)
        if state is not None:
            names = [x for x in ("set_state", "load_state_dict") if _has(iterator, x)]
            if not names:
                raise TypeError(
                    f"{self.what}: the position to start from is that of a loader "
                    f"that can be told to go there, but {_kind(self.source)} has no "
                    "load_state_dict, and its iterator no set_state."
                )
            getattr(iterator, names[0])(_unpacked(state))
        elif not self.one_shot:
            for _ in range(read):
                next(iterator, None)
        return iterator

    def _checked(self, batch: PyTree, number: int, place: Place, narrow: bool) -> Batch:
        what = f"{self.what}: batch {number}"
        if isinstance(batch, Mapping) and jax.tree_util.all_leaves([batch]):
            batch = dict(batch)  # such as a BatchEncoding of Hugging Face
        leaves, treedef = as_arrays(what, batch)
        kinds = _kinds(what, batch, leaves, treedef)
        self._like = self._like or kinds
        _check_alike(what, self._like, kinds)
        for i, x in enumerate(leaves):
            if not isinstance(x, np.ndarray):  # it is on a device already
                continue
            if narrow:
                check_fits(what, batch, i, x)
            leaves[i] = np.array(x, NARROWED.get(x.dtype, x.dtype) if narrow else x.dtype)
        return Batch(leaves, treedef, place, self._together(leaves))

    def _together(self, leaves: list[Any]) -> int:
        """Return how many batches of this kind one call of a program takes."""
        if self.prefetch == 0 or not all(isinstance(x, np.ndarray) for x in leaves):
            return 1
        most = min(TOGETHER, self.prefetch or TOGETHER)
        return max(1, min(most, TOGETHER_BYTES // max(1, sum(x.nbytes for x in leaves))))


def first_batch(stream: Stream) -> PyTree:
    """Return the shapes of a stream's first batch; the stream stays where it is."""
    source: Any = stream.source
    before = _packed(source.state_dict()) if _has(source, "state_dict", "load_state_dict") else None
    try:
        return _shapes_of_first(stream)
    finally:
        if before is not None:
            source.load_state_dict(_unpacked(before))


def _shapes_of_first(stream: Stream) -> PyTree:
    with stream.reading(0, 1) as reading:
        if stream.one_shot and stream.place.state is None:
            raise ValueError(
                f"{stream.caller}(directory=...): {_kind(stream.source)} is an iterator without "
                "get_state and set_state, so no run can go on with it. Give a loader or a list of "
                "batches, which can be read again."
            )
        reading.allow(1)
        (batch,) = reading.take(1)
        return jax.tree.map(shape_of_rows, stream.on_devices(batch.tree))


class Reading:
    """The batches of one call, read when they are needed."""

    def __init__(self, stream: Stream, items: Iterator[Batch]):
        self.stream, self.items = stream, items
        self._shapes: set[Any] = set()

    def allow(self, count: int) -> None:
        """Let this many more batches be read, at least."""

    def take(self, most: int) -> list[Batch]:
        """Return at most this many batches of equal shapes; none at the end."""
        taken = self._next(most)
        shapes = taken[0].shapes if taken else ()
        if taken and shapes not in self._shapes:
            self._shapes.add(shapes)
            if len(self._shapes) == MANY_SHAPES:
                warnings.warn(
                    f"{self.stream.what}: the batches have had {MANY_SHAPES} different "
                    "shapes so far, and the program is compiled for each. Pad them to a few sizes.",
                    stacklevel=2,
                )
        return taken

    def _next(self, most: int) -> list[Batch]:
        return [batch for batch in [next(self.items, None)] if batch is not None]


class ReadingAhead(Reading):
    """The batches of one call, read in a thread.

    An iterator that cannot be told to go back is not read beyond what `allow` says: a callback may
    end the run, and its user may go on reading.
    """

    def __init__(self, stream: Stream, items: Iterator[Batch]):
        super().__init__(stream, items)
        self.thread = threading.Thread(target=self._fill, name="gdjax-batches", daemon=True)
        self._ahead: collections.deque[Batch | BaseException | None] = collections.deque()
        self._change = threading.Condition()
        self._closed = False
        self._read = stream.place  # after the last batch that was read
        self._limited = stream.one_shot and stream.place.state is None
        self._allowed = 0
        self._most = stream.prefetch or AHEAD

    def allow(self, count: int) -> None:
        """Let this many more batches be read, at least."""
        with self._change:
            self._allowed += count
            self._change.notify_all()

    def close(self) -> None:
        """End the thread, after the batch that it is reading, and go back to the position."""
        with self._change:
            self._closed = True
            self._change.notify_all()
        self.thread.join()
        stream = self.stream
        if stream.one_shot and not self._limited and self._read != stream.place:
            stream.iterator()

    def _next(self, most: int) -> list[Batch]:
        with self._change:
            while not self._ahead:
                self._change.wait()
            first = self._ahead[0]
            if isinstance(first, BaseException):
                raise first
            taken: list[Batch] = []
            while first is not None and self._ahead and len(taken) < min(most, first.together):
                other = self._ahead[0]
                if not isinstance(other, Batch) or other.shapes != first.shapes:
                    break
                taken.append(other)
                self._ahead.popleft()
            self._change.notify_all()
            return taken

    def _fill(self) -> None:
        try:
            while self._may_read():
                batch = next(self.items, None)
                self._put(batch)
                if batch is None:
                    return
        except BaseException as error:  # raised again where the batches are taken
            self._put(error)

    def _may_read(self) -> bool:
        def waits():
            return len(self._ahead) >= self._most or self._limited and not self._allowed

        with self._change:
            while not self._closed and waits():
                self._change.wait()
            self._allowed -= 1
            return not self._closed

    def _put(self, item: Batch | BaseException | None) -> None:
        with self._change:
            if isinstance(item, Batch):
                self._read = item.place
                self._most = self.stream.prefetch or max(AHEAD, item.together)
            self._ahead.append(item)
            self._change.notify_all()


def stacked(taken: list[Batch]) -> PyTree:
    """Return batches for one call, (together, ...) each; what is after the last is undefined."""
    first = taken[0]
    leaves = []
    for i, x in enumerate(first.leaves):
        rows = np.empty((first.together, *x.shape), x.dtype)
        for j, batch in enumerate(taken):
            rows[j] = batch.leaves[i]
        leaves.append(rows)
    return first.treedef.unflatten(leaves)


# --- what batches must have in common -------------------------------------------------------------


class Kinds(NamedTuple):
    """What all batches of a stream have in common."""

    treedef: TreeDef
    dtypes: list[np.dtype]
    ndims: list[int]


def _kinds(what: str, batch: PyTree, leaves: list[Any], treedef: TreeDef) -> Kinds:
    if not leaves:
        raise ValueError(f"{what} has no arrays in it, got {shown(batch)}.")
    if all(x.ndim and not len(x) for x in leaves):
        raise ValueError(f"{what} has no examples: every axis 0 has length 0.")
    dtypes: list[Any] = [NARROWED.get(x.dtype, x.dtype) for x in leaves]
    return Kinds(treedef, dtypes, [x.ndim for x in leaves])


def _check_alike(what: str, first: Kinds, other: Kinds) -> None:
    if other.treedef != first.treedef:
        raise ValueError(
            f"{what} has another structure than the first one, {other.treedef} instead of "
            f"{first.treedef}."
        )
    for i in range(len(first.dtypes)):
        if other.dtypes[i] != first.dtypes[i] or other.ndims[i] != first.ndims[i]:
            name = leaf_name(first.treedef.unflatten(first.ndims), i)
            raise ValueError(
                f"{what} is {other.dtypes[i]} with {other.ndims[i]} axes at {name!r}, and the "
                f"first one is {first.dtypes[i]} with {first.ndims[i]}. All batches must agree in "
                "these; only lengths of axes may differ."
            )


def _check_list(what: str, data: list[PyTree]) -> None:
    """Raise unless a list is batches, all alike, and nothing else."""
    for number, batch in enumerate(data):
        if jax.tree_util.all_leaves([batch]) and not isinstance(batch, Mapping):
            raise TypeError(
                f"{what} is a list of arrays, which may mean two things, got "
                f"{type(batch).__name__} at {number}. For arrays with the examples along axis 0 "
                "give a tuple, (x, y); for a list in which each array is a batch, "
                "gdjax.batches(data)."
            )
    first = None
    for number, batch in enumerate(data):
        one = f"{what}: batch {number}"
        batch = dict(batch) if isinstance(batch, Mapping) else batch
        kinds = _kinds(one, batch, *as_arrays(one, batch))
        first = first or kinds
        _check_alike(one, first, kinds)


# --- what loaders have ----------------------------------------------------------------------------


def _getter(source: Any, iterator: Any) -> Callable[[], Any]:
    """Return the function that says where a loader stands; its result is None if none does."""
    for place, get, set_ in (
        (source, "state_dict", "load_state_dict"),  # torchdata
        (iterator, "get_state", "set_state"),  # Grain
        (iterator, "state_dict", "load_state_dict"),
    ):
        if _has(place, get, set_):
            return getattr(place, get)
    return lambda: None


def _packed(state: Any) -> str | None:
    """Return a loader's state as text: JSON if that keeps it, as for Grain, else a pickle."""
    if state is None:
        return None
    if isinstance(state, bytes):
        return "bytes:" + base64.b64encode(state).decode()
    with contextlib.suppress(TypeError, ValueError):
        text = json.dumps(state)
        if json.loads(text) == state:
            return "json:" + text
    return "pickle:" + base64.b64encode(pickle.dumps(state)).decode()


def _unpacked(text: str) -> Any:
    form, _, rest = text.partition(":")
    if form == "json":
        return json.loads(rest)
    state = base64.b64decode(rest)
    return state if form == "bytes" else pickle.loads(state)


def _has(x: object, *names: str) -> bool:
    return all(callable(getattr(x, name, None)) for name in names)


def _kind(source: object) -> str:
    return f"a {type(source).__name__}"
