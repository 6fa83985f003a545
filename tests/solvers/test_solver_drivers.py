"""`least_squares`, `root`, and `minimize` with bounds, sets, and derivatives of solutions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from compiling import options_of_users
from mgh_least_squares import PROBLEMS
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.linear_model import LogisticRegression
from x64 import enable_x64

import gdjax
from gdjax.solvers import implicit

PROX = gdjax.proximal


def status(result):
    return gdjax.Status(int(result.status)).name


def diabetes():
    x, y = load_diabetes(return_X_y=True)
    return (x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std()


# --- least squares and roots -------------------------------------------------------------------


@pytest.mark.parametrize("name", ["brown_dennis", "meyer"])
def test_least_squares_equals_scipys(name):
    (problem,) = (p for p in PROBLEMS if p.name == name)
    with enable_x64():
        fit = gdjax.least_squares(
            problem.residual, jnp.asarray(problem.start), tol=1e-12, max_steps=600
        )
        peer = scipy.optimize.least_squares(
            jax.jit(problem.residual), problem.start, jax.jit(jax.jacfwd(problem.residual)),
            method="lm", xtol=1e-14, ftol=1e-14, gtol=1e-14, max_nfev=2000,
        )  # fmt: skip
        assert fit.converged, status(fit)
        np.testing.assert_allclose(fit.value, peer.cost, rtol=1e-9)
        # what a cost that is exact to 1e-15 says about the parameters is its square root
        np.testing.assert_allclose(fit.params, peer.x, rtol=1e-5)
        # besides the first, one for each trial and one to linearize, which SciPy counts apart
        assert fit.evaluations <= 3 * (peer.nfev + 10)


@pytest.mark.parametrize(
    ("name", "scaled", "most"),
    [("brown_dennis", False, 40), ("freudenstein_roth", True, 40), ("brown_dennis", True, 300)],
)
def test_least_squares_in_float32_settles_where_values_are_all_rounding(name, scaled, most):
    """Scaled, the path to Brown and Dennis's minimum is long, and rounding decides whether it takes
    150 or 250 steps: MINPACK takes 246 in float64.

    Rounding decides here, so the program is compiled as for users, whatever conftest.py says.
    """
    (problem,) = (p for p in PROBLEMS if p.name == name)
    method = gdjax.levenberg_marquardt(scaled=scaled)

    def run(start):
        return gdjax.least_squares(problem.residual, start, method, tol=0.0)

    fit = jax.jit(run, compiler_options=options_of_users())(jnp.array(problem.start))
    assert fit.converged and fit.steps < most, (status(fit), fit.steps)
    assert min(abs(float(fit.value) / v - 1) for v in problem.values if v) < 1e-4


@pytest.mark.slow
def test_least_squares_statuses_lanes_and_other_methods():
    def residual_fn(x, target):
        return x**3 - target

    targets = jnp.array([[1.0, 8.0], [27.0, 1.0], [jnp.nan, 1.0]])
    many = jax.vmap(lambda t: gdjax.least_squares(residual_fn, jnp.ones(2) * 2, args=(t,)))(targets)
    assert many.status.tolist() == [0, 0, gdjax.Status.NONFINITE]
    np.testing.assert_allclose(many.params[:2], np.cbrt(targets[:2]), rtol=1e-3)
    at_minimum = gdjax.least_squares(residual_fn, jnp.ones(2), args=(jnp.ones(2),))
    assert status(at_minimum) == "CONVERGED" and int(at_minimum.steps) == 0
    short = gdjax.least_squares(residual_fn, 5 * jnp.ones(2), args=(jnp.ones(2),), max_steps=2)
    assert status(short) == "STEP_LIMIT"
    for opt in (gdjax.gauss_newton(), gdjax.lbfgs(), gdjax.levenberg_marquardt(solver="cg")):
        fit = gdjax.least_squares(residual_fn, 2 * jnp.ones(2), opt, args=(targets[0],))
        np.testing.assert_allclose(fit.params, [1.0, 2.0], rtol=1e-3)
    with pytest.raises(gdjax.MinimizeError, match="^least_squares: STEP_LIMIT"):
        gdjax.least_squares(
            residual_fn, 5 * jnp.ones(2), args=(jnp.ones(2),), max_steps=2, throw=True
        )


@pytest.mark.slow
def test_root_and_its_derivatives():
    def fun(x, a):
        return {"p": x["p"] ** 2 + x["q"] - a, "q": x["p"] - 2 * x["q"]}

    with enable_x64():
        start = {"p": jnp.ones(()), "q": jnp.zeros(())}

        def p_of(a):  # p^2 + p / 2 = a
            return gdjax.root(fun, start, args=(a,), tol=1e-12).params["p"]

        exact = lambda a: (-0.5 + np.sqrt(0.25 + 4 * a)) / 2  # noqa: E731
        slope = lambda a: 1 / np.sqrt(0.25 + 4 * a)  # noqa: E731
        np.testing.assert_allclose(p_of(3.0), exact(3.0), rtol=1e-10)
        np.testing.assert_allclose(jax.grad(p_of)(3.0), slope(3.0), rtol=1e-10)
        np.testing.assert_allclose(jax.jvp(p_of, (3.0,), (2.0,))[1], 2 * slope(3.0), rtol=1e-10)
        a = jnp.array([0.5, 2.0])
        slopes = jax.jit(jax.vmap(jax.grad(p_of)))(a)
        np.testing.assert_allclose(slopes, slope(np.array(a)), rtol=1e-9)
        second = jax.grad(jax.grad(p_of))(3.0)
        np.testing.assert_allclose(second, -2 / (0.25 + 12) ** 1.5, rtol=1e-8)
    nowhere = gdjax.root(lambda x: x**2 + 1, jnp.ones(1))
    assert status(nowhere) == "LINE_SEARCH_FAILED"


def test_fixed_points_and_their_derivatives():
    """A contraction of a tree. On a linear map Anderson's method is GMRES (Walker & Ni 2011), which
    needs about as many steps as there are unknowns, here 6.
    """
    rng = np.random.default_rng(0)
    m = rng.normal(size=(6, 6))
    m = 0.95 * m / np.linalg.norm(m, 2)
    b = rng.normal(size=6)
    with enable_x64():
        a = jnp.asarray(m)

        def affine(x, b):
            return {
                "u": (a @ jnp.concatenate([x["u"], x["v"]]) + b)[:2],
                "v": (a @ jnp.concatenate([x["u"], x["v"]]) + b)[2:],
            }

        start = {"u": jnp.zeros(2), "v": jnp.zeros(4)}
        want = np.linalg.solve(np.eye(6) - m, b)
        steps = []
        for opt in (gdjax.anderson(6, ridge=1e-14), gdjax.gradient_descent(1.0)):
            result = gdjax.fixed_point(affine, start, opt, args=(jnp.asarray(b),), tol=1e-10)
            assert status(result) == "CONVERGED"
            np.testing.assert_allclose(
                np.concatenate(list(result.params.values())), want, atol=1e-7
            )
            steps.append(int(result.steps))
        assert steps[0] <= 15 and steps[1] > 2 * steps[0]

        def first(b):
            return gdjax.fixed_point(affine, start, args=(b,), tol=1e-12).params["u"][0]

        slopes = np.linalg.inv(np.eye(6) - m)[0]
        np.testing.assert_allclose(jax.jit(jax.grad(first))(jnp.asarray(b)), slopes, atol=1e-8)


# --- bounds and sets -----------------------------------------------------------------------------


def walled(x):
    """Rosenbrock's function, nan outside of the box that `WALLS` gives."""
    inside = jnp.all((x >= WALLS[0]) & (x <= WALLS[1]))
    return jnp.where(inside, 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2, jnp.nan)


