"""What there is to run on: devices, threads, memory.

With several devices the lanes of a group are sharded over them. On a CPU that is one device, XLA
leaves cores idle on small arrays, so there groups run in a thread each.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


class Places(NamedTuple):
    """Devices of all hosts, or threads of one CPU."""

    sharding: Any  # of an array with lanes along axis 0, or None on a single device
    devices: int
    workers: int  # groups at a time

    def whole(self, lanes: int) -> int:
        """Return the least multiple of the devices that has room for so many lanes."""
        return -(-lanes // self.devices) * self.devices

    def share(self, lanes: int) -> int:
        """Return the lanes of a group if every worker gets one."""
        return self.whole(-(-lanes // self.workers))

    def in_threads(self, groups: int) -> bool:
        """Return whether so many groups run in threads of their own."""
        return self.workers > 1 and groups > 1

    def put(self, tree: Any) -> Any:
        """Return arrays, the same on every device."""
        if self.sharding is None:
            return tree
        return jax.device_put(tree, NamedSharding(self.sharding.mesh, PartitionSpec()))


def places() -> Places:
    """Return the devices of all hosts, or the threads of the one CPU."""
    devices = jax.devices()
    if len(devices) > 1:
        mesh = Mesh(np.array(devices), ("lanes",))
        return Places(NamedSharding(mesh, PartitionSpec("lanes")), len(devices), 1)
    return Places(None, 1, _cores() if devices[0].platform == "cpu" else 1)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# --- how many lanes fit ---------------------------------------------------------------------------


def lanes_that_fit(used: Callable[[int], int], lanes: int, limit: int) -> int:
    """Return how many lanes one program may have.

    Args:
      used: the bytes that the compiled program for so many lanes needs on a device.
      lanes: the most.
      limit: the bytes there are.

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


def memory_of(compiled: Any) -> int:
    """Return the bytes that a compiled program needs on each device while it runs, by XLA."""
    return _bytes_of(_Program(compiled.runtime_executable(), compiled))


@dataclasses.dataclass(frozen=True)
class _Program:
    executable: Any  # the same for the same program, while `compiled` is new each time
    compiled: Any = dataclasses.field(compare=False)


@functools.lru_cache(maxsize=8)  # XLA takes milliseconds to count
def _bytes_of(program: _Program) -> int:
    m = program.compiled.memory_analysis()
    if m is None:
        return 0
    return (
        m.argument_size_in_bytes
        + m.output_size_in_bytes
        - m.alias_size_in_bytes
        + m.temp_size_in_bytes
    )


def free_memory() -> int:
    """Return the bytes that lanes may use on each device."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return int(0.9 * (stats["bytes_limit"] - stats.get("bytes_in_use", 0)))
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 2**40  # unknown: no limit
    return free // 2 // len(jax.local_devices())
