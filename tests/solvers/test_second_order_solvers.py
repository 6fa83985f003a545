"""Gauss-Newton, Levenberg-Marquardt and Newton-CG as pairs, in a user's own loop."""

import jax
import jax.numpy as jnp
import numpy as np
import own_loop
import pytest
import scipy.optimize
from mgh_least_squares import PROBLEMS
from x64 import enable_x64

import gdjax
from gdjax.solvers.newton_cg import steihaug

METHODS = {
    "qr": gdjax.levenberg_marquardt(),
    "cg": gdjax.levenberg_marquardt(solver="cg", cg_rtol=1e-6),
    "unscaled": gdjax.levenberg_marquardt(10.0, scaled=False),
    "gauss_newton": gdjax.gauss_newton(),
}


def half_squares(residual_fn):
    return lambda x: 0.5 * sum(jnp.sum(jnp.abs(r) ** 2) for r in jax.tree.leaves(residual_fn(x)))


def decay_curve(params, t, y):
    return params["scale"] * jnp.exp(-params["rate"] * t) + params["level"] - y


def curve_data(dtype=None):
    t = np.linspace(0, 4, 30)
    noise = np.random.default_rng(0).normal(0, 0.05, 30)
    y = 2.5 * np.exp(-1.3 * t) + 0.5 + noise
    return jnp.asarray(t, dtype), jnp.asarray(y, dtype)


@pytest.mark.parametrize(
    ("name", "factor", "steps"),
    [("rosenbrock", 1, 8), ("bard", 1, 5), ("meyer", 1, 12)],
)
def test_first_steps_of_levenberg_marquardt_are_minpacks(name, factor, steps):
    """Every point is one that MINPACK evaluates, to the digits that rounding leaves."""
    (problem,) = (p for p in PROBLEMS if p.name == name)
    opt, seen = gdjax.levenberg_marquardt(), []
    with enable_x64():
        fun = jax.jit(problem.residual)
        slopes = jax.jit(jax.jacfwd(problem.residual))

        def watched(x):
            seen.append(x.copy())
            return np.asarray(fun(x))

        start = factor * np.array(problem.start, float)
        scipy.optimize.leastsq(watched, start, Dfun=lambda x: np.asarray(slopes(x)), maxfev=900)
        step = jax.jit(lambda x, s: opt.update(x, s, x, residual_fn=problem.residual))
        x, at = jnp.asarray(start), 0
        state = opt.init(x)
        for _ in range(steps):
            updates, state = step(x, state)
            x = x + updates
            errors = np.max(np.abs(np.array(seen) - np.asarray(x)) / np.abs(seen), axis=1)
            assert errors.min() < 1e-5 and errors.argmin() >= at, errors.min()
            at = errors.argmin()


@pytest.mark.parametrize("name", METHODS)
def test_curve_fit_of_a_mixed_tree_equals_scipys(name):
    with enable_x64():
        t, y = curve_data()
        params = {
            "scale": jnp.array(1.0, jnp.float32),
            "rate": jnp.array(1.0),
            "none": None,
            "level": jnp.zeros(1),
        }
        residual_fn = lambda p: decay_curve(p, t, y)  # noqa: E731
        run = jax.jit(
            lambda p: own_loop.run(METHODS[name], half_squares(residual_fn), p, 30, residual_fn)
        )
        found, state, values = run(params)
        assert found["scale"].dtype == jnp.float32 and found["rate"].dtype == jnp.float64
        assert bool((jnp.diff(values) <= 1e-12).all()), "the sum of squares rose"
    fit = scipy.optimize.least_squares(
        lambda p: p[0] * np.exp(-p[1] * np.asarray(t)) + p[2] - np.asarray(y),
        [1.0, 1.0, 0.0],
        xtol=1e-14,
        ftol=1e-14,
        gtol=1e-14,
    )
    ours = [float(found["scale"]), float(found["rate"]), float(found["level"][0])]
    # one parameter is float32: the others settle to match its rounding
    np.testing.assert_allclose(ours, fit.x, rtol=3e-7)


