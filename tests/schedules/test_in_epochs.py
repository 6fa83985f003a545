"""Schedules whose lengths are in epochs."""

import dataclasses
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from schedule_cases import CASES

import gdjax

N = 7  # steps in an epoch
COUNTS = jnp.arange(40 * N)
LENGTHS = {
    *("decay_steps", "warmup_steps", "transition_steps", "transition_begin", "stable_steps"),
    *("cooldown_steps", "timescale", "up_steps", "down_steps", "flat_start"),
}
PARAMS = {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}


def in_steps(kwargs, n=N):
    """Return the arguments with all lengths multiplied, as a user without `in_epochs` does."""

    def longer(name, value):
        if name == "boundaries_and_scales":
            return {n * k: v for k, v in value.items()}
        if name == "cosine_kwargs":
            return [in_steps(one, n) for one in value]
        if isinstance(value, gdjax.Schedule):  # a part
            lengths = jax.tree.map(lambda x: n * x, {k: getattr(value, k) for k in value.lengths})
            return dataclasses.replace(value, **lengths)
        return n * value if name in LENGTHS and value is not None else value

    return {k: longer(k, v) for k, v in kwargs.items()}


STEPS = [case for case in CASES if case.factory != "in_tokens"]


@pytest.mark.parametrize("wrong", [gdjax.in_epochs, gdjax.in_tokens])
@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: gdjax.times(s, 0.5)])
def test_a_schedule_has_lengths_in_one_unit(wrong, wrap):
    line = gdjax.linear_schedule(1.0, 0.0, 10)
    for unit, inside in (
        ("epochs", gdjax.in_epochs(line, 5)),
        ("tokens", gdjax.in_tokens(line, 5)),
    ):
        with pytest.raises(
            TypeError, match=rf"{wrong.__name__}\(schedule=...\).*in {unit} already"
        ):
            wrong(wrap(inside), 5)


@pytest.mark.parametrize("case", STEPS, ids=lambda case: case.name)
def test_every_schedule_is_the_one_in_steps_bit_for_bit(case):
    epochs = gdjax.in_epochs(case.make(), N)
    steps = getattr(gdjax, case.factory)(**in_steps(case.kwargs))
    both = jax.tree.map(jnp.asarray, (epochs, steps))
    np.testing.assert_array_equal(*jax.jit(lambda a, b: (a(COUNTS), b(COUNTS)))(*both))


def test_every_schedule_says_which_of_its_fields_are_lengths():
    for case in CASES:
        made = case.make()
        names = {f.name for f in dataclasses.fields(made)}
        assert made.lengths is not None and set(made.lengths) <= names
        likely = {x for x in names if x.endswith(("_steps", "_begin")) or x == "boundaries"}
        assert likely <= set(made.lengths), case.name
    prob = gdjax.in_epochs(gdjax.precond_update_prob_schedule(flat_start=5), 100)
    same = gdjax.precond_update_prob_schedule(flat_start=500)
    np.testing.assert_array_equal(prob(jnp.arange(900)), same(jnp.arange(900)))


def test_fractions_of_epochs_and_large_counts():
    rate = gdjax.in_epochs(gdjax.warmup_constant_schedule(0.0, 1.0, 0.5), 8)
    np.testing.assert_array_equal(rate(jnp.arange(6)), [0.0, 0.25, 0.5, 0.75, 1.0, 1.0])
    jump = gdjax.piecewise_constant_schedule(1.0, {4: 0.5})
    near = 2**26 + jnp.arange(-1, 2)  # beyond the integers of float32
    np.testing.assert_array_equal(gdjax.in_epochs(jump, 2**24)(near), [1.0, 0.5, 0.5])
    end = gdjax.in_epochs(gdjax.linear_schedule(1.0, 0.0, 10), 100_000)
    np.testing.assert_allclose(end(999_999), 1e-6, rtol=1e-6)


def test_functions_are_called_with_epochs():
    half = gdjax.in_epochs(lambda epoch: 0.5**epoch, 4)
    np.testing.assert_allclose(half(jnp.arange(9)), 0.5 ** (np.arange(9) / 4), rtol=1e-6)
    foreign = gdjax.in_epochs(optax.cosine_decay_schedule(1.0, 3), 4)
    np.testing.assert_allclose(
        foreign(jnp.arange(14)), gdjax.cosine_decay_schedule(1.0, 12)(jnp.arange(14)), atol=1e-6
    )

    @gdjax.schedule
    class Line(gdjax.Schedule):
        slope: float

        def __call__(self, count):
            return self.slope * count

    np.testing.assert_allclose(gdjax.in_epochs(Line(2.0), 4)(jnp.arange(3)), [0.0, 0.5, 1.0])

    @gdjax.schedule
    class Until(gdjax.Schedule):
        lengths = ("last",)
        last: float

        def __call__(self, count):
            return jnp.where(count < self.last, 1.0, 0.0)

    np.testing.assert_array_equal(gdjax.in_epochs(Until(2), 2)(jnp.arange(5)), [1, 1, 1, 1, 0])


