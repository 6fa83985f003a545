"""`MultiSteps` does as in optax."""

import copy
import functools

import jax.numpy as jnp
import optax
import pytest
from parity import assert_same

import gdjax
from gdjax.compat import optax as compat


def test_same_as_optax():
    skip = functools.partial(gdjax.skip_large_updates, max_squared_norm=400.0)
    skip_too = functools.partial(optax.skip_large_updates, max_squared_norm=400.0)
    for k, whole in ((lambda step: 2 + step, True), (2, False)):
        ours = compat.MultiSteps(gdjax.adam(0.1), k, whole, skip)
        theirs = optax.MultiSteps(optax.adam(0.1), k, whole, skip_too)
        assert_same(ours.gradient_transformation(), theirs.gradient_transformation(), steps=6)
    state, their_state = ours.init(jnp.ones(2)), theirs.init(jnp.ones(2))
    for _ in range(4):
        _, state = ours.update(jnp.ones(2), state)
        _, their_state = theirs.update(jnp.ones(2), their_state)
        assert ours.has_updated(state) == theirs.has_updated(their_state)
    two, three = (compat.MultiSteps(gdjax.sgd(0.1), k) for k in (2, 3))
    assert two.update is three.update, "one program for all k"
    assert ours.has_updated((state,)) and ours.inner_opt.update is gdjax.adam(0.1).update
    with pytest.raises(ValueError, match="must be a state of MultiSteps"):
        ours.has_updated(gdjax.sgd(0.1).init(jnp.ones(2)))
    with pytest.raises(
        ValueError, match=r"MultiSteps\(every_k_schedule=...\) must be a whole number >= 1"
    ):
        compat.MultiSteps(gdjax.sgd(0.1), 0)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy(copied):
    opt = compat.MultiSteps(gdjax.sgd(0.1), 2, use_grad_mean=False)
    other = copied(opt)
    assert other.update is opt.update and other.inner_opt.update is opt.inner_opt.update
    _, state = other.update(jnp.ones(1), other.init(jnp.ones(1)))
    assert not other.has_updated(state)