@pytest.mark.parametrize("name", METHODS)
def test_rank_deficient_jacobian_gives_a_solution(name):
    a = np.random.default_rng(1).normal(size=(6, 2)) @ np.array([[1.0, 2, 0], [0, 1.0, 3]])
    b = np.arange(6.0)
    with enable_x64():
        residual_fn = lambda x: jnp.asarray(a) @ x - b  # noqa: E731
        run = jax.jit(
            lambda x: own_loop.run(METHODS[name], half_squares(residual_fn), x, 40, residual_fn)
        )
        x = np.asarray(run(jnp.zeros(3))[0])
    shortest = np.linalg.lstsq(a, b, rcond=None)[0]
    np.testing.assert_allclose(a @ x, a @ shortest, atol=1e-7)
    if name == "gauss_newton":  # the shortest with each parameter in units of its column
        scale = np.linalg.norm(a, axis=0)
        np.testing.assert_allclose(
            x, np.linalg.lstsq(a / scale, b, rcond=None)[0] / scale, atol=1e-6
        )


@pytest.mark.parametrize("name", METHODS)
def test_residuals_that_are_not_finite_shorten_the_step(name):
    """log is nan left of 0, where the full Gauss-Newton step from 3 would go."""
    residual_fn = lambda x: jnp.log(x)  # noqa: E731
    run = jax.jit(
        lambda x: own_loop.run(METHODS[name], half_squares(residual_fn), x, 12, residual_fn)
    )
    x, state, values = run(jnp.full(2, 5.0))
    assert bool(jnp.isfinite(values).all())
    np.testing.assert_allclose(x, 1.0, atol=1e-5)


def test_vmapped_fits_equal_single_ones():
    t, y = curve_data()
    shifts = jnp.linspace(0, 0.5, 5)
    start = {"scale": jnp.array(1.0), "rate": jnp.array(1.0), "level": jnp.array(0.0)}

    def fit(shift):
        residual_fn = lambda p: decay_curve(p, t, y + shift)  # noqa: E731
        return own_loop.run(METHODS["qr"], half_squares(residual_fn), start, 10, residual_fn)[0]

    many, one = jax.jit(jax.vmap(fit))(shifts), jax.jit(fit)
    for i in (0, 4):
        for a, b in zip(jax.tree.leaves(many), jax.tree.leaves(one(shifts[i])), strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-4)  # where float32 cannot tell values apart


@pytest.mark.slow
def test_complex_parameters_and_residuals_count_as_pairs_of_reals():
    a = np.array([[1 + 2j, 0.5], [0.3j, 2.0], [1.0, -1j]])
    b = np.array([1.0, 2j, 3.0])
    residual_fn = lambda z: jnp.asarray(a, jnp.complex64) @ z - jnp.asarray(b, jnp.complex64)  # noqa: E731
    opt = gdjax.levenberg_marquardt()
    z = jnp.zeros(2, jnp.complex64)
    state = opt.init(z)
    for _ in range(3):
        updates, state = opt.update(z, state, z, residual_fn=residual_fn)
        z = z + updates
    np.testing.assert_allclose(z, np.linalg.lstsq(a, b, rcond=None)[0], atol=1e-5)


@pytest.mark.parametrize("name", [*METHODS, "newton_cg"])
def test_state_keeps_its_avals_and_empty_trees_pass(name):
    opt = METHODS.get(name) or gdjax.newton_cg()
    residual_fn = lambda p: [jnp.asarray(x, jnp.float32).ravel() for x in jax.tree.leaves(p)]  # noqa: E731
    value_fn = lambda p: sum([jnp.sum(r * r) for r in residual_fn(p)], jnp.zeros(()))  # noqa: E731
    for params in (
        {"a": jnp.ones((), jnp.bfloat16), "b": jnp.ones((0, 3)), "n": None, "c": jnp.ones(2)},
        {},
    ):
        state = opt.init(params)
        typeof = getattr(jax, "typeof", None) or jax.core.get_aval
        step = jax.jit(
            lambda p, s: opt.update(
                p, s, p, residual_fn=residual_fn, value=value_fn(p), value_fn=value_fn
            )
        )
        updates, new = step(params, state)
        assert jax.tree.map(typeof, new) == jax.tree.map(typeof, state)
        assert jax.tree.map(typeof, updates) == jax.tree.map(typeof, params)
        updates, _ = step(jax.tree.map(jnp.zeros_like, params), state)  # at the minimum
        assert all(not bool(u.any()) for u in jax.tree.leaves(updates))


