"""Self-scaled quasi-Newton methods: the papers' formulas, quadratics, units, and odd steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import quasi_newton
from x64 import enable_x64

import gdjax
from gdjax.solvers.bfgs import ssbfgs_factors, ssbroyden_factors

DIRECTIONS = {
    "bfgs": gdjax.scale_by_bfgs,
    "ssbfgs": gdjax.scale_by_ssbfgs,
    "ssbroyden": gdjax.scale_by_ssbroyden,
}


def gradient(x):
    """Of a function with some negative curvature."""
    scale = np.linspace(0.5, 4, x.size)
    return scale * x + 1.5 * np.cos(2 * x + 0.3)


@pytest.mark.parametrize("name", DIRECTIONS)
def test_directions_follow_the_paper(name):
    rng = np.random.default_rng(0)
    opt, direction = DIRECTIONS[name](), quasi_newton.broyden(name)
    x = rng.normal(0, 2, 7)
    with enable_x64():
        state, update = opt.init(jnp.asarray(x)), jax.jit(opt.update)
        for length in rng.uniform(0.2, 1.1, 25):
            actual, state = update(jnp.asarray(gradient(x)), state, jnp.asarray(x))
            expected = direction(x, gradient(x))
            np.testing.assert_allclose(actual, expected, rtol=1e-8, atol=1e-10)
            x = x - length * expected


def test_factors_at_the_limits_of_their_formulas():
    """For a = 0 the formulas divide 0 by 0; c rounds to 1 where a is large."""
    with enable_x64():
        b = jnp.array([1.0, 0.5, 4.0, 1e-8, 1e8, 1e12, 1e-12])
        for h in (1 / b, 2 / b, 1e18 / b, jnp.full_like(b, 1e-20) / b):
            for factors in (ssbfgs_factors, ssbroyden_factors):
                for n in (1, 2, 1000):
                    tau, phi = factors(b, h, n)
                    assert jnp.isfinite(tau).all() and jnp.isfinite(phi).all()
                    assert (tau > 0).all() and (tau <= 1).all()
        tau, phi = ssbroyden_factors(jnp.array(1.0), jnp.array(1.0), 5)  # H is exact along s
        assert tau == 1 and phi == 1


def test_exact_searches_on_a_quadratic_end_after_n_steps_and_take_the_same_ones():
    """All members of the family do, whatever phi and tau are (Dixon's theorem)."""
    rng = np.random.default_rng(1)
    basis = np.linalg.qr(rng.normal(size=(8, 8)))[0]

    def norms(opt, matrix):
        def step(carry, _):
            x, state = carry
            g = matrix @ x
            d, state = opt.update(g, state, x)
            return (x - (g @ d) / (d @ matrix @ d) * d, state), jnp.linalg.norm(g)

        x = jnp.ones(8)
        return jax.lax.scan(step, (x, opt.init(x)), None, 9)[1]

    with enable_x64():
        matrix = jnp.asarray(basis @ np.diag(np.logspace(0, 1, 8)) @ basis.T)
        opts = [make() for make in DIRECTIONS.values()]
        run = jax.jit(lambda a: [norms(opt, a) for opt in opts])
        bfgs, *others = map(np.asarray, run(matrix))
    for other in (bfgs, *others):
        assert other[-1] < 1e-11 * other[0] and other[-2] > 1e-4 * other[0]
        np.testing.assert_allclose(other[:-1], bfgs[:-1], rtol=1e-9)


@pytest.mark.slow
def test_units_of_objective_and_parameters():
    opt = gdjax.ssbroyden()

    def fun(x, of_value, of_params):
        x = x / of_params
        return of_value * jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)

    def solve(of_value, of_params):
        start = of_params * jnp.tile(jnp.array([-1.2, 1.0]), 2)
        tol = 1e-6 * of_value / of_params
        return gdjax.minimize(fun, start, opt, args=(of_value, of_params), tol=tol, max_steps=300)

    with enable_x64():
        units = jnp.array([1.0, 2.0**-40, 2.0**40, 1.0, 1.0])
        lengths = jnp.array([1.0, 1.0, 1.0, 2.0**-20, 2.0**20])
        result = jax.jit(jax.vmap(solve))(units, lengths)
        assert result.converged.all()
        np.testing.assert_allclose(result.params / lengths[:, None], 1, atol=1e-5)
        assert result.steps.max() < 2 * result.steps[0]  # the first step's length has a unit


@pytest.mark.parametrize("name", DIRECTIONS)
def test_steps_that_are_no_multiples_of_the_direction_leave_descent_directions(name):
    """As of a wrapper that changes the step: b is a lower bound then, and H stays definite."""
    rng, opt = np.random.default_rng(2), DIRECTIONS[name]()
    with enable_x64():
        x = rng.normal(size=6)
        state, update = opt.init(jnp.asarray(x)), jax.jit(opt.update)
        for _ in range(40):
            g = gradient(x)
            d, state = update(jnp.asarray(g), state, jnp.asarray(x))
            assert g @ np.asarray(d) > 0
            x = x + rng.normal(0, 0.3, 6)
        assert np.linalg.eigvalsh(np.asarray(state.slots.inverse_hessian)).min() > 0


@pytest.mark.parametrize("name", DIRECTIONS)
def test_an_indefinite_matrix_is_replaced(name):
    """Rounding may leave H indefinite: the next pair starts it anew instead of making it worse."""
    opt = DIRECTIONS[name]()
    x = jnp.array([1.0, 2.0, -1.0])
    scale = jnp.array([1.0, 3.0, 9.0])
    state = opt.init(x)
    d, state = opt.update(scale * x, state, x)
    x = x - 0.1 * d
    d, state = opt.update(scale * x, state, x)
    broken = state.slots._replace(inverse_hessian=-state.slots.inverse_hessian)
    x = x - 0.1 * d
    d, new = opt.update(scale * x, state._replace(slots=broken), x)
    assert new.slots.pairs == 1 and jnp.vdot(d, scale * x) > 0
    assert (jnp.linalg.eigvalsh(new.slots.inverse_hessian) > 0).all()


def test_lanes_of_float32_on_a_complex_tree():
    def fun(p, target):
        z = p["z"] - target * (1.0 + 2.0j)
        return jnp.sum(jnp.array([1.0, 10.0]) * (p["a"] - target) ** 2) + jnp.abs(z) ** 4

    def solve(target):
        start = {"a": jnp.zeros(2), "z": jnp.zeros((), jnp.complex64), "n": None}
        return gdjax.minimize(fun, start, gdjax.ssbfgs(), args=(target,))

    targets = jnp.array([0.0, 0.5, 1.0, 2.0])
    result = jax.jit(jax.vmap(solve))(targets)
    assert result.converged.all() and result.steps[0] == 0
    np.testing.assert_allclose(result.params["a"], np.repeat(targets[:, None], 2, 1), atol=1e-3)
    np.testing.assert_allclose(result.params["z"], targets * (1 + 2j), atol=0.1)  # a flat minimum
