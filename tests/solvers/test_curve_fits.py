"""Fits of curves: covariance of the parameters, robust losses, and bounds, against SciPy."""

import dataclasses
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from compiling import options_of_users
from mgh_least_squares import bounded_problem
from one_program import combined
from x64 import enable_x64

import gdjax
from gdjax import Status
from gdjax.solvers.bounded_levenberg_marquardt import minimum_in_box
from gdjax.solvers.damped import linearized
from gdjax.solvers.robust import LOSSES, influence, reweighted
from gdjax.solvers.uncertainty import inverse_root, uncertainty

FAST = {"xla_backend_optimization_level": 0, **(options_of_users() or {})}
T = np.linspace(0, 4, 30)
Y = 2.5 * np.exp(-1.3 * T) + np.random.default_rng(0).normal(0, 0.05, 30)
OUTLIERS = Y + 2.0 * (np.arange(30) % 9 == 4)
BOTH = np.array([1.0, 0.3])


def compiled(function):
    return jax.jit(function, compiler_options=FAST)


def decay(p, y):
    return p["a"] * jnp.exp(-p["b"] * T) - y


def numpy_decay(y):
    """The residuals and their Jacobian as SciPy takes them."""
    jacobian = lambda p: np.stack([np.exp(-p[1] * T), -p[0] * T * np.exp(-p[1] * T)], 1)  # noqa: E731
    return (lambda p: p[0] * np.exp(-p[1] * T) - y), jacobian


# --- covariance -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_covariance_is_curve_fits_in_any_units_of_every_lane():
    _, expected = scipy.optimize.curve_fit(lambda t, a, b: a * np.exp(-b * t), T, Y, BOTH)
    args = dict(sigma=np.full(30, 0.1), absolute_sigma=True)
    _, absolute = scipy.optimize.curve_fit(lambda t, a, b: a * np.exp(-b * t), T, Y, BOTH, **args)

    def fit(unit, sigma):
        residual_fn = lambda p: decay({"a": p["a"] / unit, "b": p["b"]}, Y) / sigma  # noqa: E731
        return gdjax.least_squares(residual_fn, {"a": unit * 1.0, "b": jnp.array([0.3])[0]})

    with enable_x64():
        units = np.array([1.0, 1e-20, 1e15])
        result = compiled(jax.vmap(fit))(jnp.array(units), jnp.array([0.1, 0.1, 1e30]))
        result = pickle.loads(pickle.dumps(result))
        assert result.converged.all() and isinstance(result, gdjax.LeastSquaresResult)
        for i, unit in enumerate(units):
            to = np.array([unit, 1.0])
            one = jax.tree.map(lambda x, i=i: x[i], result)
            for found in (result.covariance()[i], one.covariance()):
                np.testing.assert_allclose(found, expected * np.outer(to, to), rtol=1e-5)
            errors = result.standard_errors()
            np.testing.assert_allclose(errors["a"][i], unit * expected[0, 0] ** 0.5, rtol=1e-5)
            np.testing.assert_allclose(one.standard_errors()["b"], expected[1, 1] ** 0.5, rtol=1e-5)
        np.testing.assert_allclose(result.covariance(True)[0], absolute, rtol=1e-5)


@compiled
def known_at_zero(j, r):
    function = lambda p: r + j @ p  # noqa: E731
    return uncertainty(linearized(function, jnp.zeros(j.shape[1])), r, jnp.zeros(j.shape[1], bool))


def at_zero(j, r):
    """The result of the fit of r + J p that ends at p = 0."""
    fields = dict.fromkeys(field.name for field in dataclasses.fields(gdjax.Result))
    fields |= dict(params=jnp.zeros(j.shape[1]), uncertainty=known_at_zero(j, r))
    return gdjax.LeastSquaresResult(**fields)


