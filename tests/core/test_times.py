"""One number times a multiplier for each parameter, both of them leaves of the state."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax

PARAMS = {"a": jnp.ones((2, 2)), "b": jnp.ones(3), "c": {"d": jnp.ones(2)}}
MULTIPLIERS = gdjax.by_path({r"a": 0.25, r"c/.*": 3.0, r".*": 1.0})


def rates_used(opt, state):
    updates, _ = opt.update(jax.tree.map(jnp.ones_like, PARAMS), state, PARAMS)
    return [float(-x.ravel()[0]) for x in jax.tree.leaves(updates)]


def test_every_parameter_has_its_product():
    opt = gdjax.sgd(gdjax.times(gdjax.linear_schedule(0.5, 0.1, 4), MULTIPLIERS))
    state = opt.init(PARAMS)
    np.testing.assert_allclose(rates_used(opt, state), [0.125, 0.5, 1.5])
    _, state = opt.update(PARAMS, state, PARAMS)
    np.testing.assert_allclose(rates_used(opt, state), [0.1, 0.4, 1.2], rtol=1e-6)


def test_it_is_one_number_by_its_name():
    opt = gdjax.adamw(gdjax.times(0.1, MULTIPLIERS), weight_decay=gdjax.times(0.2, MULTIPLIERS))
    state = opt.init(PARAMS)
    numbers = gdjax.hyperparams(state)
    np.testing.assert_allclose([numbers["learning_rate"], numbers["weight_decay"]], [0.1, 0.2])
    state = gdjax.with_hyperparams(state, learning_rate=0.3)
    state = gdjax.with_hyperparams(state, **{"learning_rate.multipliers.a": 0.5})
    values = state.hyperparams["learning_rate"].over("", PARAMS)
    np.testing.assert_allclose(values, [0.15, 0.3, 0.9], rtol=1e-6)
    scheduled = gdjax.with_hyperparams(state, learning_rate=gdjax.linear_schedule(1.0, 0.0, 2))
    assert gdjax.hyperparams(scheduled)["learning_rate"] == 1.0
    with pytest.raises(ValueError, match="must be finite and >= 0, got -1.0"):
        gdjax.with_hyperparams(state, learning_rate=-1.0)


def test_the_base_may_be_a_tree_too_and_nothing_where_a_term_is_off():
    base = gdjax.by_path({r"b": None, r".*": 0.2})
    opt = gdjax.chain(gdjax.add_decayed_weights(gdjax.times(base, MULTIPLIERS)))
    updates, _ = opt.update(jax.tree.map(jnp.zeros_like, PARAMS), opt.init(PARAMS), PARAMS)
    found = [float(x.ravel()[0]) for x in jax.tree.leaves(updates)]
    np.testing.assert_allclose(found, [0.05, 0.0, 0.6], rtol=1e-6)


def test_a_grid_of_rates_is_one_program():
    def loss(rate):
        opt = gdjax.sgd(gdjax.times(rate, MULTIPLIERS))
        updates, _ = opt.update(PARAMS, opt.init(PARAMS), PARAMS)
        return sum(jnp.sum(x) for x in jax.tree.leaves(updates))

    np.testing.assert_allclose(jax.vmap(loss)(jnp.array([0.1, 1.0])), [-1.0, -10.0], rtol=1e-6)
    np.testing.assert_allclose(jax.grad(loss)(0.1), -10.0, rtol=1e-6)
    one, other = (gdjax.sgd(gdjax.times(rate, MULTIPLIERS)) for rate in (0.1, 0.2))
    assert one.update is other.update


def test_equal_numbers_stay_one_number_for_blocks_of_leaves():
    rates = gdjax.times(jnp.float32(0.1), gdjax.by_path({r"x.*": 1.0, r".*": 2.0}))
    values = rates.over("", {"x1": 0, "x2": 0, "y": 0})
    assert values[0] is values[1] and values[0] is not values[2]


def test_two_plain_numbers_and_schedules_are_a_schedule():
    schedule = gdjax.times(gdjax.linear_schedule(1.0, 0.0, 4), lambda count: 2.0 + count)
    np.testing.assert_allclose(schedule(jnp.arange(3)), [2.0, 2.25, 2.0])
    opt = gdjax.hyperball(gdjax.sgd(1.0), gdjax.times(schedule, 0.5))
    assert gdjax.hyperparams(opt.init(PARAMS))["learning_rate"].shape == ()


def test_in_epochs_and_masks_see_the_schedule_inside():
    line = gdjax.linear_schedule(1.0, 0.0, 2)
    schedule = gdjax.in_epochs(gdjax.times(line, 3.0), steps_per_epoch=4)
    np.testing.assert_allclose(schedule(jnp.array([0, 4, 8])), [3.0, 1.5, 0.0])
    opt = gdjax.sgd(gdjax.times(gdjax.in_epochs(line), MULTIPLIERS))
    state = gdjax.with_steps_per_epoch(opt.init(PARAMS), 4)
    np.testing.assert_allclose(rates_used(opt, state), [0.25, 1.0, 3.0])
    mask = gdjax.by_path({r"b": False, r".*": True})
    opt = gdjax.adamw(0.0, weight_decay=gdjax.times(0.1, MULTIPLIERS), mask=mask)
    assert opt.init(PARAMS).hyperparams["weight_decay"].over("", PARAMS)[1] is None


def test_it_is_pickled_and_its_patterns_are_checked():
    opt = gdjax.sgd(gdjax.times(0.5, MULTIPLIERS))
    again = pickle.loads(pickle.dumps(opt))
    np.testing.assert_allclose(rates_used(again, again.init(PARAMS)), [0.125, 0.5, 1.5])
    wrong = gdjax.sgd(gdjax.times(0.5, gdjax.by_path({r"bias": 0.0, r".*": 1.0})))
    with pytest.raises(ValueError, match="the pattern 'bias' matches no parameter"):
        wrong.init(PARAMS)
    with pytest.raises(ValueError, match="no prefix of the parameters"):
        gdjax.sgd(gdjax.times(0.5, {"a": 1.0})).init(PARAMS)