WALLS = (jnp.array([-1.5, 0.3]), jnp.array([0.5, 2.0]))


@pytest.mark.parametrize(
    "opt",
    [None, gdjax.adam(gdjax.exponential_decay(0.1, 200, 0.5)), gdjax.lbfgs()],
    ids=["lbfgsb", "adam", "lbfgs"],
)
def test_bounds_are_never_left(opt):
    result = gdjax.minimize(
        walled, jnp.array([0.2, 9.0]), opt, bounds=WALLS, max_steps=900, tol=1e-3
    )
    assert status(result) == "CONVERGED", result
    np.testing.assert_allclose(result.params, [0.5, 0.3], atol=1e-4)
    assert bool((result.params >= WALLS[0]).all() & (result.params <= WALLS[1]).all())
    assert float(jnp.abs(jax.grad(walled)(result.params)).max()) > 0.5  # held by the bounds only


@pytest.mark.slow
def test_constraint_and_bounds_of_trees():
    target = {"w": jnp.array([0.9, 0.4, -0.5]), "b": jnp.array(3.0)}
    fun = lambda p: sum(jnp.sum((p[k] - target[k]) ** 2) for k in p)  # noqa: E731
    simplex = lambda p: {"w": gdjax.projections.projection_simplex(p["w"]), "b": p["b"]}  # noqa: E731
    want = gdjax.projections.projection_simplex(target["w"])
    start = {"w": jnp.zeros(3), "b": jnp.zeros(())}
    for opt in (None, gdjax.sgd(0.2)):
        result = gdjax.minimize(fun, start, opt, constraint=simplex)
        assert status(result) == "CONVERGED"
        np.testing.assert_allclose(result.params["w"], want, atol=1e-3)
        np.testing.assert_allclose(result.params["b"], 3.0, atol=1e-3)
    result = gdjax.minimize(fun, start, bounds=({"w": 0.0, "b": None}, {"w": 0.5, "b": 2.5}))
    np.testing.assert_allclose(result.params["w"], [0.5, 0.4, 0.0], atol=1e-4)
    np.testing.assert_allclose(result.params["b"], 2.5, atol=1e-6)
    lanes = jax.vmap(lambda u: gdjax.minimize(fun, start, bounds=(0.0, u)).params["b"])
    np.testing.assert_allclose(lanes(jnp.array([1.0, 5.0])), [1.0, 3.0], atol=1e-4)
    with pytest.raises(TypeError, match=r"bounds=...\) must be a tuple"):
        gdjax.minimize(fun, start, bounds=[0.0, 1.0, 2.0])
    with pytest.raises(ValueError, match="a projection onto both"):
        gdjax.minimize(fun, start, bounds=(0.0, 1.0), constraint=simplex)