def test_a_staircase_changes_where_an_epoch_begins():
    rates = jnp.array([1.0, 0.3, 0.1])
    table = gdjax.in_epochs(lambda epoch: rates[epoch], 3, staircase=True)
    np.testing.assert_array_equal(table(jnp.arange(7)), rates[jnp.array([0, 0, 0, 1, 1, 1, 2])])
    line = gdjax.in_epochs(gdjax.linear_schedule(1.0, 0.0, 4), 2, staircase=True)
    np.testing.assert_array_equal(line(jnp.arange(6)), [1.0, 1.0, 0.75, 0.75, 0.5, 0.5])


def test_joined_schedules_inside_and_outside():
    up, down = gdjax.linear_schedule(0.0, 1.0, 2), gdjax.cosine_decay_schedule(1.0, 8)
    inside = gdjax.in_epochs(gdjax.join_schedules([up, down, lambda e: 0.1 * e], [2, 10]), N)
    plain = gdjax.join_schedules(
        [
            gdjax.linear_schedule(0.0, 1.0, 2 * N),
            gdjax.cosine_decay_schedule(1.0, 8 * N),
            lambda t: jnp.float32(0.1) * (t / jnp.float32(N)),
        ],
        [2 * N, 10 * N],
    )
    np.testing.assert_array_equal(inside(COUNTS), plain(COUNTS))
    outside = gdjax.join_schedules([up, gdjax.in_epochs(down, N)], [2])
    plain = gdjax.join_schedules([up, gdjax.cosine_decay_schedule(1.0, 8 * N)], [2])
    np.testing.assert_array_equal(outside(COUNTS), plain(COUNTS))


def test_it_is_an_error_not_to_know_the_steps():
    rate = gdjax.in_epochs(gdjax.linear_schedule(1.0, 0.0, 2))
    optimizer = gdjax.adam(rate)
    state = optimizer.init(PARAMS)
    for use in (
        lambda: rate(3),
        lambda: optimizer.update(PARAMS, state, PARAMS),
        lambda: jax.jit(optimizer.update)(PARAMS, state, PARAMS),
        lambda: gdjax.hyperparams(state),
        lambda: gdjax.hyperparams_in_use(state),
    ):
        with pytest.raises(ValueError, match="steps in an epoch is not known. fit and sweep take"):
            use()
    for n in (0, -1.0, float("nan"), True):
        with pytest.raises((ValueError, TypeError), match="steps_per_epoch"):
            gdjax.with_steps_per_epoch(state, n)
        with pytest.raises((ValueError, TypeError), match="steps_per_epoch"):
            gdjax.in_epochs(lambda epoch: epoch, n)
    with pytest.raises(TypeError, match="or has a part that is, in epochs already"):
        gdjax.in_epochs(gdjax.join_schedules([rate, rate], [3]))
    with pytest.raises(TypeError, match=r"in_epochs\(schedule=...\) must be"):
        gdjax.in_epochs(0.1)


def used(state):
    return {k: float(v) for k, v in gdjax.hyperparams(state).items()}


def test_the_number_reaches_every_schedule_wherever_it_is():
    line = gdjax.in_epochs(gdjax.linear_schedule(1.0, 0.0, 2))
    fixed = gdjax.in_epochs(gdjax.linear_schedule(1.0, 0.0, 2), 50)
    by_path = gdjax.by_path({"b": line, r".*": fixed})
    optimizer = gdjax.chain(
        gdjax.groups({"b": gdjax.sgd(line), r".*": gdjax.adamw(0.1, weight_decay=line)}),
        gdjax.accumulate(gdjax.sgd(by_path), 2),
        gdjax.add_decayed_weights(line, mask={"w": True, "b": False}),
        gdjax.scale_by_learning_rate(
            gdjax.join_schedules([gdjax.constant_schedule(0.5), line], [2])
        ),
    )
    state = gdjax.with_steps_per_epoch(optimizer.init(PARAMS), 5)
    update = jax.jit(optimizer.update)
    for _ in range(4):
        _, state = update(PARAMS, state, PARAMS)
    fresh = gdjax.with_steps_per_epoch(optimizer.init(PARAMS), 5)
    assert jax.tree.structure(state) == jax.tree.structure(fresh)
    paths = [jax.tree_util.tree_flatten_with_path(x)[0] for x in (state, optimizer.init(PARAMS))]
    assert [path for path, _ in paths[0]] == [path for path, _ in paths[1]]  # for files
    found = used(state)
    assert found["b.learning_rate"] == pytest.approx(0.6)
    assert found[".*.weight_decay"] == pytest.approx(0.6)
    assert found["learning_rate.b"] == pytest.approx(0.8)  # two steps in four calls
    assert found["learning_rate..*"] == pytest.approx(0.98)
    assert used(state[3])["learning_rate"] == pytest.approx(0.8)
    assert used(state[2])["weight_decay"] == pytest.approx(0.6)


