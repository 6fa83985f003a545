"""Time two sides in one run, compare their outputs, and collect the results as rows."""

import functools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Row(NamedTuple):
    """One comparison, in seconds or another `unit`. Each side is one number or all samples."""

    workload: str
    ours: float | Sequence[float]
    peer: str
    theirs: float | Sequence[float]
    target: float | None  # the smallest acceptable ratio theirs / ours, if there is one
    limit: float | None = None  # the smallest value possible on this machine
    unit: str = "s"

    @property
    def ratio(self):
        """How many times better gdjax is."""
        return median(self.theirs) / median(self.ours)

    @property
    def spread(self):
        """That of our samples."""
        return spread(self.ours)

    @property
    def peer_spread(self):
        """That of the peer's samples."""
        return spread(self.theirs)


def spread(samples: float | Sequence[float]) -> float | None:
    """Return half the interquartile range of samples, divided by their median; None of a few."""
    if isinstance(samples, float | int) or len(samples) < 4:
        return None
    low, _, high = statistics.quantiles(samples, n=4)
    return (high - low) / 2 / median(samples)


def median(samples: float | Sequence[float]) -> float:
    """Return the median of samples, or the number itself."""
    return samples if isinstance(samples, float | int) else statistics.median(samples)


def seconds(function: Callable) -> tuple[float, object]:
    """Return the wall time and the result of a call, including all asynchronous work."""
    start = time.perf_counter()
    result = jax.block_until_ready(function())
    return time.perf_counter() - start, result


def interleaved(sides: dict[str, Callable], repeats: int) -> dict[str, list[float]]:
    """Return the times of each side, called alternately (A B A B) after one warm-up call each.

    Calls shorter than 20 ms are repeated more often: for 20 ms times `repeats`, at most 20 times
    as often.
    """
    times = {name: [] for name in sides}
    for function in sides.values():
        jax.block_until_ready(function())
    slowest = max(seconds(function)[0] for function in sides.values())
    for _ in range(repeats * min(20, math.ceil(0.02 / slowest))):
        for name, function in sides.items():
            times[name].append(seconds(function)[0])
    return times


def must_agree(a, b, rtol=1e-4, atol=1e-5):
    """Fail unless two trees are close, so that wrong results are not timed."""
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)


# --- limits of the machine ------------------------------------------------------------------------


@functools.cache
def copy_bandwidth() -> float:
    """Return the bytes per second that in-place updates of 128 arrays of 4 MiB read and write."""
    copy = jax.jit(lambda arrays: [x + 1 for x in arrays], donate_argnums=0)
    arrays = [jnp.zeros(2**20, jnp.float32) for _ in range(128)]  # many arrays use all cores
    times = []
    for _ in range(12):
        start = time.perf_counter()
        arrays = jax.block_until_ready(copy(arrays))
        times.append(time.perf_counter() - start)
    return 2 * sum(x.nbytes for x in arrays) / statistics.median(times[2:])


@functools.cache
def matmul_rate(dtype: str = "float32", size: int = 2048) -> float:
    """Return the operations per second of a square matrix product."""
    a = jax.random.normal(jax.random.key(0), (size, size)).astype(dtype)
    product = jax.jit(jnp.matmul)
    times = [seconds(lambda: product(a, a))[0] for _ in range(8)]
    return 2 * size**3 / statistics.median(times[2:])