SOLVERS = {
    "newton_cg": (gdjax.newton_cg(), {}),
    "lbfgsb": (None, dict(bounds=(-1e3, 1e3))),
}


@pytest.mark.parametrize("name", SOLVERS)
def test_hard_objectives_end_with_the_right_status(name):
    opt, more = SOLVERS[name]

    def end(fun, start, **options):
        return gdjax.minimize(fun, start, opt, **{**more, "max_steps": 60, **options})

    flat = end(lambda x: 0.0 * jnp.sum(x) + 3.0, jnp.ones(3))
    assert status(flat) == "CONVERGED" and int(flat.steps) == 0
    done = end(lambda x: jnp.sum(x * x), jnp.zeros(3))
    assert status(done) == "CONVERGED" and int(done.steps) == 0
    assert status(end(lambda x: jnp.sum(x) * jnp.nan, jnp.ones(2))) == "NONFINITE"
    step = end(lambda x: jnp.sum(jnp.where(x > 0.3, x + 5.0, -x)), jnp.array([0.9]))
    assert status(step) != "CONVERGED" and bool(jnp.isfinite(step.params).all())
    if name == "lbfgsb":  # down to the bound, and that is it
        down = end(lambda x: jnp.sum(x), jnp.ones(2))
        assert status(down) == "CONVERGED"
        np.testing.assert_array_equal(down.params, -1e3)
    else:
        down = end(lambda x: -jnp.sum(jnp.exp(x)), jnp.ones(2), max_steps=300)
        assert status(down) in ("NONFINITE", "STEP_LIMIT", "LINE_SEARCH_FAILED")
        assert bool(jnp.isfinite(down.params).all())
    edge = end(lambda x: jnp.sum(x - jnp.log(x)), jnp.full(2, 3.0), max_steps=200, tol=1e-3)
    np.testing.assert_allclose(edge.params, 1.0, atol=2e-3)  # log is nan below 0
    for empty in ({}, {"a": None, "z": jnp.zeros((0, 2))}):
        result = end(lambda p: jnp.zeros(()), empty)
        assert status(result) == "CONVERGED" and int(result.steps) == 0
    mixed = {"s": jnp.array(2.0), "h": jnp.ones(3, jnp.bfloat16)}
    result = end(
        lambda p: (p["s"] - 1) ** 2 + jnp.sum((p["h"].astype(jnp.float32) - 0.5) ** 2), mixed
    )
    assert result.params["h"].dtype == jnp.bfloat16
    np.testing.assert_allclose(result.params["s"], 1.0, atol=1e-3)
    np.testing.assert_allclose(result.params["h"].astype(jnp.float32), 0.5, atol=1e-2)


# --- real data -----------------------------------------------------------------------------------


