"""The loss that an update takes by `value=`: one real number, or an error that says so."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax

PARAMS = jnp.array([1.0, -2.0, 3.0])


def half_square(x):
    return jnp.sum(x**2) / 2


WITH_LOSS = {
    "polyak_sgd": gdjax.polyak_sgd(),
    "momo": gdjax.momo(),
    "momo_adam": gdjax.momo_adam(),
    "schedule_free_plus": gdjax.schedule_free_plus(),
    "reduce_on_plateau": gdjax.reduce_on_plateau(),
    "skip_spikes": gdjax.skip_spikes(gdjax.sgd(0.1), watch="value"),
    "lbfgsb": gdjax.lbfgsb(),
    "scale_by_backtracking_linesearch": gdjax.scale_by_backtracking_linesearch(3),
    "fista": gdjax.fista(lambda x, reg, scaling: x),
}
every = pytest.mark.parametrize("name", WITH_LOSS)


def step(name, value):
    opt = WITH_LOSS[name]
    extra = {}
    if name in ("lbfgsb", "scale_by_backtracking_linesearch", "fista"):
        extra = dict(value_fn=half_square)
    if "linesearch" in name:
        extra["grad"] = PARAMS
    return opt.update(PARAMS, opt.init(PARAMS), PARAMS, value=value, **extra)


@every
@pytest.mark.parametrize(
    "value", [jnp.ones(3), jnp.ones((1, 3)), "5", 5 + 1j, True, [7.0], jnp.zeros(0)], ids=repr
)
def test_what_is_no_loss_is_named(name, value):
    with pytest.raises(ValueError, match=rf"{name}: update\(\.\.\., value=\.\.\.\) must be the"):
        step(name, value)


@every
def test_no_loss_is_named(name):
    with pytest.raises((TypeError, ValueError), match=f"{name}.* needs"):
        step(name, None)


@every
@pytest.mark.parametrize("kind", [float, np.float64, jnp.float32, jnp.bfloat16, jnp.atleast_1d])
def test_one_number_of_any_kind_is_a_loss(name, kind):
    jax.tree.map(np.testing.assert_array_equal, step(name, kind(7)), step(name, 7.0))