def test_what_the_residuals_do_not_determine_is_infinite():
    rng = np.random.default_rng(0)
    with enable_x64():
        j, r = rng.normal(size=(9, 3)), rng.normal(size=9)
        known = r @ r / 6 * np.linalg.inv(j.T @ j)
        np.testing.assert_allclose(at_zero(j, r).covariance(), known, rtol=1e-10)
        # two columns that are one, in other units: only their sum is known; the third is
        twins = np.stack([j[:, 0], 1e9 * j[:, 0], j[:, 1]], 1)
        cov = at_zero(twins, r).covariance()
        alone = np.linalg.inv(j[:, :2].T @ j[:, :2])[1, 1] * (r @ r) / 6
        np.testing.assert_allclose(cov[2, 2], alone, rtol=1e-10)
        assert np.isinf(np.delete(np.ravel(cov), 8)).all()
        square = at_zero(j[:3], r[:3])  # m = n: the size of the errors is unknown
        assert np.isinf(square.covariance()).all()
        np.testing.assert_allclose(
            square.covariance(absolute_sigma=True), np.linalg.inv(j[:3].T @ j[:3]), rtol=1e-8
        )
        assert np.isinf(inverse_root(jnp.full((4, 2), jnp.nan))).all()
        assert inverse_root(jnp.zeros((3, 0))).shape == (0, 0)
        slope = compiled(jax.jacfwd(lambda x: jnp.diag(inverse_root(x * jnp.eye(4, 2)))))(2.0)
        np.testing.assert_allclose(slope, -0.25)  # equal singular values, too
    none = gdjax.LeastSquaresResult(*[None] * 9)
    with pytest.raises(ValueError, match=r"least_squares\(covariance=True\)"):
        none.covariance()


# --- robust losses --------------------------------------------------------------------------------


def test_losses_are_scipys():
    """Cost and gradient, near 0 and far out, and of complex residuals those of the magnitude."""
    f = np.concatenate([np.linspace(-3, 3, 25), [1e-9, 1e-4, -40, 1e6]])
    phase = np.exp(1j * np.arange(f.size))
    with enable_x64():
        for name in LOSSES:

            def look(f, c, name=name):
                far = jnp.array(-1e200)
                steep = jax.value_and_grad(lambda x: reweighted(x, name, jnp.ones(())))(far)
                complex_ones = reweighted(f * phase, name, c)
                return reweighted(f, name, c), influence(f, name, c), complex_ones, steep

            look = compiled(look)
            for c in (0.3, 1e3):
                peer = scipy.optimize.least_squares(
                    lambda x: x, f, loss=name, f_scale=c, max_nfev=1, jac=lambda x: np.eye(x.size)
                )
                new, (psi, slope), complex_ones, steep = look(f, c)
                np.testing.assert_allclose(0.5 * np.sum(np.square(new)), peer.cost, rtol=1e-12)
                np.testing.assert_allclose(psi, peer.grad, rtol=1e-10, atol=1e-12)
                ahead = look(f + 1e-7, c)[1].psi
                np.testing.assert_allclose(slope, (ahead - psi) / 1e-7, atol=2e-6)
                np.testing.assert_allclose(complex_ones, new * phase, rtol=1e-12)
                assert np.isfinite(steep).all() and abs(steep[0]) > 1
        own = reweighted(f, jnp.log1p, jnp.asarray(2.0))
        np.testing.assert_allclose(own, reweighted(f, "cauchy", jnp.asarray(2.0)), rtol=1e-7)


@pytest.mark.slow
def test_robust_fits_are_scipys():
    """Huber's with a scale for each lane; the costs of the others are SciPy's, see above."""

    def scaled(f_scale):
        start = {"a": jnp.ones(()), "b": jnp.array(0.3)}
        return gdjax.least_squares(decay, start, args=(OUTLIERS,), loss="huber", f_scale=f_scale)

    residuals, jacobian = numpy_decay(OUTLIERS)

    def check(result, name, c):
        peer = scipy.optimize.least_squares(
            residuals, BOTH, jacobian, loss=name, f_scale=c, ftol=1e-14, xtol=1e-14, gtol=1e-14
        )
        assert result.converged, (name, Status(int(result.status)).name)
        np.testing.assert_allclose(result.value, peer.cost, rtol=1e-10)
        found = [result.params["a"], result.params["b"]]
        np.testing.assert_allclose(found, peer.x, rtol=2e-6, err_msg=name)
        return peer

    with enable_x64():
        scales = [0.05, 0.1, 0.4, 1e6]
        many = compiled(jax.vmap(scaled))(jnp.array(scales))
        for i, c in enumerate(scales):
            one = jax.tree.map(lambda x, i=i: x[i], many)
            peer = check(one, "huber" if c < 1e6 else "linear", c)
            # Huber (1981), section 7.6, as statsmodels' RLM(...).fit(cov="H1")
            r, j = residuals(peer.x), jacobian(peer.x)
            psi, slope = np.clip(r, -c, c), (np.abs(r) <= c).astype(float)
            k = 1 + 2 / 30 * slope.var() / slope.mean() ** 2
            s2 = k**2 * (psi @ psi / 28) / slope.mean() ** 2
            expected = s2 * np.linalg.inv(j.T @ j)
            np.testing.assert_allclose(one.covariance(), expected, rtol=1e-4)
            inverse = np.linalg.inv(j.T @ j * slope.mean())
            np.testing.assert_allclose(one.covariance(absolute_sigma=True), inverse, rtol=1e-4)
        # the outliers barely move the fit, where the least squares are 0.2 away
        assert abs(many.params["b"][0] - 1.3) < 0.1 < 0.2 < abs(many.params["b"][3] - 1.3)


