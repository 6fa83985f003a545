"""Schedules that optax has too give its values."""

import fractions
import math

import jax
import numpy as np
import optax
import pytest
from schedule_cases import CASES, COUNTS, as_arrays, joined, values

import gdjax
from gdjax.compat import optax as compat

SHARED = [case for case in CASES if case.shared]


@pytest.mark.parametrize(
    "make", [c.make for c in SHARED] + [joined], ids=[c.name for c in SHARED] + ["join_schedules"]
)
def test_equal_to_optax(make):
    theirs = jax.vmap(make(optax))(COUNTS)  # not compiled: its fractional powers are NaN then
    np.testing.assert_allclose(values(as_arrays(make())), theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["linear_onecycle_schedule", "cosine_onecycle_schedule"])
@pytest.mark.parametrize("pct_start", [0.0, 0.3])
def test_onecycle_of_any_length(name, pct_start):
    """The corners are whole steps, also where float32 puts the product below one."""
    counts = np.arange(0, 120, 3)
    lengths = [3, 10, 47, 100, 110]
    make = getattr(gdjax, name)
    for n in lengths:
        theirs = jax.vmap(getattr(optax, name)(n, 0.9, pct_start=pct_start))(counts)
        ours = make(n, 0.9, pct_start=pct_start)(counts)
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=1e-6)


def test_onecycle_corners_are_those_of_exact_arithmetic():
    pairs = [(p, n) for p in (1, 13, 29, 30, 39, 53, 85) for n in (1, 10, 99, 100, 5000, 10_000)]
    percents, lengths = np.array(pairs).T
    peaks = [math.floor(fractions.Fraction(p, 100) * n) for p, n in pairs]
    at_peak = jax.vmap(lambda n, share, t: gdjax.cosine_onecycle_schedule(n, 1.0, share)(t))
    shares = np.array([p / 100 for p in percents.tolist()], np.float32)
    at_peaks = at_peak(lengths.astype(np.float32), shares, np.array(peaks))
    np.testing.assert_allclose(at_peaks, 1.0, atol=1e-6)


def test_wrapped_schedule_counts_like_optax():
    ours = compat.WrappedSchedule(gdjax.linear_schedule(1.0, 0.0, 3))
    theirs = optax.schedules.WrappedSchedule(optax.linear_schedule(1.0, 0.0, 3))
    state, other = ours.init(), theirs.init()
    for _ in range(5):
        np.testing.assert_allclose(ours(state), theirs(other), atol=1e-7)
        state, other = ours.update(state, value=1.0), theirs.update(other, value=1.0)
    last = state._replace(count=COUNTS[-1])
    assert ours.update(last).count == COUNTS[-1]
