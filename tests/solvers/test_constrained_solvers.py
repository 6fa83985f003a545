"""Proximal and projected gradient, FISTA, mirror descent and L-BFGS-B in a user's own loop."""

import jax
import jax.numpy as jnp
import numpy as np
import own_loop
import pytest
import scipy.optimize
from mgh_least_squares import bounded_problem
from sklearn.datasets import load_diabetes
from sklearn.linear_model import ElasticNet, Lasso, Ridge
from x64 import enable_x64

import gdjax
from gdjax.solvers.box import cauchy_point, compact, subspace_minimum

PROX = gdjax.proximal


def diabetes():
    x, y = load_diabetes(return_X_y=True)
    return (x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std()


def mean_half_squares(x, y):
    return lambda w: 0.5 * jnp.mean((jnp.asarray(x) @ w - jnp.asarray(y)) ** 2)


def kkt_residual(fun, w, strength):
    """Return how far a lasso's solution is from its optimality conditions."""
    g = jax.grad(fun)(w)
    return jnp.max(
        jnp.where(w == 0, jnp.maximum(jnp.abs(g) - strength, 0), abs(g + strength * jnp.sign(w)))
    )


def test_fista_follows_the_paper_with_a_fixed_step():
    """Beck & Teboulle's (4.1) to (4.3) in NumPy; no restart happens in the first steps."""
    rng = np.random.default_rng(0)
    a, b, eta, reg = rng.normal(size=(8, 4)), rng.normal(size=8), 0.02, 0.3
    x = y = np.zeros(4)
    t, restarts = 1.0, 0
    with enable_x64():
        opt = gdjax.fista(PROX.prox_lasso, eta, reg=reg)
        params = jnp.zeros(4)
        state = opt.init(params)
        for _ in range(20):
            z = y - eta * a.T @ (a @ y - b)
            new = np.sign(z) * np.maximum(np.abs(z) - eta * reg, 0)
            if (y - new) @ (new - x) > 0:
                y, t, restarts = new, 1.0, restarts + 1
                t = (1 + np.sqrt(1 + 4 * t * t)) / 2
            else:
                following = (1 + np.sqrt(1 + 4 * t * t)) / 2
                y, t = new + (t - 1) / following * (new - x), following
            x = new
            updates, state = opt.update(
                jnp.asarray(a).T @ (jnp.asarray(a) @ params - b), state, params
            )
            params = params + updates
            np.testing.assert_allclose(gdjax.eval_params(state, params), x, atol=1e-13)
            np.testing.assert_allclose(params, y, atol=1e-13)


@pytest.mark.parametrize("strength", [0.3, 0.02])
def test_lasso_on_real_data(strength):
    """KKT residual below 1e-8, the same zeros as scikit-learn; plain ISTA agrees."""
    x, y = diabetes()
    with enable_x64():
        fun = mean_half_squares(x, y)
        w, _, _ = jax.jit(
            lambda w: own_loop.run(gdjax.fista(PROX.prox_lasso, reg=strength), fun, w, 800)
        )(jnp.zeros(10))
        assert kkt_residual(fun, w, strength) < 1e-8
        opt = gdjax.fista(PROX.prox_lasso, reg=strength)
        assert gdjax.minimize(fun, w, opt, max_steps=0).grad_norm < 1e-8
        plain, _, _ = jax.jit(
            lambda w: own_loop.run(
                gdjax.proximal_gradient(PROX.prox_lasso, reg=strength), fun, w, 3000
            )
        )(jnp.zeros(10))
        np.testing.assert_allclose(plain, w, atol=1e-8)
    peer = Lasso(alpha=strength, tol=1e-12, max_iter=100000, fit_intercept=False).fit(x, y).coef_
    np.testing.assert_allclose(w, peer, atol=1e-7)
    assert ((np.asarray(w) == 0) == (peer == 0)).all()


def test_elastic_net_and_ridge_on_real_data():
    x, y = diabetes()
    with enable_x64():
        fun = mean_half_squares(x, y)

        def fit(prox, reg):
            run = jax.jit(lambda w, r: own_loop.run(gdjax.fista(prox, reg=r), fun, w, 400)[0])
            return run(jnp.zeros(10), reg)

        net = fit(PROX.prox_elastic_net, (0.05, 1.5))
        ridge = fit(PROX.prox_ridge, 0.1)
    # alpha (l1_ratio |w| + (1 - l1_ratio) / 2 |w|^2) with alpha l1_ratio = 0.05 and rest 0.075
    peer = ElasticNet(0.125, l1_ratio=0.4, tol=1e-12, max_iter=10**5, fit_intercept=False)
    np.testing.assert_allclose(net, peer.fit(x, y).coef_, atol=1e-6)
    peer = Ridge(0.1 * len(y), fit_intercept=False).fit(x, y)
    np.testing.assert_allclose(ridge, peer.coef_, atol=1e-6)


def test_a_grid_of_penalties_is_data_and_a_prefix_tree_spares_the_intercept():
    x, y = diabetes()
    x, y = jnp.asarray(x, jnp.float32), jnp.asarray(y + 3.0, jnp.float32)
    fun = lambda p: 0.5 * jnp.mean((x @ p["w"] + p["b"] - y) ** 2)  # noqa: E731
    params = {"w": jnp.zeros(10), "b": jnp.zeros(())}

    def fit(strength):
        opt = gdjax.fista(PROX.prox_lasso, reg={"w": strength, "b": None})
        return own_loop.run(opt, fun, params, 200)[0]

    path = jax.jit(jax.vmap(fit))(jnp.array([1.0, 0.1, 0.0]))
    np.testing.assert_allclose(path["b"], 3.0, atol=1e-4)
    assert not path["w"][0].any() and 0 < (path["w"][1] != 0).sum() < 10
    exact = jnp.linalg.lstsq(x, y - 3.0)[0]
    np.testing.assert_allclose(path["w"][2], exact, atol=2e-2)  # one small singular value
    assert (
        gdjax.fista(PROX.prox_lasso, reg=1.0).update is gdjax.fista(PROX.prox_lasso, reg=2.0).update
    )
    names = gdjax.hyperparams(gdjax.fista(PROX.prox_elastic_net, 0.1, reg=(1.0, 2.0)).init(params))
    assert set(names) == {"reg_0", "reg_1", "learning_rate"}


def test_projected_gradient_and_mirror_descent_on_the_simplex():
    """min 0.5 |w - target|^2 over the simplex has the projection of the target as its solution."""
    target = jnp.array([0.9, 0.4, -0.5, 0.1])
    fun = lambda w: 0.5 * jnp.sum((w - target) ** 2)  # noqa: E731
    want = gdjax.projections.projection_simplex(target)
    start = jnp.full(4, 0.25)
    for opt in (
        gdjax.projected_gradient(gdjax.projections.projection_simplex),
        gdjax.projected_gradient(gdjax.projections.projection_simplex, accelerated=True),
        gdjax.mirror_descent(1.0),
    ):
        w, _, _ = jax.jit(lambda w, opt=opt: own_loop.run(opt, fun, w, 300))(start)
        np.testing.assert_allclose(w, want, atol=2e-3)
        np.testing.assert_allclose(jnp.sum(w), 1, atol=1e-6)
        assert gdjax.minimize(fun, w, opt, max_steps=0).grad_norm < 3e-3
    box = gdjax.projected_gradient(gdjax.projections.projection_box, numbers=(0.0, 0.3))
    w, _, _ = jax.jit(lambda w: own_loop.run(box, fun, w, 30))(start)
    np.testing.assert_allclose(w, jnp.clip(target, 0, 0.3), atol=1e-6)


def test_mirror_descent_multiplies_and_comes_back_from_underflow():
    opt = gdjax.mirror_descent(100.0)
    w = jnp.array([0.5, 0.5])
    state = opt.init(w)
    for grad in ([0.0, 10.0], [0.0, -10.0]):  # exp(-1000) is 0, and then undone
        updates, state = opt.update(jnp.array(grad), state, w)
        w = w + updates
    np.testing.assert_allclose(w, 0.5, atol=1e-4)


def test_backtracking_errors_and_failure():
    opt = gdjax.proximal_gradient(PROX.prox_lasso)
    x = jnp.ones(2)
    with pytest.raises(
        TypeError, match="^proximal_gradient with learning_rate=None needs value=..."
    ):
        opt.update(x, opt.init(x), x)
    nan = lambda x: jnp.sum(x) * jnp.nan  # noqa: E731
    updates, state = opt.update(x, opt.init(x), x, value=1.0, value_fn=nan)
    assert bool(state.slots.failed) and not updates.any()
    for method in (gdjax.fista, gdjax.proximal_gradient):
        name = method.__name__
        with pytest.raises(TypeError, match=rf"^{name}\(prox=...\) must be a function, got"):
            method(0.1)
        with pytest.raises(ValueError, match=rf"^{name} needs the parameters"):
            method(PROX.prox_lasso, 0.1).update(x, method(PROX.prox_lasso, 0.1).init(x))


# --- L-BFGS-B --------------------------------------------------------------------------------


def model_of(n, pairs, seed):
    """Return a model from random pairs of a positive definite matrix, its dense form, a box."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(n, n))
    hessian = root @ root.T + np.eye(n)
    s = np.zeros((4, n))
    s[4 - pairs :] = rng.normal(size=(pairs, n))
    y = s @ hessian
    used = np.arange(4) >= 4 - pairs
    b = (y[-1] @ y[-1]) / (s[-1] @ y[-1]) * np.eye(n) if pairs else np.eye(n)
    for i in range(4 - pairs, 4):  # the BFGS formula, one pair after the other
        bs = b @ s[i]
        b = b - np.outer(bs, bs) / (s[i] @ bs) + np.outer(y[i], y[i]) / (s[i] @ y[i])
    x, g = rng.uniform(size=n), rng.normal(size=n)
    lower, upper = x - rng.uniform(0, 0.3, n), x + rng.uniform(0, 0.3, n)
    lower[0], upper[1] = x[0], np.inf
    return (s, y, used), b, x, g, lower, upper


@jax.jit
def ours(s, y, used, x, g, lower, upper):
    model = compact(s, y, used)
    dense = model.theta * jnp.eye(x.size) - model.w @ model.times_m(model.w).T
    cauchy = cauchy_point(model, x, g, lower, upper)
    return dense, cauchy, subspace_minimum(model, x, g, cauchy, lower, upper)


@pytest.mark.parametrize("pairs", [0, 2, 4])
def test_cauchy_point_and_subspace_minimum_against_dense_ones(pairs):
    for seed in range(4):
        with enable_x64():
            pair_rows, b, x, g, lower, upper = model_of(6, pairs, seed)
            dense, cauchy, target = map(np.asarray, ours(*pair_rows, x, g, lower, upper))
            np.testing.assert_allclose(dense, b, rtol=1e-8, atol=1e-8)

        def value(z, x=x, g=g, b=b):
            return g @ (z - x) + 0.5 * (z - x) @ b @ (z - x)

        # the first local minimum along the projected path, on a fine grid of times
        times = np.linspace(0, 3, 30001)
        path = np.clip(x - times[:, None] * g, lower, upper)
        d = path - x
        values = d @ g + 0.5 * np.einsum("ti,ij,tj->t", d, b, d)
        first = np.argmax(np.diff(values) > 0) if (np.diff(values) > 0).any() else -1
        np.testing.assert_allclose(cauchy, path[first], atol=1e-3)
        assert value(cauchy) <= values[first] + 1e-7
        assert (target >= lower).all() and (target <= upper).all()
        free = (cauchy > lower) & (cauchy < upper)
        inside = ((target > lower) & (target < upper))[free].all()
        if inside and free.any():  # then it is the exact minimum over the free variables
            np.testing.assert_allclose((g + b @ (target - x))[free], 0, atol=1e-8)


@pytest.mark.parametrize("index", [0, 5, 10, 13, 15, 16])
def test_lbfgsb_against_scipys_on_bounded_mgh_problems(index):
    problem, start, lower, upper = bounded_problem(index)
    with enable_x64():

        def fun(x):  # nan outside of the box: one look there spoils the run
            inside = jnp.all((x >= lower) & (x <= upper))
            return jnp.where(inside, 0.5 * jnp.sum(problem.residual(x) ** 2), jnp.nan)

        both = jax.jit(jax.value_and_grad(fun))
        peer = scipy.optimize.minimize(
            lambda x: tuple(map(np.asarray, both(jnp.asarray(x)))),
            start,
            jac=True,
            method="L-BFGS-B",
            bounds=scipy.optimize.Bounds(lower, upper),
            options=dict(gtol=1e-8, ftol=0, maxiter=300, maxfun=2000),
        )
        opt = gdjax.lbfgsb(jnp.asarray(lower), jnp.asarray(upper))
        x, state, values = jax.jit(lambda x: own_loop.run(opt, fun, x, 120))(jnp.asarray(start))
        assert bool(jnp.isfinite(values).all()), "evaluated outside of the box"
        assert bool((jnp.diff(values) <= 1e-12 * jnp.abs(values[1:])).all())
        assert float(values[-1]) <= peer.fun + 1e-7 * abs(peer.fun) + 1e-12


def test_lbfgsb_evaluates_only_inside_of_the_box_also_in_the_line_search():
    """jaxopt#590: log(x) of a point left of 0 is never asked for; all points are recorded."""
    seen = []

    def fun(x):
        jax.debug.callback(lambda x: seen.append(np.asarray(x)), x)
        return jnp.sum(x - 0.01 * jnp.log(x)) + 5 * (x[0] - x[1]) ** 2

    lower = jnp.array([1e-3, 0.2, -jnp.inf])
    opt = gdjax.lbfgsb(lower, 1.0)
    x = jnp.array([1.0, 0.9, 0.5])
    # without a lower bound the third variable goes to 0.01, where log is steep
    x = gdjax.minimize(fun, x, opt, max_steps=25).params
    jax.effects_barrier()
    seen = np.array(seen)
    assert len(seen) > 15
    assert (seen[:, :2] >= np.asarray(lower)[:2]).all() and (seen <= 1.0).all()
    assert float(x[1]) == np.float32(0.2)
    np.testing.assert_allclose(x[2], 0.01, rtol=1e-2)


def test_lbfgsb_errors_and_state():
    with pytest.raises(ValueError, match=r"lbfgsb\(history_size=...\) must be"):
        gdjax.lbfgsb(history_size=0)
    with pytest.raises(ValueError, match="must have lower <= upper everywhere"):
        gdjax.lbfgsb(1.0, 0.0).init(jnp.ones(2))
    assert gdjax.lbfgsb(0.0, slope_rtol=0.1).update is gdjax.lbfgsb(1.0).update
    typeof = getattr(jax, "typeof", None) or jax.core.get_aval
    for params in ({"a": jnp.ones((), jnp.bfloat16), "z": jnp.ones((0, 2)), "c": jnp.ones(2)}, {}):
        opt = gdjax.lbfgsb(-1.0, 2.0)
        value_fn = lambda p: sum(  # noqa: E731
            [jnp.sum(x.astype(jnp.float32) ** 2) for x in jax.tree.leaves(p)], jnp.zeros(())
        )
        state = opt.init(params)
        step = jax.jit(
            lambda p, s, opt=opt, f=value_fn: opt.update(
                jax.grad(f)(p), s, p, value=f(p), value_fn=f
            )
        )
        updates, new = step(params, state)
        assert jax.tree.map(typeof, new) == jax.tree.map(typeof, state)
        assert jax.tree.map(typeof, updates) == jax.tree.map(typeof, params)
        updates, new = step(jax.tree.map(jnp.zeros_like, params), state)
        assert all(not bool(u.any()) for u in jax.tree.leaves(updates))
        assert not bool(new.slots.failed)
