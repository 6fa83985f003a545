"""Ends, empty phases, very long runs, and input that is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from schedule_cases import CASES, INT32_MAX
from x64 import enable_x64

import gdjax


@pytest.mark.parametrize(
    "make",
    [
        gdjax.warmup_cosine_decay_schedule,
        gdjax.warmup_linear_decay_schedule,
        gdjax.warmup_polynomial_decay_schedule,
    ],
)
@pytest.mark.parametrize("warmup", [0, 1, 8])
def test_warmup_may_be_nothing_or_all(make, warmup):
    schedule = make(0.1, 0.9, warmup, 8, end_value=0.02)
    values = np.asarray(schedule(jnp.array([0, 8, 9, INT32_MAX])))
    np.testing.assert_allclose(values, [0.1 if warmup else 0.9, 0.02, 0.02, 0.02], rtol=1e-6)
    if warmup == 8:
        np.testing.assert_allclose(schedule(7), 0.1 + 0.8 * 7 / 8, rtol=1e-6)


def test_no_warmup_before_a_constant_is_the_peak():
    np.testing.assert_array_equal(gdjax.warmup_constant_schedule(0.0, 0.5, 0)(jnp.arange(2)), 0.5)


def test_a_peak_of_zero_still_reaches_the_end_value():
    schedule = gdjax.warmup_cosine_decay_schedule(0.1, 0.0, 2, 6, end_value=0.3)
    np.testing.assert_allclose(schedule(jnp.array([0, 2, 6])), [0.1, 0.0, 0.3], atol=1e-7)


@pytest.mark.parametrize(
    "kwargs, last",
    [
        (dict(stable_steps=0, cooldown_steps=0), 0.2),
        (dict(stable_steps=3, cooldown_steps=0), 0.2),
        (dict(stable_steps=0, cooldown_steps=3), 0.2),
    ],
)
def test_wsd_phases_may_be_empty(kwargs, last):
    schedule = gdjax.wsd_schedule(0.0, 1.0, 2, **kwargs, end_value=last)
    total = 2 + sum(kwargs.values())
    values = schedule(jnp.array([1, total, INT32_MAX]))
    np.testing.assert_allclose(values, [0.5, last, last], rtol=1e-6)
    if kwargs["stable_steps"]:
        np.testing.assert_array_equal(schedule(jnp.array([2.0, 3.0, 4.0, 4.5])), 1.0)


def test_linear_onecycle_ends_where_it_says():
    schedule = gdjax.linear_onecycle_schedule(100, 2.0, div_factor=20.0, final_div_factor=1e3)
    corners = schedule(jnp.array([0, 30, 85, 100, 1000]))
    np.testing.assert_allclose(corners, [0.1, 2.0, 0.1, 1e-4, 1e-4], rtol=1e-6)


def test_onecycle_whose_rise_is_less_than_a_step_starts_at_the_peak():
    schedule = gdjax.cosine_onecycle_schedule(3, 1.0, pct_start=0.198)
    values = np.asarray(schedule(jnp.arange(5)))
    np.testing.assert_allclose(values, [1.0, 0.7500010, 0.2500030, 4e-6, 4e-6], rtol=1e-5)


@pytest.mark.parametrize("steps", [2**31, 2**40, np.int64(2**40)])
def test_more_steps_than_an_int32_has(steps):
    share = INT32_MAX / steps
    cosine = gdjax.cosine_decay_schedule(1.0, steps)
    warm = gdjax.warmup_cosine_decay_schedule(0.0, 1.0, 10, steps)
    line = gdjax.linear_schedule(0.0, 1.0, steps)
    for schedule in (cosine, warm):
        expected = 0.5 * (1 + np.cos(np.pi * share))
        np.testing.assert_allclose(
            jax.jit(schedule)(jnp.int32(INT32_MAX)), expected, rtol=1e-5, atol=1e-12
        )
    np.testing.assert_allclose(line(INT32_MAX), share, rtol=1e-6)
    assert gdjax.sgd(cosine).init(jnp.ones(())).hyperparams["learning_rate"](0) == 1.0


def test_growth_stops_before_it_overflows():
    value, slope = jax.value_and_grad(
        lambda rate: gdjax.exponential_decay(1e3, 1, rate, end_value=5e3)(INT32_MAX)
    )(2.0)
    assert value == 5e3 and slope == 0.0
    assert np.isfinite(gdjax.exponential_decay(1e3, 1, 2.0)(INT32_MAX))


# --- joining -------------------------------------------------------------------------------------


def test_join_gives_functions_an_integer_for_an_integer():
    table = jnp.array([5.0, 6.0, 7.0, 8.0])
    schedule = gdjax.join_schedules([lambda n: table[n], lambda n: table[n]], [3])
    expected = [5.0, 6.0, 7.0, 5.0, 6.0]
    np.testing.assert_array_equal([schedule(i) for i in range(5)], expected)
    state = gdjax.sgd(schedule).init(jnp.ones(()))  # the boundary is a float32 in there
    carried = jax.jit(jax.vmap(state.hyperparams["learning_rate"]))
    np.testing.assert_array_equal(carried(jnp.arange(5)), expected)


def test_join_never_evaluates_a_part_before_its_begin():
    root = gdjax.join_schedules([lambda n: 1.0, lambda n: jnp.sqrt(1.0 * n)], [4])
    slope = jax.grad(lambda begin: gdjax.join_schedules(root.schedules, [begin])(2.0))(4.0)
    np.testing.assert_array_equal([root(2), root(8)], [1.0, 2.0])
    assert slope == 0.0 or np.isfinite(slope)


def test_join_keeps_the_numbers_of_a_callable_pytree():
    @gdjax.schedule
    class Scaled:
        factor: float

        def __call__(self, count):
            return self.factor * count

    schedule = gdjax.join_schedules([Scaled(2.0), gdjax.constant_schedule(1.0)], [5])
    assert jax.tree.leaves(schedule) == [2.0, 1.0, 5.0]
    assert jax.grad(lambda s: s(3))(schedule).schedules[0].function.factor == 3.0


def test_join_nests():
    low, high = gdjax.constant_schedule(1.0), gdjax.linear_schedule(2.0, 4.0, 2)
    nested = gdjax.join_schedules([low, gdjax.join_schedules([high, low], [2])], [3])
    np.testing.assert_array_equal(nested(jnp.arange(7)), [1, 1, 1, 2, 3, 1, 1])


@pytest.mark.parametrize("method", ["jit", "vmap"])
def test_join_in_a_transformation_takes_traced_boundaries(method):
    def value(begin):
        parts = [gdjax.constant_schedule(1.0), gdjax.constant_schedule(2.0)]
        return gdjax.join_schedules(parts, [begin])(5)

    if method == "jit":
        assert jax.jit(value)(5) == 2.0 and jax.jit(value)(6) == 1.0
    else:
        np.testing.assert_array_equal(jax.vmap(value)(jnp.array([4, 5, 6])), [2.0, 2.0, 1.0])


# --- bad input -----------------------------------------------------------------------------------

ONE = gdjax.constant_schedule(1.0)
BAD = [
    (lambda: gdjax.constant_schedule(np.nan), r"constant_schedule\(value=...\) must be finite"),
    (lambda: gdjax.linear_schedule(1.0, 0.0, -1), r"linear_schedule\(transition_steps=...\).*-1"),
    (lambda: gdjax.linear_schedule(1.0, 0.0, 5, -2), r"transition_begin=...\) must be.*>= 0"),
    (lambda: gdjax.linear_schedule(1.0, 0.0, np.inf), r"transition_steps=...\) must be finite"),
    (lambda: gdjax.polynomial_schedule(1.0, 0.0, -1, 5), r"polynomial_schedule\(power=...\)"),
    (lambda: gdjax.cosine_decay_schedule(1.0, 0), r"decay_steps=...\) must be finite and > 0"),
    (lambda: gdjax.exponential_decay(1.0, 5, 0.0), r"decay_rate=...\) must be finite and > 0"),
    (
        lambda: gdjax.warmup_cosine_decay_schedule(0.0, 1.0, 11, 10),
        r"warmup_cosine_decay_schedule\(decay_steps=...\) must be >= warmup_steps=11, got 10.",
    ),
    (
        lambda: gdjax.warmup_linear_decay_schedule(0.0, 1.0, 11, 10),
        r"warmup_linear_decay_schedule\(decay_steps=...\) must be >= warmup_steps=11, got 10",
    ),
    (
        lambda: gdjax.warmup_polynomial_decay_schedule(0.0, 1.0, 11, 10),
        r"warmup_polynomial_decay_schedule\(decay_steps=...\) must be >= warmup_steps=11, got 10",
    ),
    (
        lambda: gdjax.linear_onecycle_schedule(10, 1.0, pct_start=0.9),
        r"pct_final=...\) must be >= pct_start=0.9, got 0.85",
    ),
    (lambda: gdjax.linear_onecycle_schedule(0, 1.0), r"transition_steps=...\) must be"),
    (lambda: gdjax.cosine_onecycle_schedule(10, 1.0, 30.0), r"pct_start=...\) must be in \[0, 1\]"),
    (lambda: gdjax.wsd_schedule(0.0, 1.0, 1, 1, 1, cooldown="sqrt"), r"one of 'linear', .*'sqrt'"),
    (lambda: gdjax.wsd_schedule(0.0, 1.0, 1, 1, 1, cooldown="power"), r"must be given.*got None"),
    (lambda: gdjax.wsd_schedule(0.0, 1.0, 1, 1, 1, power=2.0), r"for no other, got 2.0"),
    (lambda: gdjax.inverse_sqrt_schedule(0.0, 1.0, 5, 0.0), r"timescale=...\) must be finite and"),
    (lambda: gdjax.cyclic_schedule(0.0, 1.0, 0), r"up_steps=...\) must be finite and > 0"),
    (lambda: gdjax.cyclic_schedule(0.0, 1.0, 2, mode="sine"), r"must be one of 'triangular'"),
    (lambda: gdjax.cyclic_schedule(0.0, 1.0, 2, gamma=0.9), r"for no other, got 0.9"),
    (lambda: gdjax.cyclic_schedule(0.0, 1.0, 2, mode="exp_range"), r"must be given.*got None"),
    (
        lambda: gdjax.cyclic_schedule(0.0, 1.0, 2, mode="exp_range", gamma=1.1),
        r"gamma=...\) must be in \(0, 1\], got 1.1",
    ),
    (lambda: gdjax.piecewise_constant_schedule(1.0, {3: -0.5}), r"the scale at 3 must be.*-0.5"),
    (lambda: gdjax.piecewise_constant_schedule(1.0, {-3: 0.5}), r"the boundary -3 must be"),
    (lambda: gdjax.piecewise_interpolate_schedule("step", 1.0), r"'linear', 'cosine', got 'step'"),
    (lambda: gdjax.join_schedules([ONE, ONE], []), r"one entry less than schedules, got 0 for 2"),
    (lambda: gdjax.join_schedules([], []), r"got 0 for 0 schedules"),
    (lambda: gdjax.join_schedules([ONE] * 3, [5, 4]), r"boundaries\[1\]=...\) must be >= .*got 4"),
    (lambda: gdjax.join_schedules([ONE] * 2, [-1]), r"boundaries=...\) must be finite and >= 0"),
    (lambda: gdjax.sgdr_schedule([]), r"at least one cycle"),
]


@pytest.mark.parametrize("make, message", BAD)
def test_bad_numbers_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


WRONG = [
    (lambda: gdjax.linear_schedule("a", 0.0, 5), r"init_value=...\) must be one number, got 'a'"),
    (lambda: gdjax.linear_schedule(None, 0.0, 5), r"init_value=...\) must be one number, got None"),
    (lambda: gdjax.linear_schedule(ONE, 0.0, 5), "use join_schedules"),
    (
        lambda: gdjax.join_schedules([ONE, 0.1], [5]),
        r"schedules=...\) must be .* function of the count, as constant_schedule.*0.1\]",
    ),
    (
        lambda: gdjax.piecewise_constant_schedule(1.0, [(3, 0.5)]),
        r"boundaries_and_scales=...\) must be a dict",
    ),
]


@pytest.mark.parametrize("make, message", WRONG)
def test_wrong_kinds_are_named(make, message):
    with pytest.raises(TypeError, match=message):
        make()


UNIT = 2**22  # float32 has it, and its multiples
STEPS = {
    "transition_steps",
    "transition_begin",
    "decay_steps",
    "warmup_steps",
    "stable_steps",
    "cooldown_steps",
    "up_steps",
    "down_steps",
    "timescale",
}
LONG = sorted(
    {0, 1, 2**24 - 1, 2**24, 2**24 + 1, 10**9, INT32_MAX - 1, INT32_MAX}
    | {k * UNIT + d for k in range(1, 40) for d in (-3, -1, 0, 1, 3)}
)


def stretched(kwargs):
    """Return the arguments of a schedule whose steps are `UNIT` times as long."""
    out = {}
    for name, value in kwargs.items():
        if name in STEPS and value is not None:
            value = value * UNIT
        elif name == "boundaries_and_scales":
            value = {at * UNIT: scale for at, scale in value.items()}
        elif name == "cosine_kwargs":
            value = [stretched(cycle) for cycle in value]
        out[name] = value
    return out


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_long_schedules_agree_with_float64_at_every_count(case):
    schedule = getattr(gdjax, case.factory)(**stretched(case.kwargs))
    stored = gdjax.sgd(schedule).init(jnp.ones(())).hyperparams["learning_rate"]
    values = np.asarray(jax.jit(lambda s, n: s(n))(stored, jnp.array(LONG, jnp.int32)), float)
    with enable_x64():
        exact = np.asarray(schedule(jnp.array(LONG, jnp.float64)))
    scale = np.maximum(np.abs(exact), 1e-3 * np.abs(exact).max())
    assert np.max(np.abs(values - exact) / scale) < 1e-5


@pytest.mark.parametrize("count", [int, float, np.int64, jnp.int32])
def test_steps_past_2_24_are_taken_at_their_count(count):
    begin = 2**24 + 4  # float32 takes the count before it for it
    halved = gdjax.piecewise_constant_schedule(1.0, {begin: 0.5})
    joined = gdjax.join_schedules(
        [gdjax.constant_schedule(7.0), gdjax.cyclic_schedule(0.0, 3.0, 3)], [begin]
    )
    if count is not float:
        assert float(halved(count(begin - 1))) == 1 and float(joined(count(begin - 1))) == 7
    assert float(halved(count(begin))) == 0.5 and float(joined(count(begin))) == 0
    if count is not float:
        at = [float(joined(count(10**9 + i))) for i in range(6)]
        first = (10**9 - begin) % 6
        cycle = [0, 1, 2, 3, 2, 1]
        np.testing.assert_allclose(at, [cycle[(first + i) % 6] for i in range(6)], rtol=1e-6)
    assert float(halved(2**40)) == 0.5 and float(joined(0)) == 7


def test_a_boundary_of_a_periodic_part_keeps_its_derivative():
    def value(begin, count):
        parts = [gdjax.constant_schedule(0.0), gdjax.cyclic_schedule(0.0, 1.0, 4)]
        return gdjax.join_schedules(parts, [begin])(count)

    for count in (jnp.int32(12), jnp.float32(12)):
        np.testing.assert_allclose(jax.grad(value)(10.0, count), -0.25)
        np.testing.assert_allclose(value(10.5, count), 0.375, rtol=1e-6)