def test_sparse_logistic_regression_on_real_data():
    """l1-penalized, with an intercept that is not, against scikit-learn's saga."""
    x, y = load_breast_cancer(return_X_y=True)
    x = ((x - x.mean(0)) / x.std(0))[:, :10]
    strength = 0.02
    peer = LogisticRegression(
        C=1 / (strength * len(y)), l1_ratio=1.0, solver="saga", tol=1e-12, max_iter=100000
    ).fit(x, y)
    with enable_x64():
        data = (jnp.asarray(x), jnp.asarray(y, float))

        def loss(p, x, y):
            logits = x @ p["w"] + p["b"]
            return jnp.mean(jax.nn.softplus(logits) - y * logits)

        opt = gdjax.fista(PROX.prox_lasso, reg={"w": strength, "b": None})
        start = {"w": jnp.zeros(10), "b": jnp.zeros(())}
        result = gdjax.minimize(loss, start, opt, args=data, tol=1e-9, max_steps=5000)
    assert status(result) == "CONVERGED"
    np.testing.assert_allclose(result.params["w"], peer.coef_[0], atol=1e-6)
    np.testing.assert_allclose(result.params["b"], peer.intercept_[0], atol=1e-6)
    assert ((np.asarray(result.params["w"]) == 0) == (peer.coef_[0] == 0)).all()


# --- derivatives of solutions ---------------------------------------------------------------------


def ridge(theta, x, y, opt=None, **options):
    """Return argmin 0.5 |x w - y|^2 / n + 0.5 theta |w|^2; theta is closed over."""

    def fun(w):
        return 0.5 * jnp.mean((x @ w - y) ** 2) + 0.5 * theta * jnp.sum(w * w)

    return gdjax.minimize(
        fun, jnp.zeros(10), opt, tol=1e-11, max_steps=500, implicit_diff=True, **options
    ).params


@pytest.mark.slow
def test_derivative_of_ridge_equals_the_closed_form():
    x, y = diabetes()
    n, theta = len(y), 0.3
    gram = x.T @ x / n + theta * np.eye(10)
    w = np.linalg.solve(gram, x.T @ y / n)
    slope = -np.linalg.solve(gram, w)
    by_y = np.linalg.solve(gram, x.T / n)
    with enable_x64():
        x, y = jnp.asarray(x), jnp.asarray(y)
        forward = jax.jit(jax.jacfwd(lambda t: ridge(t, x, y, gdjax.newton_cg())))(theta)
        np.testing.assert_allclose(forward, slope, atol=1e-8)
        backward = jax.jit(jax.jacrev(ridge, argnums=(0, 2)))(theta, x, y)
        np.testing.assert_allclose(backward[0], slope, atol=1e-8)
        np.testing.assert_allclose(backward[1], by_y, atol=1e-8)
        many = jax.jit(jax.vmap(jax.grad(lambda t: ridge(t, x, y).sum())))(jnp.array([theta, 1.0]))
        np.testing.assert_allclose(many[0], slope.sum(), atol=1e-8)
        second = jax.jit(jax.grad(jax.grad(lambda t: ridge(t, x, y)[2])))(theta)
        np.testing.assert_allclose(second, 2 * np.linalg.solve(gram, -slope)[2], rtol=1e-6)


@pytest.mark.parametrize(
    "solve",
    [
        implicit.solve_cg,
        implicit.solve_gmres,
        jax.scipy.sparse.linalg.cg,  # with a status
        lambda times, right: jnp.linalg.solve(jax.jacobian(times)(right), right),
    ],
    ids=["solve_cg", "solve_gmres", "jax_scipy", "own"],
)
def test_every_linear_solver_gives_the_derivative_forwards_and_backwards(solve):
    a = np.diag([1.0, 3.0, 10.0]) + 0.1
    with enable_x64():

        def solution(b):
            fun = lambda w: 0.5 * w @ jnp.asarray(a) @ w - b @ w + jnp.sum(w**4)  # noqa: E731
            return gdjax.minimize(fun, jnp.zeros(3), tol=1e-12, implicit_diff=solve).params

        b = jnp.array([1.0, -2.0, 0.5])
        w = np.asarray(solution(b))
        want = np.linalg.inv(a + np.diag(12 * w**2))
        push = jax.jit(lambda b, v: jax.jvp(solution, (b,), (v,))[1])
        np.testing.assert_allclose(push(b, b), want @ b, atol=1e-9)
        pull = jax.jit(jax.grad(lambda b: solution(b)[0]))
        np.testing.assert_allclose(pull(b), want[0], atol=1e-9)


