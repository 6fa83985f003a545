"""Schedules that optax lacks, against their formulas in plain Python floats."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from x64 import enable_x64

import gdjax


def rex(t):  # Chen, Wolfe & Kyrillidis (2021): 0.3 -> 0.05 in 11 steps from 4 on
    z = min(max(t - 4, 0) / 11, 1)
    return 0.05 + 0.25 * (1 - z) / (0.5 + 0.5 * (1 - z))


def one_minus_sqrt(t):
    return 0.05 + 0.25 * (1 - math.sqrt(min(max(t - 4, 0) / 11, 1)))


def wsd(shape):
    def value(t):  # 5 up, 7 level, 9 down
        if t < 5:
            return 0.01 + (0.7 - 0.01) * t / 5
        if t < 12:
            return 0.7
        z = min((t - 12) / 9, 1)
        left = {
            "linear": 1 - z,
            "one_minus_sqrt": 1 - math.sqrt(z),
            "cosine": (1 + math.cos(math.pi * z)) / 2,
            "power": (1 - z) ** 1.5,
        }[shape]
        return 0.02 + (0.7 - 0.02) * left

    return value


def warmup_polynomial(power):
    def value(t):
        if t < 5:
            return 0.01 + (0.7 - 0.01) * t / 5
        return 0.02 + (0.7 - 0.02) * (1 - min((t - 5) / (23 - 5), 1)) ** power

    return value


def vaswani(t):
    width, warmup = 512, 4
    return width**-0.5 * min(t**-0.5 if t else math.inf, t * warmup**-1.5)


def zhai(t):
    if t < 5:
        return 0.01 + (0.7 - 0.01) * t / 5
    return 0.7 / math.sqrt((t - 5 + 13) / 13)


def smith(scale):
    def value(t):  # 3 up, 5 down
        cycle, now = divmod(t, 8)
        height = now / 3 if now < 3 else (8 - now) / 5
        return 0.1 + 0.8 * height * scale(cycle, t)

    return value


LINE = dict(init_value=0.3, end_value=0.05, transition_steps=11, transition_begin=4)
WARMUP = dict(init_value=0.01, peak_value=0.7, warmup_steps=5)
TOTAL = dict(**WARMUP, decay_steps=23, end_value=0.02)
WSD = dict(**WARMUP, stable_steps=7, cooldown_steps=9, end_value=0.02)
CYCLE = dict(init_value=0.1, peak_value=0.9, up_steps=3, down_steps=5)
PAIRS = {
    "rex": (rex, lambda: gdjax.rex_schedule(**LINE)),
    "one_minus_sqrt": (one_minus_sqrt, lambda: gdjax.one_minus_sqrt_schedule(**LINE)),
    "wsd-linear": (wsd("linear"), lambda: gdjax.wsd_schedule(**WSD)),
    "wsd-sqrt": (
        wsd("one_minus_sqrt"),
        lambda: gdjax.wsd_schedule(**WSD, cooldown="one_minus_sqrt"),
    ),
    "wsd-cosine": (wsd("cosine"), lambda: gdjax.wsd_schedule(**WSD, cooldown="cosine")),
    "wsd-power": (wsd("power"), lambda: gdjax.wsd_schedule(**WSD, cooldown="power", power=1.5)),
    "warmup-linear": (warmup_polynomial(1), lambda: gdjax.warmup_linear_decay_schedule(**TOTAL)),
    "warmup-power": (
        warmup_polynomial(0.5),
        lambda: gdjax.warmup_polynomial_decay_schedule(**TOTAL, power=0.5),
    ),
    "vaswani": (vaswani, lambda: gdjax.inverse_sqrt_schedule(0.0, (512 * 4) ** -0.5, 4)),
    "zhai": (zhai, lambda: gdjax.inverse_sqrt_schedule(**WARMUP, timescale=13.0)),
    "no-warmup": (
        lambda t: 0.7 / math.sqrt(1 + t),
        lambda: gdjax.inverse_sqrt_schedule(0.01, 0.7, 0),
    ),
    "triangular": (smith(lambda cycle, t: 1), lambda: gdjax.cyclic_schedule(**CYCLE)),
    "triangular2": (
        smith(lambda cycle, t: 0.5**cycle),
        lambda: gdjax.cyclic_schedule(**CYCLE, mode="triangular2"),
    ),
    "exp_range": (
        smith(lambda cycle, t: 0.97**t),
        lambda: gdjax.cyclic_schedule(**CYCLE, mode="exp_range", gamma=0.97),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_follows_the_formula(name):
    formula, make = PAIRS[name]
    counts = [*range(40), 1000]
    with enable_x64():
        values = make()(jnp.array(counts, jnp.int32))
        assert values.dtype == jnp.float64
        np.testing.assert_allclose(values, [formula(t) for t in counts], rtol=1e-12, atol=1e-13)


def test_the_last_steps_of_a_long_decay_are_right_to_rounding():
    """In float32 `1 - count/steps` would have an error of 6 % one step before the end."""
    steps = 10**6
    last = jnp.array([steps - 1, steps - 10])
    np.testing.assert_allclose(
        gdjax.linear_schedule(1.0, 0.0, steps)(last), [1e-6, 1e-5], rtol=1e-6
    )
    np.testing.assert_allclose(
        gdjax.cosine_decay_schedule(1.0, steps)(last),
        [math.sin(math.pi / 2e6) ** 2, math.sin(math.pi / 2e5) ** 2],
        rtol=1e-6,
    )
    np.testing.assert_allclose(
        gdjax.linear_schedule(0.0, 1.0, steps)(jnp.array([1, 10])), [1e-6, 1e-5], rtol=1e-6
    )


@pytest.mark.parametrize("down", [None, 4])
def test_cyclic_without_down_steps_is_symmetric(down):
    counts = jnp.arange(20)
    expected = gdjax.cyclic_schedule(0.0, 1.0, 4, 4)(counts)
    np.testing.assert_array_equal(gdjax.cyclic_schedule(0.0, 1.0, 4, down)(counts), expected)
    longer = jax.tree.map(lambda x: x, gdjax.cyclic_schedule(0.0, 1.0, 4, down))
    assert len(jax.tree.leaves(longer)) == (3 if down is None else 4)
