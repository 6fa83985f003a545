"""Shared by tests and doctests: print numbers as a reader would; close figures and programs."""

import itertools
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

MAPS = Path("/proc/self/maps")
MOST_MAPS = 40_000  # Linux allows a process 65530
_tests = itertools.count(1)


@pytest.fixture(autouse=True)
def _short_numbers():
    with np.printoptions(precision=4, suppress=True):
        yield


@pytest.fixture(autouse=True)
def _no_figures():
    """Close what a test drew: matplotlib warns of the 21st open figure."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture(autouse=True)
def _few_programs():
    """Drop the compiled programs when they hold many memory maps.

    Without this a long session dies ("node down" under pytest-xdist) after about a thousand tests.
    """
    yield
    if next(_tests) % 50 == 0 and (not MAPS.exists() or MAPS.read_bytes().count(b"\n") > MOST_MAPS):
        jax.clear_caches()
