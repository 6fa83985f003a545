"""Units of the objective and of the parameters do not matter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from x64 import enable_x64

import gdjax

METHODS = {
    "lbfgs": {},
    "bfgs": dict(optimizer=gdjax.bfgs()),
    "lbfgsb": dict(bounds=(None, None)),
    "nonlinear_cg": dict(optimizer=gdjax.nonlinear_cg()),
    "barzilai_borwein": dict(optimizer=gdjax.barzilai_borwein()),
    "steepest_descent": dict(optimizer=gdjax.steepest_descent()),
}


def ridge(x):
    return jnp.sum(jnp.linspace(1.0, 30.0, 20, dtype=x.dtype) * (x - 1) ** 2)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("unit", [1e-12, 1e8, 1e12])
def test_units_of_the_objective_in_float32(name, unit):
    def run(unit):
        def fun(x, unit):
            return unit * ridge(x)

        # 500 steps are three times what the slowest needs
        args = (jnp.float32(unit),)
        return gdjax.minimize(
            fun, jnp.zeros(20), args=args, tol=1e-4 * unit, max_steps=500, **METHODS[name]
        )

    scaled, plain = run(unit), run(1.0)
    assert scaled.converged and plain.converged
    assert scaled.steps <= 1.5 * plain.steps  # before: up to 500, or none at all
    np.testing.assert_allclose(scaled.params, 1, atol=1e-4)  # tol / curvature = 5e-5


@pytest.mark.parametrize("name", ["lbfgs", "bfgs", "lbfgsb"])
@pytest.mark.parametrize("unit", [1e-8, 1e8])
def test_units_of_the_parameters_in_float64(name, unit):
    with enable_x64():

        def fun(x):
            x = x / unit
            return 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2

        start = unit * jnp.array([-1.2, 1.0])
        result = gdjax.minimize(fun, start, tol=1e-6 / unit, max_steps=100, **METHODS[name])
        assert result.converged
        np.testing.assert_allclose(result.params / unit, 1, atol=1e-5)


def test_the_projected_gradient_is_not_rounded_away_by_large_parameters():
    def norm(slope, upper):
        result = gdjax.minimize(
            lambda x, slope: slope * x, 1e6, args=(slope,), bounds=(None, upper), max_steps=0
        )
        return float(result.grad_norm)

    assert norm(1e-3, jnp.inf) == norm(-1e-3, jnp.inf) == norm(1e-3, 1e6) == np.float32(1e-3)
    assert norm(-1e-3, 1e6) == 0  # at its bound


def test_bounds_that_the_dtype_does_not_have_are_rounded_to_it():
    def fun(x):
        return jnp.sum((x.astype(jnp.float32) - 1) ** 2)

    result = gdjax.minimize(fun, jnp.zeros(3, jnp.bfloat16), bounds=(0, 0.7))
    assert result.converged and result.evaluations < 5
    assert (result.params == jnp.bfloat16(0.7)).all()


def test_a_search_that_ran_out_of_steps_goes_on_from_there():
    opt = gdjax.chain(gdjax.scale(-1.0), gdjax.scale_by_backtracking_linesearch(5))
    x = jnp.array([1.0])

    def fun(x):
        return 1e4 * jnp.sum(x**2)

    state = opt.init(x)

    @jax.jit
    def step(x, state):
        value, grad = jax.value_and_grad(fun)(x)
        return opt.update(grad, state, x, value=value, grad=grad, value_fn=fun)

    rates = []
    for _ in range(40):
        updates, state = step(x, state)
        x = gdjax.apply_updates(x, updates)
        rates.append(float(state[1].slots.learning_rate))
    np.testing.assert_allclose(rates[:2], [0.8**5, 0.8**5 * 1.5 * 0.8**5], rtol=1e-6)
    assert fun(x) < 1 and 0 < rates[-1] < 1e-4  # from 1e4


def test_bounds_of_another_shape_are_named():
    p = {"a": jnp.zeros(3)}
    with pytest.raises(ValueError, match=r"lower=...\) has shape \(2,\) where .* 'a' has \(3,\)"):
        gdjax.minimize(lambda p: jnp.sum(p["a"]), p, bounds=(jnp.zeros(2), None))
    with pytest.raises(ValueError, match=r"upper=...\) has shape \(1, 3\) where .* has \(3,\)"):
        gdjax.lbfgsb(upper=jnp.zeros((1, 3))).init(p)
    assert gdjax.lbfgsb(upper=jnp.zeros(1)).init(p).slots.upper["a"].shape == (3,)