@pytest.mark.slow
def test_numbers_are_data():
    assert gdjax.levenberg_marquardt(1.0).update is gdjax.levenberg_marquardt(9.0).update
    assert gdjax.newton_cg(1.0).update is gdjax.newton_cg(2.0).update
    x = jnp.array([-1.2, 1.0])

    def step(radius):
        opt = gdjax.levenberg_marquardt(radius, scaled=False)
        return opt.update(x, opt.init(x), x, residual_fn=PROBLEMS[0].residual)[0]

    sizes = jnp.linalg.norm(jax.vmap(step)(jnp.array([1.0, 1e-2, 1e-4])), axis=1)
    assert sizes[0] > sizes[1] > sizes[2]
    with pytest.raises(ValueError, match=r"levenberg_marquardt\(solver=...\) must be one of"):
        gdjax.levenberg_marquardt(solver="svd")
    with pytest.raises(TypeError, match="needs residual_fn"):
        opt = gdjax.levenberg_marquardt()
        opt.update(x, opt.init(x), x)


@pytest.mark.parametrize("seed", range(3))
def test_steihaug_against_the_exact_subproblem(seed):
    """Inside the region it is Newton's step; with negative curvature it ends at the edge."""
    rng = np.random.default_rng(seed)
    with enable_x64():
        q = np.linalg.qr(rng.normal(size=(5, 5)))[0]
        g = jnp.asarray(rng.normal(size=5))
        h = jnp.asarray(q @ np.diag([1.0, 2, 3, 4, 5]) @ q.T)
        d, value = steihaug(lambda v: h @ v, g, jnp.array(100.0), 1e-12, 50)
        np.testing.assert_allclose(d, -jnp.linalg.solve(h, g), atol=1e-9)
        np.testing.assert_allclose(value, g @ d + 0.5 * d @ h @ d, rtol=1e-9)
        for spectrum, radius in (([-1.0, 2, 3, 4, 5], 2.0), ([1.0, 2, 3, 4, 5], 0.1)):
            h = jnp.asarray(q @ np.diag(spectrum) @ q.T)
            d, value = steihaug(lambda v, h=h: h @ v, g, jnp.array(radius), 1e-12, 50)
            np.testing.assert_allclose(jnp.linalg.norm(d), radius, rtol=1e-9)
            np.testing.assert_allclose(value, g @ d + 0.5 * d @ h @ d, rtol=1e-9)
            # at least the fall of the Cauchy point, N&W (4.12)
            curvature = g @ h @ g
            norm = jnp.linalg.norm(g)
            tau = min(norm**3 / (radius * curvature), 1.0) if curvature > 0 else 1.0
            c = -tau * radius / norm * g
            assert value <= g @ c + 0.5 * c @ h @ c + 1e-12


@pytest.mark.parametrize("name", ["rosenbrock", "helical_valley", "wood"])
def test_newton_cg_against_scipys_trust_ncg(name):
    (problem,) = (p for p in PROBLEMS if p.name == name)
    fun = half_squares(problem.residual)
    with enable_x64():
        run = jax.jit(lambda x: own_loop.run(gdjax.newton_cg(), fun, x, 130))
        value = float(fun(run(jnp.asarray(problem.start))[0]))
        peer = scipy.optimize.minimize(
            jax.jit(fun),
            problem.start,
            jac=jax.jit(jax.grad(fun)),
            hess=jax.jit(jax.hessian(fun)),
            method="trust-ncg",
            options=dict(gtol=1e-9, maxiter=130),
        )
    assert value <= peer.fun * (1 + 1e-9) + 1e-14


def test_newton_cg_leaves_a_saddle_and_shrinks_at_nan():
    def fun(x):  # not finite outside of |x| < 2; minima at (+-1, 0)
        inside = jnp.sum(x * x) < 4
        return jnp.where(inside, x[0] ** 4 / 4 - x[0] ** 2 / 2 + x[1] ** 2, jnp.nan)

    run = jax.jit(lambda x: own_loop.run(gdjax.newton_cg(50.0), fun, x, 12))
    x, _, values = run(jnp.array([0.01, 1.0]))
    np.testing.assert_allclose(jnp.abs(x), [1.0, 0.0], atol=1e-3)
    assert bool(jnp.isfinite(values).all())