def test_a_linear_solver_of_ones_own_for_a_fixed_point():
    """Its matrix is not symmetric, so that backwards it must get the transpose."""
    a = np.array([[0.5, 0.4, 0.0], [0.0, 0.3, -0.2], [0.1, 0.0, 0.2]])
    with enable_x64():

        def solution(b, solve):
            fun = lambda x: jnp.asarray(a) @ x + b  # noqa: E731
            return gdjax.fixed_point(fun, jnp.zeros(3), tol=1e-13, implicit_diff=solve).params

        b = jnp.array([1.0, -2.0, 0.5])
        gmres = jax.scipy.sparse.linalg.gmres
        for jacobian in (jax.jacrev, jax.jacfwd):
            ours = jacobian(solution)(b, lambda times, right: gmres(times, right, tol=1e-13)[0])
            np.testing.assert_allclose(ours, np.linalg.inv(np.eye(3) - a), atol=1e-10)


def test_a_derivative_takes_few_products_where_few_do():
    """Those of a contraction by 0.3: each makes the error smaller by as much, to 6e-6."""
    rng = np.random.default_rng(0)
    a = rng.normal(size=(150, 150))
    a = jnp.asarray(0.3 * a / np.linalg.norm(a, 2), jnp.float32)
    b, counts = jnp.ones(150), []

    def times(v):
        jax.debug.callback(lambda: counts.append(1))
        return v - a @ v

    x = jax.jit(lambda b: implicit.solve_gmres(times, b))(b)
    jax.effects_barrier()
    np.testing.assert_allclose(x - a @ x, b, atol=1e-4)
    assert len(counts) < 20


@pytest.mark.slow
def test_derivative_of_the_lasso_its_value_and_of_bounds():
    x, y = diabetes()
    n, reg = len(y), 0.05
    with enable_x64():

        def fun(w, y):
            return 0.5 * jnp.mean((jnp.asarray(x) @ w - y) ** 2)

        def lasso(reg, y):
            opt = gdjax.fista(PROX.prox_lasso, reg=reg)
            return gdjax.minimize(
                fun, jnp.zeros(10), opt, args=(y,), tol=1e-12, max_steps=3000, implicit_diff=True
            )

        y = jnp.asarray(y)
        w = np.asarray(lasso(reg, y).params)
        on = w != 0
        assert 0 < on.sum() < 10
        gram = x[:, on].T @ x[:, on] / n
        by_reg, by_y = np.zeros(10), np.zeros((10, n))
        by_reg[on] = -np.linalg.solve(gram, np.sign(w[on]))
        by_y[on] = np.linalg.solve(gram, x[:, on].T / n)
        ours = jax.jit(jax.jacrev(lambda r, y: lasso(r, y).params, argnums=(0, 1)))(reg, y)
        np.testing.assert_allclose(ours[0], by_reg, atol=1e-8)
        np.testing.assert_allclose(ours[1], by_y, atol=1e-8)
        value = jax.jit(jax.grad(lambda r: lasso(r, y).value))(reg)
        np.testing.assert_allclose(value, np.asarray(jax.grad(fun)(w, y)) @ by_reg, atol=1e-9)

        def boxed(upper):  # w_0 is held by its bound
            f = lambda w: jnp.sum((w - 2) ** 2) + w[0] * w[1]  # noqa: E731
            box = (0.0, jnp.stack([upper, jnp.inf]))
            return gdjax.minimize(f, jnp.ones(2), bounds=box, tol=1e-12, implicit_diff=True).params

        np.testing.assert_allclose(jax.jacfwd(boxed)(0.5), [1.0, -0.5], atol=1e-9)


@pytest.mark.slow
def test_derivative_of_a_fit():
    t = np.linspace(0, 2, 20)
    with enable_x64():
        y = jnp.asarray(3 * np.exp(-1.5 * t) + 0.1 * np.cos(9 * t))

        def fit(y):
            residual_fn = lambda p: p[0] * jnp.exp(-p[1] * t) - y  # noqa: E731
            return gdjax.least_squares(
                residual_fn, jnp.ones(2), tol=1e-13, implicit_diff=True
            ).params

        ours = jax.jit(jax.jacrev(fit))(y)
        h = 1e-5
        numeric = (fit(y.at[3].add(h)) - fit(y.at[3].add(-h))) / (2 * h)
        np.testing.assert_allclose(ours[:, 3], numeric, rtol=1e-5, atol=1e-8)