def test_every_number_is_a_leaf_with_a_name_and_a_range():
    rate = gdjax.in_epochs(gdjax.warmup_cosine_decay_schedule(0.0, 1.0, 1, 5))
    state = gdjax.sgd(rate).init(PARAMS)
    state = gdjax.with_hyperparams(
        gdjax.with_steps_per_epoch(state, 5),
        **{"peak_value": 2.0, "learning_rate.steps_per_epoch": 2},
    )
    assert used(state._replace(count=jnp.array(2)))["learning_rate"] == 2.0
    with pytest.raises(ValueError, match="decay_steps"):
        gdjax.with_hyperparams(state, decay_steps=-1)
    with pytest.raises(ValueError, match="'learning_rate.schedule.peak_value'"):
        gdjax.with_hyperparams(state, **{"learning_rate.peak_value": 1.0})

    def second(peak, steps):
        line = gdjax.in_epochs(gdjax.linear_schedule(peak, 0.0, 2))
        state = gdjax.with_steps_per_epoch(gdjax.sgd(line).init(PARAMS), steps)
        return gdjax.hyperparams(state._replace(count=jnp.array(1)))["learning_rate"]

    grid = jax.vmap(second)(jnp.array([1.0, 2.0]), jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(grid, [0.5, 1.5])
    np.testing.assert_allclose(jax.grad(second, (0, 1))(2.0, 2.0), (0.75, 0.25), rtol=1e-6)


def test_one_program_for_all_numbers_and_a_state_that_can_be_donated_and_kept():
    optimizer = gdjax.adam(gdjax.in_epochs(gdjax.linear_schedule(1.0, 0.0, 2)), b1=0.5)
    states = [gdjax.with_steps_per_epoch(optimizer.init(PARAMS), n) for n in (3, 4)]
    update = jax.jit(optimizer.update, donate_argnums=1)
    lowered = [update.lower(PARAMS, s, PARAMS).as_text() for s in states]
    assert lowered[0] == lowered[1]
    kept = pickle.loads(pickle.dumps(jax.tree.map(np.asarray, states[1])))
    assert jax.tree.structure(kept) == jax.tree.structure(states[1])
    np.testing.assert_array_equal(
        update(PARAMS, states[1], PARAMS)[0]["b"], optimizer.update(PARAMS, kept, PARAMS)[0]["b"]
    )
    both = gdjax.chain(optimizer, gdjax.sgd(gdjax.in_epochs(lambda e: e))).init(PARAMS)
    both = gdjax.with_steps_per_epoch(both, 3)
    buffers = [x.unsafe_buffer_pointer() for x in jax.tree.leaves(both)]
    assert len(set(buffers)) == len(buffers)


@pytest.mark.parametrize("new", [2, 30])
def test_another_number_of_steps_goes_on_at_the_same_epoch(new):
    line = gdjax.in_epochs(gdjax.linear_schedule(1.0, 0.0, 10))
    joined = gdjax.join_schedules([gdjax.constant_schedule(1.0), line], [5])
    optimizer = gdjax.sgd(gdjax.by_path({"w": line, "b": joined}))
    state = gdjax.with_steps_per_epoch(optimizer.init(PARAMS), 10)
    state = state._replace(count=jnp.array(25, jnp.int32))  # 2.5 epochs, and 2 of the joined one
    later = gdjax.with_steps_per_epoch(state, new)
    assert used(later) == pytest.approx({"learning_rate.w": 0.75, "learning_rate.b": 0.8})
    done = later._replace(count=jnp.array(25 + 2 * new, jnp.int32))
    assert used(done) == pytest.approx({"learning_rate.w": 0.55, "learning_rate.b": 0.6})
    back = gdjax.with_steps_per_epoch(later, 10)
    assert used(back._replace(count=state.count + 10)) == pytest.approx(
        {"learning_rate.w": 0.65, "learning_rate.b": 0.7}
    )
    same = gdjax.with_steps_per_epoch(state, 10)
    assert jax.tree.structure(same) == jax.tree.structure(state)
    by_jit = jax.jit(gdjax.with_steps_per_epoch)(state, new)
    jax.tree.map(np.testing.assert_array_equal, by_jit, later)
    both = jax.tree.map(lambda *x: jnp.stack(x), state, state)
    lanes = gdjax.hyperparams(gdjax.with_steps_per_epoch(both, new))
    np.testing.assert_allclose(lanes["learning_rate.w"], [0.75, 0.75], rtol=1e-6)
