"""What a run can use: devices, threads, memory.

With several devices the lanes of a group are sharded over them, or along one axis of a mesh whose
other axes are for the arrays of a lane. On a CPU that is one device, XLA leaves cores idle on small
arrays, so there each group runs in a thread of its own.
"""

from __future__ import annotations

import contextlib
import functools
import os
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.stages
import numpy as np
from jax.experimental.multihost_utils import process_allgather
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gdjax.core.checks import leaf_name
from gdjax.core.kinds import shown
from gdjax.core.types import PyTree, T
from gdjax.training.meshes import (
    NO_MESH,
    automatic,
    axes_of,
    context_mesh,
    described,
    placed,
    set_mesh,
)


class Devices(NamedTuple):
    """Devices of all hosts, or threads of one CPU."""

    sharding: NamedSharding | None  # of an array with lanes along axis 0; None: a single device
    count: int  # the lanes of a group are a multiple of it
    workers: int  # groups at a time
    lanes_axis: str | None = None  # of a mesh with other axes for the arrays of a lane

    def padded(self, lanes: int) -> int:
        """Return the least multiple of the number of devices that is >= `lanes`."""
        return -(-lanes // self.count) * self.count

    def share(self, lanes: int) -> int:
        """Return the lanes of a group if every worker gets one."""
        return self.padded(-(-lanes // self.workers))

    def in_threads(self, groups: int) -> bool:
        """Return whether this number of groups run in threads of their own."""
        return self.workers > 1 and groups > 1

    def replicate(self, tree: PyTree) -> PyTree:
        """Return arrays, the same on every device."""
        if self.sharding is None:
            return tree
        return jax.device_put(tree, NamedSharding(self.sharding.mesh, PartitionSpec()))

    def moved(self, what: str, tree: PyTree) -> PyTree:
        """Return a tree whose arrays on a mesh lie on that of the lanes, without the lanes' axis.

        Raises:
          ValueError: if they are on another mesh than that of the lanes, or split along its axis.
        """
        leaves, treedef = jax.tree.flatten(tree)
        return treedef.unflatten(
            x if (place := self._place(what, tree, i, x)) is None else jax.device_put(x, place)
            for i, x in enumerate(leaves)
        )

    def _place(self, what: str, tree: PyTree, i: int, x: Any) -> Any:
        sharding = placed(x)
        if sharding is None:
            return None
        if self.sharding is None:
            return jax.devices()[0]
        mesh, spec = self.sharding.mesh, PartitionSpec()
        if self.lanes_axis is not None:
            self.check_place(f"{what} at {leaf_name(tree, i)!r}", sharding)
            spec = sharding.spec
        return NamedSharding(mesh, spec)

    def check_place(self, what: str, sharding: NamedSharding) -> None:
        """Raise unless a sharding is along the axes for the arrays of a lane."""
        assert self.sharding is not None
        mesh = self.sharding.mesh
        if automatic(sharding.mesh) != mesh:
            raise ValueError(
                f"{what} is on the mesh {described(sharding.mesh)}, and mesh=... is "
                f"{described(mesh)}. Put it on that mesh, or give it from the host."
            )
        if any(self.lanes_axis in axes_of(entry) for entry in sharding.spec):
            raise ValueError(
                f"{what} is split along lanes_axis={self.lanes_axis!r}, {sharding.spec}: that axis "
                "is for the lanes, which all see the same arrays. Split it along another axis."
            )

    def context(self) -> contextlib.AbstractContextManager[Any]:
        """Return what takes the place of `jax.set_mesh` while lanes are trained.

        It is their mesh, if the arrays of a lane lie along its other axes, else no mesh.
        """
        if self.lanes_axis is not None and self.sharding is not None:
            return set_mesh(self.sharding.mesh)
        if jax.sharding.get_abstract_mesh().empty:
            return contextlib.nullcontext()
        return set_mesh(NO_MESH)

    def run(self, tasks: Sequence[Callable[[], object]], here: CallingThread) -> None:
        """Run all tasks, some at the same time.

        If one raises, `here` is closed, which the others should look at, and the error is raised
        when those that run have ended.
        """
        if not self.in_threads(len(tasks)):
            for task in tasks:
                task()
            return
        with ThreadPoolExecutor(min(self.workers, len(tasks))) as pool:
            futures = [pool.submit(task) for task in tasks]
            try:
                here.wait(futures)
            except BaseException:
                here.close()
                pool.shutdown(cancel_futures=True)
                raise


class CallingThread:
    """The thread that made this: while it waits for others, it runs functions for them.

    Functions of the user may depend on their thread: JAX's settings, databases, plots; and on the
    mesh of `jax.set_mesh` where the thread was then.
    """

    def __init__(self) -> None:
        self._mesh = context_mesh()
        self._thread, self._lock = threading.get_ident(), threading.Lock()
        self._asked: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self.closed = False

    def run(self, function: Callable[[], T]) -> T:
        """Return what a function gives, called in that thread."""
        if self._mesh is not None:
            function = functools.partial(_within, self._mesh, function)
        if threading.get_ident() == self._thread:
            return function()
        answer: Future[T] = Future()

        def call() -> None:
            if self.closed:
                answer.cancel()
                return
            try:
                answer.set_result(function())
            except BaseException as error:
                answer.set_exception(error)

        with self._lock:
            if self.closed:
                raise CancelledError
            self._asked.put(call)
        return answer.result()

    def wait(self, futures: Sequence[Future]) -> None:
        """Run what is asked for until all futures are done, or raise the first error of one."""
        for future in futures:
            future.add_done_callback(lambda _: self._asked.put(None))
        left = [*futures]
        while left:
            if (call := self._asked.get()) is not None:
                call()
            for future in [future for future in left if future.done()]:
                future.result()
                left.remove(future)

    def close(self) -> None:
        """Run no more functions: those who ask get a `CancelledError`."""
        with self._lock:
            self.closed = True
        while not self._asked.empty():
            if (call := self._asked.get()) is not None:
                call()


def _within(mesh: Mesh, function: Callable[[], T]) -> T:
    with set_mesh(mesh):
        return function()


def devices_of(caller: str, mesh: Mesh | None, lanes_axis: str | None) -> Devices | None:
    """Return the devices of a mesh with an axis for lanes; None without a mesh.

    The axes are automatic for the lanes' programs, whatever they are in the mesh.
    """
    if mesh is None:
        if lanes_axis is not None:
            raise ValueError(
                f"{caller}(lanes_axis={lanes_axis!r}) needs mesh=..., the mesh that has this axis, "
                "such as jax.make_mesh((4, 2), ('lanes', 'model'))."
            )
        return None
    if not isinstance(mesh, Mesh):
        raise TypeError(f"{caller}(mesh=...) must be a jax.sharding.Mesh, got {shown(mesh)}.")
    if lanes_axis is None or lanes_axis not in mesh.axis_names:
        raise ValueError(
            f"{caller}(lanes_axis=...) must be the axis of the mesh that lanes lie along, one of "
            f"{', '.join(map(repr, mesh.axis_names))}, got {lanes_axis!r}."
        )
    sharding = NamedSharding(automatic(mesh), PartitionSpec(lanes_axis))
    return Devices(sharding, mesh.shape[lanes_axis], 1, lanes_axis)


def all_devices() -> Devices:
    """Return the devices of all hosts, or the threads of the one CPU."""
    devices = jax.devices()
    if len(devices) > 1:
        mesh = Mesh(np.array(devices), ("lanes",))
        return Devices(NamedSharding(mesh, PartitionSpec("lanes")), len(devices), 1)
    return Devices(None, 1, _cores() if devices[0].platform == "cpu" else 1)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# --- memory ---------------------------------------------------------------------------------------


def lanes_that_fit(used: Callable[[int], int], lanes: int, limit: int) -> int:
    """Return how many lanes one program may have.

    Args:
      used: the bytes that the compiled program for a number of lanes needs on a device.
      lanes: the largest number of lanes.
      limit: the available bytes.

    Example:
      >>> lanes_that_fit(lambda lanes: 1000 + 10 * lanes, 4096, limit=5000)
      390
    """
    while lanes > 1:
        bytes_used = used(lanes)
        if bytes_used <= limit:
            break
        lanes = max(1, min(lanes - 1, int(0.95 * lanes * limit / bytes_used)))
    return lanes


def memory_of(compiled: jax.stages.Compiled) -> int:
    """Return the bytes that a compiled program needs on each device while it runs, by XLA."""
    m = compiled.memory_analysis()
    if m is None:
        return 0
    return (
        m.argument_size_in_bytes
        + m.output_size_in_bytes
        - m.alias_size_in_bytes
        + m.temp_size_in_bytes
    )


def free_memory() -> int:
    """Return the bytes that lanes may use on each device: the least of all hosts."""
    free = _free_here()
    if jax.process_count() == 1:
        return free
    halves = np.array(divmod(free, 2**30), np.int32)  # x64 may be disabled
    return min(int(high) << 30 | int(low) for high, low in process_allgather(halves))


def _free_here() -> int:
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return int(0.9 * (stats["bytes_limit"] - stats.get("bytes_in_use", 0)))
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 2**40  # unknown: no limit
    return free // 2 // len(jax.local_devices())
