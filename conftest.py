"""Shared by tests and doctests: print numbers as a reader would."""

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def _short_numbers():
    with np.printoptions(precision=4, suppress=True):
        yield
