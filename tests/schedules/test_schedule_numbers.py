"""Every number of every schedule is data: traced, vmapped, differentiated, carried by a state."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from schedule_cases import CASES, COUNTS, IDS, MAKERS, TRACES, as_arrays, fields, joined, values
from x64 import enable_x64

import gdjax

every_schedule = pytest.mark.parametrize("make", MAKERS, ids=IDS)


@every_schedule
def test_any_kind_of_count(make):
    expected = np.asarray(values(as_arrays(make())))
    assert expected.dtype == np.float32 and np.isfinite(expected).all()
    assert expected.shape == COUNTS.shape
    for i, kind in ((0, int), (7, jnp.int32), (7, float), (-1, int)):
        value = make()(kind(COUNTS[i]))
        assert value.dtype == jnp.float32 and value.shape == () and not value.weak_type
        np.testing.assert_allclose(value, expected[i], rtol=2e-6, atol=1e-9)


@every_schedule
def test_in_a_state(make):
    """There the numbers are float32 arrays."""
    state = gdjax.sgd(make()).init(jnp.ones(()))
    carried = state.hyperparams["learning_rate"]
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(carried))
    np.testing.assert_array_equal(values(carried), values(as_arrays(make())))


def test_the_first_update_uses_the_value_at_0():
    opt = gdjax.sgd(joined())
    state = opt.init(jnp.ones(()))
    for count in range(8):
        update, state = opt.update(jnp.ones(()), state)
        np.testing.assert_allclose(update, -joined()(count), rtol=1e-6)


@every_schedule
def test_vmap_over_each_number(make):
    """Lane i has another value of the number i; one program serves all lanes run singly."""
    leaves, treedef = jax.tree.flatten(make())
    lanes = np.tile(np.array(leaves, np.float32), (len(leaves), 1))
    np.fill_diagonal(lanes, np.diag(lanes) * 1.25 + 1e-3)
    batches = np.array_split(np.resize(lanes, (24, len(leaves))), 3)  # of one size for all cases
    values(as_arrays(make()))  # traced now, if it was not, or was forgotten, before
    traces = TRACES[treedef]
    assert traces >= 1
    for batch in batches[: 1 + len(leaves) // 8]:
        grid = jax.vmap(lambda s: s(COUNTS))(treedef.unflatten(list(jnp.array(batch.T))))
        for row, lane in zip(grid, batch):
            one = values(treedef.unflatten(list(jnp.array(lane))))
            np.testing.assert_allclose(row, one, rtol=3e-6, atol=1e-7)
    assert TRACES[treedef] == traces


@every_schedule
def test_derivatives_are_finite_everywhere(make):
    schedule = as_arrays(make())
    at_counts, pull_back = jax.vjp(lambda s: s(COUNTS), schedule)
    (derivatives,) = pull_back(jnp.ones_like(at_counts))
    for name, d in zip(fields(schedule), jax.tree.leaves(derivatives)):
        assert np.isfinite(d), f"{name}: {d}"


# Rounded to whole steps: the derivative ignores the rounding, a difference does not. And the length
# of a transition that is switched off has a jump at 0.
NOT_SMOOTH = {
    "linear_onecycle_schedule": {".transition_steps", ".pct_start", ".pct_final"},
    "cosine_onecycle_schedule": {".transition_steps", ".pct_start"},
}
OFF = {".transition_steps"}


@every_schedule
def test_derivatives_are_those_of_differences(make, request):
    case = request.node.callspec.id
    skipped = OFF if case.endswith("off") else NOT_SMOOTH.get(case.split("-")[0], set())
    between = np.array([0.37, 3.61, 5.43, 8.29, 12.57, 20.31, 33.3])  # no corner near
    with enable_x64():
        leaves, treedef = jax.tree.flatten(as_arrays(make()))

        def run(*numbers):
            return treedef.unflatten(numbers)(between)

        for i, name in enumerate(fields(make())):
            if name in skipped:
                continue
            basis = [jnp.float64(i == j) for j in range(len(leaves))]
            _, exact = jax.jvp(run, leaves, basis)
            up, down = (run(*(x + h * e for x, e in zip(leaves, basis))) for h in (1e-6, -1e-6))
            difference = (up - down) / 2e-6
            np.testing.assert_allclose(exact, difference, rtol=1e-6, atol=1e-8, err_msg=name)


def test_a_onecycle_peak_can_be_moved_by_its_derivative():
    def value(pct_start):
        return gdjax.linear_onecycle_schedule(100, 1.0, pct_start=pct_start)(10)

    np.testing.assert_allclose(jax.grad(value)(0.3), -0.96 * 10 / (0.3 * 0.3 * 100), rtol=1e-5)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_no_promotion_is_left_to_chance(case):
    with jax.numpy_dtype_promotion("strict"):
        value = jax.eval_shape(as_arrays(case.make()), jax.ShapeDtypeStruct((), jnp.int32))
        assert value.dtype == jnp.float32


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_factories_accept_traced_numbers(case):
    given = {k: v for k, v in case.kwargs.items() if type(v) in (int, float)}
    made = jax.eval_shape(lambda numbers: case.make(**numbers), given)
    assert jax.tree.structure(made) == jax.tree.structure(case.make())


def test_a_grid_of_peaks():
    peaks = jnp.array([0.1, 0.5, 2.0])
    grid = jax.vmap(lambda peak: gdjax.warmup_cosine_decay_schedule(0.0, peak, 10, 100))(peaks)
    for peak, row in zip(peaks, jax.vmap(values)(grid)):
        one = gdjax.warmup_cosine_decay_schedule(0.0, peak, 10, 100)
        np.testing.assert_allclose(row, values(as_arrays(one)), rtol=2e-6)


def test_a_grid_of_long_schedules():
    """The output of vmap holds arrays: an integer beyond int32 must not get that far."""
    grid = jax.vmap(lambda peak: gdjax.cosine_decay_schedule(peak, 2**40))(jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(grid.decay_steps, [2.0**40] * 2)


def test_the_numbers_of_a_schedule_in_adam_can_be_set():
    opt = gdjax.adam(gdjax.warmup_cosine_decay_schedule(0.1, 1.0, 10, 100), eps=0.0)
    state = opt.init(jnp.ones(()))
    updates, _ = opt.update(jnp.float32(3.0), state)
    np.testing.assert_allclose(updates, -0.1, rtol=1e-6)  # Adam's first step has length lr
    state = gdjax.with_hyperparams(state, **{"learning_rate.init_value": 0.4})
    np.testing.assert_allclose(opt.update(jnp.float32(3.0), state)[0], -0.4, rtol=1e-6)


def test_cycles_share_their_length_with_their_boundaries():
    cycle = dict(init_value=0.0, peak_value=1.0, warmup_steps=1, decay_steps=4)
    state = gdjax.sgd(gdjax.sgdr_schedule([cycle, cycle])).init(jnp.ones(()))
    name = "learning_rate.cycles.0.decay_steps"
    schedule = gdjax.with_hyperparams(state, **{name: 7}).hyperparams["learning_rate"]
    expected = gdjax.sgdr_schedule([cycle | {"decay_steps": 7}, cycle])
    np.testing.assert_allclose(values(schedule), values(as_arrays(expected)), atol=1e-7)


def test_each_group_cools_down_on_its_own():
    """As record 25 of modded-nanogpt: matrices over the whole run, the rest in its last 40 %."""

    def power_cooldown(t, start, floor, steps=20, q=1.5):
        left = min((steps - t) / (steps - start), 1)
        return floor + (1 - floor) * left**q

    def rate(peak, start, floor):
        phases = dict(warmup_steps=0, stable_steps=start, cooldown_steps=20 - start)
        shape = dict(end_value=peak * floor, cooldown="power", power=1.5)
        return gdjax.wsd_schedule(0.0, peak, **phases, **shape)

    rates = {r"w": rate(0.5, 0, 0.02), r".*": rate(0.1, 12, 0.04)}
    opt = gdjax.sgd(gdjax.by_path(rates))
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}

    def step(state, _):
        updates, state = opt.update(params, state)
        return state, {k: -x.ravel()[0] for k, x in updates.items()}

    _, used = jax.lax.scan(step, opt.init(params), length=16)
    expected = [0.5 * power_cooldown(t, 0, 0.02) for t in range(16)]
    np.testing.assert_allclose(used["w"], expected, rtol=2e-6)
    expected = [0.1 * power_cooldown(t, 12, 0.04) for t in range(16)]
    np.testing.assert_allclose(used["b"], expected, rtol=2e-6)
    state = gdjax.with_hyperparams(opt.init(params), **{"w.stable_steps": 15.0})
    assert gdjax.hyperparams(state)["learning_rate.w"] == np.float32(0.5)
