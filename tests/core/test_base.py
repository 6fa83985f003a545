"""What a person sees of optimizers and states."""

import jax
import jax.numpy as jnp
import pytest

import gdjax

PARAMS = {f"layer{i}": {"kernel": jnp.ones((64, 64)), "bias": jnp.ones(64)} for i in range(8)}


@pytest.mark.parametrize(
    "optimizer",
    [
        gdjax.adam(1e-3),
        gdjax.sgd(gdjax.linear_schedule(1.0, 0.0, 10), momentum=0.9),
        gdjax.noisy_sgd(0.1),
        gdjax.apply_if_finite(gdjax.adam(1e-3), 3),
        gdjax.soap(1e-3),
    ],
)
def test_states_are_shown_in_a_few_lines(optimizer):
    for state in (optimizer.init(PARAMS), jax.eval_shape(optimizer.init, PARAMS)):
        assert len(repr(state)) < 1000
    traced = []
    jax.jit(lambda p: traced.append(repr(optimizer.init(p))))(PARAMS)
    assert len(traced[0]) < 1000


def test_a_state_shows_its_numbers_and_the_size_of_its_slots():
    state = gdjax.adam(0.25, b1=0.5).init(PARAMS)
    text = repr(state)
    assert "learning_rate=0.25" in text and "b1=0.5" in text and "count=0" in text
    size = 8 * (64 * 64 + 64) * 4
    assert f"mu={{16 arrays, {size:,} bytes}}" in text


def test_an_optimizer_shows_what_it_is():
    assert repr(gdjax.adam(0.1)) == "Optimizer(adam)"
    assert repr(gdjax.chain(gdjax.clip(1.0), gdjax.adam(0.1))) == "Optimizer(chain)"