# --- bounds ---------------------------------------------------------------------------------------


def test_the_linear_problem_in_a_box_is_solved_exactly():
    """100 random ones, against SciPy's lsq_linear; some columns are nearly dependent."""
    rng = np.random.default_rng(1)
    upper = np.triu(rng.normal(size=(100, 6, 6))) + 0.1 * np.eye(6)
    upper[::5, :, 3] = upper[::5, :, 2] + 1e-6 * upper[::5, :, 3]
    c = rng.normal(size=(100, 6))
    low, high = -rng.uniform(size=(100, 6)), rng.uniform(size=(100, 6))
    low[rng.uniform(size=low.shape) < 0.3] = 0
    high[rng.uniform(size=low.shape) < 0.3] = np.inf
    damping = np.where(np.arange(100) % 2, 0.3, 0.0)
    with enable_x64():
        start = jnp.zeros(6), jnp.ones(6, bool)
        solve = compiled(jax.vmap(lambda *a: minimum_in_box(*a, *start).q))
        found = np.asarray(solve(*map(jnp.asarray, (upper, c, damping, low, high))))
    assert (found >= low).all() and (found <= high).all()
    for i in range(100):
        rows = np.concatenate([upper[i], damping[i] ** 0.5 * np.eye(6)])
        right = np.concatenate([-c[i], np.zeros(6)])
        value = np.sum((rows @ found[i] - right) ** 2)
        # lsq_linear needs low < high; its bounds are moved by nothing that counts
        peer = scipy.optimize.lsq_linear(rows, right, (low[i], high[i] + 1e-12), "bvls", tol=1e-14)
        assert value <= 2 * peer.cost + 1e-9 * (1 + peer.cost), i


# half the sum of squares where SciPy's least_squares(method="trf") ends, all tolerances 1e-13
SCIPYS_TRF = {
    0: 2.0396273594427345, 5: 62.18109117780749, 10: 249.67042457530005,
    13: 0.00019423715921471258, 15: 0.04114936809972397, 16: 0.0036378659403359485,
}  # fmt: skip


@pytest.mark.slow
def test_bounded_fits_reach_what_scipys_trf_reaches():
    """MGH with random bounds; nan outside of them, where one look would show."""
    problems = [bounded_problem(i) for i in SCIPYS_TRF]

    def guarded(problem, lower, upper):
        def residual(x):
            inside = jnp.all((x >= lower) & (x <= upper))
            return jnp.where(inside, problem.residual(x), jnp.nan)

        return residual

    residuals = [guarded(problem, low, high) for problem, _, low, high in problems]
    with enable_x64():
        function = combined(residuals, 99, [start.size for _, start, _, _ in problems])

        def fit(x, lower, upper, index):
            return gdjax.least_squares(
                function, x, args=(index,), bounds=(lower, upper), covariance=False
            )

        run = compiled(fit)
        for index, (problem, start, low, high) in enumerate(problems):
            start, low, high = (np.pad(v, (0, 6 - start.size)) for v in (start, low, high))
            for shift in (0.0, 100.0):  # the second start is outside
                result = run(start + shift, low, high, index)
                value, least = float(result.value), list(SCIPYS_TRF.values())[index]
                case = (problem.name, shift, value, least, Status(int(result.status)).name)
                assert result.converged, case
                params = np.asarray(result.params)
                assert (params >= low).all() and (params <= high).all(), case
                assert shift or value <= least * (1 + 1e-8), case


