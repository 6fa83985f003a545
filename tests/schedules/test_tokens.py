"""Decays and rates in tokens, and batch sizes that change, against sums in plain Python."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax

BATCHES = {4: 2.0, 9: 4.0}  # in steps of the optimizer: 1, then 2, then 8 parts in a batch


def parts(t):
    return 1 if t < 4 else 2 if t < 9 else 8


def test_a_half_life_is_the_time_in_which_half_is_forgotten():
    for per_step in (1, 64, 1000):
        decay = float(gdjax.half_life(1000.0, per_step)(0))
        np.testing.assert_allclose(decay ** (1000 / per_step), 0.5, rtol=1e-4)


@pytest.mark.parametrize("tokens", [1e4, 1e8, 1e12])
def test_one_minus_a_decay_has_all_its_digits(tokens):
    """In float32, 1 - 2**(-512/1e12) is 0."""
    exact = -math.expm1(-math.log(2) * 512 / tokens)
    opt = gdjax.adam(1.0, b2=gdjax.half_life(tokens, 512), eps=0.0)
    _, state = opt.update(jnp.full((), 3.0), opt.init(jnp.zeros(())))
    np.testing.assert_allclose(state.nu, 9 * exact, rtol=3e-7)
    rates = gdjax.by_path({r".*": gdjax.half_life(tokens, 512)})
    opt = gdjax.adam(1.0, b2=rates, eps=0.0)
    _, state = opt.update({"w": jnp.full((), 3.0)}, opt.init({"w": jnp.zeros(())}))
    np.testing.assert_allclose(state.nu["w"], 9 * exact, rtol=3e-7)


def test_a_changed_batch_size_changes_the_decay_without_a_compile():
    opt = gdjax.adam(1.0, b2=gdjax.half_life(1000.0, 10.0))
    step = jax.jit(opt.update)
    state = opt.init(jnp.zeros(()))
    _, state = step(jnp.ones(()), state)
    before, programs = float(state.nu), step._cache_size()
    state = gdjax.with_hyperparams(state, **{"b2.tokens_per_step": 250.0})
    _, state = step(jnp.zeros(()), state)
    np.testing.assert_allclose(state.nu, before * 2**-0.25, rtol=1e-6)
    assert step._cache_size() == programs


def test_lengths_in_tokens_are_lengths_in_steps_bit_for_bit():
    counts = jnp.arange(40)
    tokens = gdjax.in_tokens(gdjax.warmup_cosine_decay_schedule(0.0, 1.0, 64.0, 512.0), 16.0)
    steps = gdjax.warmup_cosine_decay_schedule(0.0, 1.0, 4.0, 32.0)
    np.testing.assert_array_equal(tokens(counts), steps(counts))


@pytest.mark.parametrize("factor", [None, 3.0])
def test_a_schedule_in_tokens_follows_the_tokens_seen(factor):
    per_step = gdjax.piecewise_constant_schedule(1.0, BATCHES)
    if factor is not None:
        per_step = gdjax.times(per_step, factor)
    schedule = gdjax.in_tokens(lambda tokens: tokens, per_step)
    seen = [sum(map(parts, range(t))) * (factor or 1) for t in range(14)]
    np.testing.assert_array_equal(schedule(jnp.arange(14)), seen)
    state = gdjax.sgd(schedule).init(jnp.zeros(()))
    np.testing.assert_array_equal(jax.jit(state.hyperparams["learning_rate"])(13), seen[13])


def test_a_constant_number_of_tokens_may_be_a_schedule():
    line = gdjax.linear_schedule(1.0, 0.0, 100.0)
    schedule = gdjax.in_tokens(line, gdjax.constant_schedule(25.0))
    np.testing.assert_allclose(schedule(jnp.arange(5)), [1, 0.75, 0.5, 0.25, 0])


def test_a_run_whose_batches_grow_is_the_run_with_batches_of_those_sizes():
    """`accumulate` of a schedule, with rate, decay and schedule in tokens, against plain Adam."""
    x = jnp.linspace(-1.0, 2.0, 57) ** 3  # 4 steps of 1, 5 of 2, 6 of 8 batches of one example
    k = gdjax.piecewise_constant_schedule(1, BATCHES)
    line = gdjax.in_tokens(gdjax.linear_schedule(0.3, 0.0, 80.0), k)
    rate = gdjax.scaled_by_batch_size(line, k, reference=1)
    opt = gdjax.accumulate(gdjax.adam(rate, b2=gdjax.half_life(20.0, k)), every_k=k)

    def micro(carry, x):
        w, state = carry
        updates, state = opt.update(w - x, state, w)
        return (w + updates, state), None

    (w, state), _ = jax.lax.scan(micro, (jnp.zeros(()), opt.init(jnp.zeros(()))), x[:53])
    assert int(state.slots.steps.count) == 4 + 5 + 4 and int(state.slots.mini_step) == 7

    expected, m, v, at = 0.0, 0.0, 0.0, 0
    for t in range(13):
        size = parts(t)
        g = np.mean(expected - np.asarray(x[at : at + size], np.float64))
        b2 = 2 ** (-size / 20)
        m, v = 0.9 * m + 0.1 * g, b2 * v + (1 - b2) * g * g
        eta = 0.3 * (1 - at / 80) * math.sqrt(size)
        m_hat, v_hat = m / (1 - 0.9 ** (t + 1)), v / (1 - b2 ** (t + 1))
        expected -= eta * m_hat / (math.sqrt(v_hat) + 1e-8)
        at += size
    np.testing.assert_allclose(w, expected, rtol=2e-5)


@pytest.mark.parametrize(
    "make, error, message",
    [
        (
            lambda: gdjax.half_life(0.0, 1.0),
            ValueError,
            r"half_life(tokens=...) must be finite and",
        ),
        (lambda: gdjax.half_life(1.0, -1.0), ValueError, "half_life(tokens_per_step=...) must be"),
        (
            lambda: gdjax.in_tokens(gdjax.constant_schedule(1.0), lambda t: t),
            TypeError,
            "in_tokens(tokens_per_step=...) must be a number or a piecewise_constant_schedule, "
            "maybe times a number, got a PlainFunction",
        ),
        (
            lambda: gdjax.scaled_by_batch_size(0.1, 1.0, 0.0),
            ValueError,
            "scaled_by_batch_size(reference=...) must be finite and > 0, got 0.0",
        ),
    ],
)
def test_bad_input_is_named(make, error, message):
    with pytest.raises(error, match=re.escape(message)):
        make()


@pytest.mark.parametrize("batch", [491520, 458752, 1289216, 1000, 3])
def test_jumps_are_at_their_step_whatever_the_tokens_of_a_step(batch):
    """Neither k batch nor 1 / batch need be a number of float32."""
    one, two = gdjax.constant_schedule(1.0), gdjax.constant_schedule(2.0)
    for k in (901, 933, 29122, 99999):
        for schedule in (
            gdjax.piecewise_constant_schedule(1.0, {k * batch: 2.0}),
            gdjax.join_schedules([one, two], [k * batch]),
            gdjax.exponential_decay(1.0, k * batch, 2.0, staircase=True),
        ):
            values = jax.jit(gdjax.in_tokens(schedule, batch))(k + jnp.arange(-1, 2))
            np.testing.assert_array_equal(values, [1, 2, 2], err_msg=str(k))
    count = jnp.arange(3001)
    np.testing.assert_array_equal(
        gdjax.in_tokens(gdjax.cosine_decay_schedule(1e-3, 3000 * batch), batch)(count),
        gdjax.cosine_decay_schedule(1e-3, 3000)(count),
    )
