"""Shared by tests and doctests: print numbers as a reader would; give back compiled programs."""

import itertools

import jax
import numpy as np
import pytest

_tests = itertools.count(1)


@pytest.fixture(autouse=True)
def _short_numbers():
    with np.printoptions(precision=4, suppress=True):
        yield


@pytest.fixture(autouse=True)
def _few_programs():
    """Drop compiled programs now and then.

    Each holds memory maps, of which Linux allows a process 65530: a long session without this dies
    ("node down" under pytest-xdist) after about a thousand tests.
    """
    yield
    if next(_tests) % 100 == 0:
        jax.clear_caches()
