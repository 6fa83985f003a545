"""Time two sides in one run, compare their outputs, and keep what came out as a row."""

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np


class Row(NamedTuple):
    """One comparison; times in seconds."""

    workload: str
    ours: float
    peer: str
    theirs: float
    target: float  # smallest ratio theirs / ours that is good enough

    @property
    def ratio(self):
        """How many times faster gdjax is."""
        return self.theirs / self.ours


def seconds(function: Callable) -> tuple[float, object]:
    """Return wall time and result of a call, up to the last array."""
    start = time.perf_counter()
    result = jax.block_until_ready(function())
    return time.perf_counter() - start, result


def interleaved(sides: dict[str, Callable], repeats: int) -> dict[str, float]:
    """Return the median time of each side, in turns A B A B, after one call each to warm up."""
    times = {name: [] for name in sides}
    for function in sides.values():
        function()
    for _ in range(repeats):
        for name, function in sides.items():
            times[name].append(seconds(function)[0])
    return {name: statistics.median(t) for name, t in times.items()}


def must_agree(a, b, rtol=1e-4, atol=1e-5):
    """Fail unless two trees are close: a fast wrong answer is no answer."""
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)
