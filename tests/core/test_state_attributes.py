"""Slots and numbers of a state are its attributes."""

import copy
import dataclasses
import pickle
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from registry import CASES

import gdjax
from gdjax.core.base import OF_ARRAYS, State
from gdjax.core.protocols import states_in

PARAMS = {"w": jnp.ones((4, 3)), "b": jnp.zeros(3)}
PROBES = [
    *OF_ARRAYS,
    "__jax_array__",
    "__array__",
    "__array_interface__",
    "__len_hint__",
    "__deepcopy__",
    "__getstate_",
    "__dataclass_fields__",
    "__pytree__",
    "_pytree__state",
    "tree_flatten",
]


def test_slots_and_numbers_are_attributes():
    schedule = gdjax.linear_schedule(1.0, 0.0, 10)
    state = gdjax.adamw(schedule, b1=0.75).init(PARAMS)
    assert state.mu is state.slots.mu and state.nu is state.slots.nu
    assert state.b1 is state.hyperparams["b1"]
    assert isinstance(state.learning_rate, type(schedule))  # as it is kept, not at this count
    assert gdjax.adamw(0.1, weight_decay=None).init(PARAMS).count == 0
    assert {"mu", "b1", "count", "_replace"} <= set(dir(state))
    assert jax.jit(lambda s: s.b1 * 2)(state) == 1.5
    assert jax.eval_shape(lambda p: gdjax.adam(0.1).init(p), PARAMS).mu["w"].shape == (4, 3)


def test_an_unknown_name_is_an_error_that_lists_what_there_is():
    state = gdjax.adam(0.1).init(PARAMS)
    with pytest.raises(AttributeError) as caught:
        _ = state.learning_rte
    text = str(caught.value)
    assert caught.value.name == "learning_rte" and caught.value.obj is state
    for name in (*State._fields, "mu", "nu", "eps_root", "mean 'learning_rate'?"):
        assert name in text
    with pytest.raises(AttributeError, match=r"slots|numbers learning_rate\.$"):
        _ = gdjax.sgd(0.1).init(PARAMS).mu
    with pytest.raises(AttributeError):
        state.mu = 1
    assert getattr(state, "mu_", None) is None and not hasattr(state, "mu_")


class Two(NamedTuple):
    both: jax.Array
    shape: jax.Array
    index: jax.Array


def _two(param):
    return Two(jnp.full_like(param, 2.0), param, param)


def _rule(grad, slots, param, count, *, both, dtype):
    return -both * dtype * grad, slots


def test_a_slot_goes_before_a_number_and_neither_before_what_arrays_and_tuples_have():
    state = gdjax.leafwise(_rule, _two, dict(both=1.0, dtype=0.5)).init(PARAMS)
    assert state.both is state.slots.both
    assert not hasattr(state, "dtype") and not hasattr(state, "shape")
    assert callable(state.index) and jnp.ndim(state.slots.index["b"]) == 1
    assert "AttributeError" not in repr(state)


def test_only_own_slots_are_attributes():
    wrapped = gdjax.average(gdjax.adam(0.1)).init(PARAMS)
    assert not hasattr(wrapped, "mu") and not hasattr(wrapped, "learning_rate")
    inner = dict(list(states_in(wrapped))[1:])
    assert [s.learning_rate for s in inner.values()] and all(
        hasattr(s, "mu") for s in inner.values()
    )
    chained = gdjax.chain(gdjax.clip(1.0), gdjax.adam(0.1)).init(PARAMS)
    assert chained[1].mu is chained[1].slots.mu


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_state_has_its_own_names_and_is_no_array(case):
    for _, state in states_in(jax.eval_shape(case.make(**case.numbers).init, PARAMS)):
        assert not [name for name in PROBES if hasattr(state, name)]
        own = getattr(state.slots, "_fields", ()) if not isinstance(state.slots, State) else ()
        if dataclasses.is_dataclass(state.slots):
            own = tuple(field.name for field in dataclasses.fields(state.slots))
        for name in own:
            assert name in State._fields or getattr(state, name) is getattr(state.slots, name)
        for name in state.hyperparams:
            assert name in own or getattr(state, name) is state.hyperparams[name]


def test_copies_pickles_and_trees_of_states():
    state = gdjax.adam(gdjax.cosine_decay_schedule(0.1, 10)).init(PARAMS)
    for twin in (
        copy.copy(state),
        copy.deepcopy(state),
        pickle.loads(pickle.dumps(state)),
        jax.tree.map(lambda x: x, state),
        state._replace(count=state.count),
    ):
        assert type(twin) is State and twin.mu.keys() == PARAMS.keys()
        jax.tree.map(np.testing.assert_array_equal, twin, state)
    assert jax.tree.leaves(state) and not jax.tree_util.all_leaves([state])
    assert np.asarray(jnp.stack(jax.tree.leaves(state.mu["b"]))).shape == (1, 3)
