"""The program that `make lint` checks by two type checkers does what it says."""

import sys
from pathlib import Path

import jax
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

import program  # noqa: E402

OPTIMIZERS = program.optimizers()


@pytest.fixture(autouse=True)
def settings_of_users():
    """Let ranks be promoted, as JAX does where tests/conftest.py has not changed it."""
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=range(len(OPTIMIZERS)))
def test_own_loop(optimizer):
    before = program.loss_fn(program.start(), program.examples())
    assert program.loss_fn(program.own_loop(optimizer), program.examples()) < before


def test_whole_runs():
    params, steps, seconds = program.trained()
    assert steps == 5 and seconds > 0 and set(params) == {"kernel", "bias"}
    assert program.swept().final_loss.shape == (4,)
    found, converged = program.minimized()
    assert converged
    np.testing.assert_allclose(found, 1.0, atol=1e-4)
