"""`eval_params` reads weights with the numbers that the last update used."""

import jax.numpy as jnp
import numpy as np
import pytest

import gdjax


@pytest.mark.parametrize("wrap", [lambda opt: opt, lambda opt: gdjax.chain(gdjax.clip(2.0), opt)])
def test_scheduled_numbers_are_those_of_the_last_update(wrap):
    """y = (1 - mu_y) z + mu_y x is solved for x with the mu_y of the update that computed y."""
    mu_y = jnp.array([0.5, 0.8, 0.2, 0.9])
    opt = wrap(gdjax.gpa(gdjax.sgd(0.1), mu_x=0.5, mu_y=lambda count: mu_y[count]))
    params = jnp.array([1.0])
    state = opt.init(params)
    np.testing.assert_allclose(gdjax.eval_params(state, params), 1.0, rtol=1e-6)
    updates, state = opt.update(jnp.array([1.0]), state, params)
    params = gdjax.apply_updates(params, updates)
    z, x = 0.9, 0.5 * 1.0 + 0.5 * 0.9
    np.testing.assert_allclose(params, 0.5 * z + 0.5 * x, rtol=1e-6)
    np.testing.assert_allclose(gdjax.eval_params(state, params), x, rtol=1e-6)


def test_state_and_parameters_in_the_wrong_order():
    opt = gdjax.tail_average(gdjax.sgd(1.0))
    params = {"w": jnp.ones(2)}
    state = opt.init(params)
    with pytest.raises(TypeError, match="Give the state first"):
        gdjax.eval_params(params, state)