@pytest.mark.slow
def test_bounded_fits_of_trees_in_low_precision_under_vmap():
    """Logarithms at a bound of 0, a fixed parameter, a start outside, lanes that end at once."""

    def residual_fn(p, y):
        curve = p["a"][0] * jnp.exp(-p["b"] * T) + p["a"][1] + jnp.sum(p["none"])
        return (curve - y).astype(jnp.float32), 1e-3 * jnp.log(p["b"])

    def fit(y, fixed):
        start = dict(
            a=jnp.array([-5.0, 0.25]), b=jnp.array(-1.0, jnp.bfloat16), none=jnp.zeros((0, 2))
        )
        bounds = (
            dict(a=jnp.stack([0.0 * fixed, fixed]), b=1e-2, none=None),
            dict(a=jnp.stack([jnp.inf + fixed, fixed]), b=3.0, none=None),
        )
        return gdjax.least_squares(
            residual_fn, start, args=(y,), bounds=bounds, loss="soft_l1", f_scale=0.1
        )

    ys = np.stack([Y, OUTLIERS, 0 * Y, np.full(30, np.nan)]).astype(np.float32)
    result = compiled(jax.vmap(fit))(ys, jnp.array([0.0, 0.1, 0.0, 0.0]))
    assert result.params["b"].dtype == jnp.bfloat16
    assert ((result.params["b"] >= 0.01) & (result.params["b"] <= 3)).all()
    np.testing.assert_array_equal(result.params["a"][:, 1], np.float32([0, 0.1, 0, 0]))
    assert (result.params["a"][:, 0] >= 0).all() and result.params["a"][2, 0] < 1e-5
    np.testing.assert_allclose(result.params["a"][:2, 0], 2.5, atol=0.2)
    assert result.status[3] == Status.NONFINITE and result.converged[:2].all(), result.status
    errors = result.standard_errors()
    assert (errors["a"][:2, 1] == 0).all() and errors["none"].shape == (4, 0, 2)
    assert ((errors["a"][:2, 0] > 1e-3) & (errors["a"][:2, 0] < 0.1)).all()


def test_a_bounded_fit_can_be_differentiated():
    """The active bound is the parameter: its derivative by the bound is 1, by the data 0."""

    def fit(upper, shift):
        start = {"a": jnp.ones(()), "b": jnp.array(0.3)}
        bounds = (None, {"a": upper, "b": None})
        result = gdjax.least_squares(
            decay, start, args=(Y + shift,), bounds=bounds, implicit_diff=True, covariance=False
        )
        return jnp.stack([result.params["a"], result.params["b"]]), result.params

    with enable_x64():
        solve, step = compiled(jax.jacrev(fit, (0, 1), has_aux=True)), 1e-4
        slopes = solve(2.0, 0.1)[0]
        ends = [(2.0 + step, 0.1), (2.0 - step, 0.1), (2.0, 0.1 + step), (2.0, 0.1 - step)]
        found = (solve(*end)[1] for end in ends)
        a, b, c, d = (np.array([p["a"], p["b"]]) for p in found)
        np.testing.assert_allclose(slopes[0], (a - b) / (2 * step), rtol=1e-5)
        np.testing.assert_allclose(slopes[1], (c - d) / (2 * step), rtol=1e-5, atol=1e-9)
        np.testing.assert_allclose([slopes[0][0], slopes[1][0]], [1, 0], atol=1e-12)


@pytest.mark.parametrize(
    "more, text",
    [
        (dict(loss="huber_loss"), r"least_squares\(loss=...\) must be one of 'linear', 'soft_l1'"),
        (dict(loss="huber", f_scale=0.0), r"least_squares\(f_scale=...\) must be finite and > 0"),
        (dict(f_scale=float("nan")), r"least_squares\(f_scale=...\) must be finite and > 0"),
        (dict(f_scale=np.ones(2)), r"least_squares\(f_scale=...\) must be one number"),
        (dict(bounds=[(0, 1)] * 2), r"least_squares\(bounds=...\) must be a pair \(lower, upper\)"),
        (dict(bounds=(2.0, 1.0)), "must have lower <= upper everywhere"),
        (dict(bounds=(np.nan, 1.0)), "must have lower <= upper everywhere"),
        (dict(bounds=(np.zeros(3), None)), r"\(lower=...\) has shape \(3,\)"),
        (dict(bounds=({"a": 0.0}, None)), "lower"),
        (dict(bounds=(0.0, None), optimizer=gdjax.levenberg_marquardt()), "knows of no bounds"),
        (dict(covariance="yes"), r"least_squares\(covariance=...\)"),
    ],
)
def test_errors_name_the_argument(more, text):
    with pytest.raises((ValueError, TypeError), match=text):
        gdjax.least_squares(jnp.sin, jnp.ones(2), **more)
    with pytest.raises(TypeError, match="complex numbers have no order"):
        gdjax.least_squares(jnp.abs, jnp.ones(2, complex), bounds=(0.0, None))
