"""`hyperparams_in_use`: what the last update used, by name, for logs."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax

PARAMS = {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}
LINE = gdjax.linear_schedule(1.0, 0.0, 10)


def after(optimizer, steps):
    state = optimizer.init(PARAMS)
    for _ in range(steps):
        _, state = optimizer.update(PARAMS, state, PARAMS)
    return state


def read(state):
    return {k: np.asarray(v).tolist() for k, v in gdjax.hyperparams_in_use(state).items()}


def used(optimizer, steps):
    return {k: round(v, 5) for k, v in read(after(optimizer, steps)).items()}


@pytest.mark.parametrize(("steps", "rate"), [(0, 1.0), (1, 1.0), (3, 0.8)])
def test_a_schedule_is_read_at_the_last_step(steps, rate):
    assert used(gdjax.sgd(LINE), steps) == {"learning_rate": rate}
    assert used(gdjax.sgd(lambda t: 1.0 - t / 10), steps) == {"learning_rate": rate}


def test_rates_by_path_and_by_group_have_their_names():
    by_path = gdjax.by_path({"b": LINE, r".*": 0.5})
    assert used(gdjax.sgd(by_path), 2) == {"learning_rate.b": 0.9, "learning_rate..*": 0.5}
    groups = gdjax.groups({"b": gdjax.sgd(LINE), "w": gdjax.sgd(0.25)})
    assert used(groups, 2) == {"b.learning_rate": 0.9, "w.learning_rate": 0.25}


def test_a_mask_shows_the_numbers_behind_it():
    mask = {"w": True, "b": False}
    assert used(gdjax.adamw(0.1, weight_decay=0.5, mask=mask), 1)["weight_decay"] == 0.5
    decay = {"w": LINE, "b": 0.25}
    state = after(gdjax.add_decayed_weights(decay, mask), 2)
    assert list(read(state)) == ["weight_decay.b", "weight_decay.w"]
    np.testing.assert_allclose(list(read(state).values()), [0.25, 0.9])


def test_only_steps_count_and_tables_are_left_out():
    assert used(gdjax.accumulate(gdjax.sgd(LINE), 2), 5)["learning_rate"] == 0.9
    assert "ns_coeffs" not in used(gdjax.muon(LINE), 2)
    assert used(gdjax.muon(LINE), 2)["learning_rate"] == 0.9
    assert used(gdjax.chain(gdjax.clip(2.0), gdjax.sgd(LINE)), 2)["learning_rate"] == 0.9


def test_injected_numbers_of_optax_are_those_of_the_last_update():
    optimizer = optax.inject_hyperparams(optax.adam)(lambda t: 1.0 - t / 10, b1=0.5)
    shown = used(optax.chain(optax.clip(1.0), optimizer), 3)
    assert (shown["learning_rate"], shown["b1"]) == (0.8, 0.5)
    assert used(optax.adam(0.1), 1) == {}
    from gdjax.compat.optax import inject_hyperparams

    shown = used(inject_hyperparams(optax.sgd)(lambda t: 1.0 - t / 10), 3)
    assert shown["learning_rate"] == 0.8


@gdjax.schedule
class Lookup(gdjax.Schedule):
    table: Any = dataclasses.field()

    def __call__(self, count):
        return self.table[count]


def test_each_of_several_runs_has_its_own_numbers_and_count():
    def run(scale, steps):
        table = Lookup(scale * jnp.arange(1.0, 6.0))
        state = gdjax.chain(gdjax.scale_by_learning_rate(table), gdjax.clip(1.0)).init(PARAMS)
        return (state[0]._replace(count=steps), state[1])

    states = jax.vmap(run)(jnp.array([1.0, 10.0, 100.0]), jnp.array([0, 1, 3], jnp.int32))
    assert read(states) == {"learning_rate": [1.0, 10.0, 300.0], "max_delta": [1.0] * 3}
    assert gdjax.hyperparams(states)["learning_rate"].tolist() == [1.0, 20.0, 400.0]
    by_jit = jax.jit(gdjax.hyperparams_in_use)(states)
    assert by_jit["learning_rate"].tolist() == [1.0, 10.0, 300.0]
    constant = jax.vmap(lambda b: gdjax.sgd(lambda t: 0.5, momentum=b).init(PARAMS))(jnp.ones(2))
    assert read(constant) == {"learning_rate": [0.5, 0.5], "momentum": [1.0, 1.0]}


def test_it_works_on_states_of_the_host_and_does_not_keep_functions_alive():
    import gc
    import weakref

    def rate(t):
        return 1.0 - t / 10

    state = jax.tree.map(np.asarray, after(gdjax.sgd(rate), 3))
    assert read(state)["learning_rate"] == pytest.approx(0.8)
    gone = weakref.ref(rate)
    del state, rate
    gc.collect()
    assert gone() is None
