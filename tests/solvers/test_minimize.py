"""`minimize`: every way in which it can end, reuse of what is known, lanes, and all methods."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
from x64 import enable_x64

import gdjax
from gdjax import Status

HZ = gdjax.scale_by_hager_zhang_linesearch
METHODS = {
    "lbfgs": gdjax.lbfgs(),
    "lbfgs, hager_zhang": gdjax.lbfgs(linesearch=HZ()),
    "bfgs": gdjax.bfgs(),
    "polak_ribiere": gdjax.nonlinear_cg("polak_ribiere"),
    "hager_zhang": gdjax.nonlinear_cg("hager_zhang", HZ(curv_rtol=0.2)),
    "barzilai_borwein": gdjax.barzilai_borwein(),
    "steepest_descent": gdjax.steepest_descent(),
}
every_method = pytest.mark.parametrize("opt", METHODS.values(), ids=METHODS)


def rosenbrock(x):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def bowl(x):
    return jnp.sum(jnp.arange(1.0, x.size + 1) * (x - 1) ** 2) + 0.25 * jnp.sum((x - 1) ** 4)


@every_method
def test_converges_in_both_precisions_and_sees_what_it_reports(opt):
    seen = []

    def fun(x):
        jax.debug.callback(lambda: seen.append(1))
        return bowl(x)

    result = gdjax.minimize(fun, jnp.zeros(4), opt)
    jax.effects_barrier()
    assert result.status == Status.CONVERGED and result.grad_norm < 4e-4
    np.testing.assert_allclose(result.params, 1, atol=1e-3)
    assert len(seen) == result.evaluations
    with enable_x64():
        result = gdjax.minimize(bowl, jnp.zeros(4), opt)
        assert result.converged and result.params.dtype == jnp.float64
        np.testing.assert_allclose(result.params, 1, atol=1e-7)  # tol is 1.5e-8, curvature 2
        np.testing.assert_allclose(result.value, bowl(result.params), rtol=1e-12)
        gradient = jax.grad(bowl)(result.params)
        np.testing.assert_allclose(result.grad_norm, jnp.abs(gradient).max(), rtol=1e-9)


def test_lbfgs_needs_no_more_evaluations_than_scipy():
    with enable_x64():
        for n in (2, 100):
            start = np.tile([-1.2, 1.0], n // 2)
            ours = gdjax.minimize(rosenbrock, jnp.asarray(start), tol=1e-5)
            theirs = scipy.optimize.minimize(
                scipy.optimize.rosen,
                start,
                jac=scipy.optimize.rosen_der,
                method="L-BFGS-B",
                options=dict(gtol=1e-5, ftol=0, maxiter=1000),
            )
            assert ours.converged and ours.value < 1e-9
            assert ours.evaluations <= 1.1 * theirs.nfev


@every_method
def test_at_the_solution_nothing_is_done(opt):
    result = gdjax.minimize(bowl, jnp.ones(3), opt)
    assert (result.status, result.steps, result.evaluations) == (Status.CONVERGED, 0, 1)


def troubles(x, kind):
    """One program for all that can go wrong."""
    cases = (
        lambda x: 3.0 + 0 * jnp.sum(x),
        rosenbrock,
        lambda x: jnp.sum(jnp.log(-x)),
        lambda x: -jnp.sum(jnp.exp(x)),
        liar,
    )
    return jax.lax.switch(kind, cases, x)


@every_method
def test_bad_objectives_end_with_the_right_status_and_finite_parameters(opt):
    def run(kind, start, max_steps=200):
        start = jnp.array(start)
        return gdjax.minimize(troubles, start, opt, args=(kind,), max_steps=max_steps)

    flat = run(0, [1.0, 1.0])
    assert (flat.status, flat.steps) == (Status.CONVERGED, 0)
    limit = run(1, [-1.2, 1.0], max_steps=3)
    assert (limit.status, limit.steps) == (Status.STEP_LIMIT, 3)
    assert limit.value < rosenbrock(jnp.array([-1.2, 1.0]))
    undefined = run(2, [1.0, 1.0])
    assert (undefined.status, undefined.steps) == (Status.NONFINITE, 0)
    unbounded = run(3, [1.0, 1.0])
    assert unbounded.status == Status.NONFINITE and unbounded.value < -1e15
    wrong = run(4, [1.0, 2.0])  # its gradient points downhill
    assert wrong.status == Status.LINE_SEARCH_FAILED and wrong.steps == 2
    np.testing.assert_array_equal(wrong.params, [1.0, 2.0])
    for result in (limit, undefined, unbounded, wrong):
        assert np.isfinite(np.asarray(result.params)).all()


@jax.custom_jvp
def liar(x):
    return jnp.sum(x**2)


liar.defjvp(lambda p, t: (liar(p[0]), -2 * jnp.vdot(p[0], t[0])))


def walled(x, wall):
    """Defined left of 1 only; the minimum is at 0.9."""
    return jnp.where(jnp.all(x < 1), jnp.sum((x - 0.9) ** 2), wall)


@every_method
def test_walls_of_nan_and_inf_only_shorten_the_step(opt):
    for wall in (jnp.nan, jnp.inf, -jnp.inf):
        start = jnp.array([-30.0, 0.0])
        result = gdjax.minimize(walled, start, opt, args=(wall,), max_steps=100)
        assert result.converged
        np.testing.assert_allclose(result.params, 0.9, atol=1e-3)


def test_a_step_down_is_found_where_the_objective_jumps():
    def fun(x):
        return jnp.sum(x**2) + jnp.sum(jnp.where(x > 0.5, 10.0, 0.0))

    result = gdjax.minimize(fun, jnp.array([3.0]))
    assert result.converged and abs(float(result.params[0])) < 1e-3


def test_values_too_coarse_to_show_a_decrease():
    """1e6 + x^2 in float32 has steps of 0.06: only slopes tell where the minimum is."""
    for search in (gdjax.scale_by_zoom_linesearch(), HZ()):
        opt = gdjax.lbfgs(linesearch=search)
        result = gdjax.minimize(lambda x: 1e6 + jnp.sum((x - 2) ** 2), jnp.zeros(3), opt)
        assert result.converged
        np.testing.assert_allclose(result.params, 2, atol=1e-3)


def test_lanes_end_by_themselves():
    def fun(x, a, b):
        return a * jnp.sum((x - b) ** 2) + jnp.where(b > 50, jnp.nan, 0.0)

    a = jnp.ones(1000).at[1].set(100.0)
    b = jnp.linspace(-5, 5, 1000).at[:3].set(jnp.array([0.0, 3.0, 99.0]))

    @jax.jit
    @jax.vmap
    def lanes(a, b):
        return gdjax.minimize(fun, jnp.zeros(2), args=(a, b))

    result = lanes(a, b)
    assert result.status[2] == Status.NONFINITE and (result.params[2] == 0).all()
    others = np.arange(1000) != 2
    assert result.converged[others].all()
    assert result.steps[0] == 0 < result.steps[1]
    np.testing.assert_allclose(result.params[others, 0], b[others], atol=1e-3)


def test_one_trace_for_all_numbers():
    traces = []

    def fun(x, target):
        traces.append(1)
        return jnp.sum((x - target) ** 4)

    for tol, limit, target in ((1e-3, 100, 1.0), (1e-4, 50, 2.0)):
        opt = gdjax.lbfgs(linesearch=gdjax.scale_by_zoom_linesearch(20, slope_rtol=tol))
        gdjax.minimize(fun, jnp.zeros(2), opt, args=(target,), tol=tol, max_steps=limit)
        traces.append("end")
    assert traces.index("end") > 0 and traces.index("end") == len(traces) - 2


def test_any_optimizer_aux_trace_progress_and_trees():
    shown = []
    params = {"a": jnp.array(2.0), "b": jnp.ones((2, 2), jnp.bfloat16), "c": None}

    def fun(p):
        return p["a"] ** 2 + jnp.sum((p["b"] - 2) ** 2), {"a": p["a"]}

    result = gdjax.minimize(
        fun, params, gdjax.adam(0.1), has_aux=True, tol=1e-2, max_steps=500, trace=True,
        progress=lambda *row: shown.append(row),
    )  # fmt: skip
    jax.effects_barrier()
    assert result.converged and result.params["b"].dtype == jnp.bfloat16
    assert result.aux["a"] == result.params["a"] and result.params["c"] is None
    assert len(shown) == result.steps and shown[-1][0] == result.steps
    values = np.asarray(result.trace["value"])
    assert np.isfinite(values[: result.steps]).all() and np.isnan(values[result.steps :]).all()
    assert values[0] == 8.0
    empty = gdjax.minimize(lambda p: jnp.float32(1.0), {})
    assert empty.converged and empty.steps == 0


@pytest.mark.parametrize("name", ["lbfgs", "polak_ribiere", "barzilai_borwein"])
def test_complex_parameters(name):
    target, opt = jnp.array([1 + 2j, -3j]), METHODS[name]
    result = gdjax.minimize(lambda z: jnp.sum(jnp.abs(z - target) ** 2), jnp.zeros(2) + 0j, opt)
    assert result.converged
    np.testing.assert_allclose(result.params, target, atol=1e-3)


def test_throw_names_the_status():
    with pytest.raises(gdjax.MinimizeError, match="STEP_LIMIT: max_steps was reached") as error:
        gdjax.minimize(rosenbrock, jnp.array([-1.2, 1.0]), max_steps=2, throw=True)
    assert error.value.result.steps == 2
    with pytest.raises(TypeError, match="throw=True"):
        jax.jit(lambda x: gdjax.minimize(bowl, x, throw=True).params)(jnp.zeros(2))


def test_bad_arguments():
    with pytest.raises(TypeError, match=r"minimize\(fun=...\) must return one real number"):
        gdjax.minimize(lambda x: x, jnp.zeros(2))
    with pytest.raises(ValueError, match=r"minimize\(tol=...\)"):
        gdjax.minimize(bowl, jnp.zeros(2), tol=-1.0)
    with pytest.raises(TypeError, match="must be float or complex"):
        gdjax.minimize(bowl, jnp.zeros(2, jnp.int32))
    opt = gdjax.lbfgs()
    x = jnp.ones(2)
    with pytest.raises(TypeError, match=r"^lbfgs needs value=..."):
        opt.update(x, opt.init(x), x)
    alone = gdjax.scale_by_zoom_linesearch()
    with pytest.raises(TypeError, match=r"^scale_by_zoom_linesearch needs value=..."):
        alone.update(x, alone.init(x), x)
    with pytest.raises(ValueError, match="^lbfgs needs the parameters"):
        opt.update(x, opt.init(x), value=1.0, grad=x, value_fn=bowl)
    with pytest.raises(
        ValueError, match=r"^lbfgs\(memory_size=...\) must be an integer >= 1, got 0"
    ):
        gdjax.lbfgs(memory_size=0)


@pytest.mark.parametrize("library", [gdjax, optax], ids=["gdjax", "optax"])
def test_the_loop_that_optax_documents(library):
    """Unchanged but for the library's name; ours compiles once, for float32 and float64."""
    fun, traces = rosenbrock, []
    opt = library.lbfgs()
    value_and_grad = library.value_and_grad_from_state(fun)

    @jax.jit
    def step(params, state):
        traces.append(1)
        value, grad = value_and_grad(params, state=state)
        updates, state = opt.update(grad, state, params, value=value, grad=grad, value_fn=fun)
        return library.apply_updates(params, updates), state

    params = jnp.array([-1.2, 1.0])
    state = opt.init(params)
    for _ in range(60):
        params, state = step(params, state)
    np.testing.assert_allclose(params, 1, atol=1e-3)
    assert len(traces) == 1 if library is gdjax else len(traces) >= 1


def test_the_stopping_rule_that_optax_documents():
    """It looks for the one count and the one gradient in the state, in a loop on the device."""
    fun, opt = rosenbrock, gdjax.lbfgs()
    value_and_grad = gdjax.value_and_grad_from_state(fun)

    def step(carry):
        params, state = carry
        value, grad = value_and_grad(params, state=state)
        updates, state = opt.update(grad, state, params, value=value, grad=grad, value_fn=fun)
        return gdjax.apply_updates(params, updates), state

    def unfinished(carry):
        count, grad = (gdjax.tree.get(carry[1], name) for name in ("count", "grad"))
        return (count == 0) | ((count < 100) & (gdjax.tree.norm(grad) >= 1e-3))

    start = jnp.array([-1.2, 1.0])
    params, state = jax.lax.while_loop(unfinished, step, (start, opt.init(start)))
    np.testing.assert_allclose(params, 1, atol=1e-3)
    assert 10 < state.count < 60
    assert gdjax.lbfgs(0.5).update is gdjax.lbfgs(0.7).update
    assert float(gdjax.hyperparams(gdjax.lbfgs(0.5).init(start))["learning_rate"]) == 0.5


def test_extras_that_value_fn_takes_by_name_are_passed_on():
    def fun(params, x, y):
        return 0.5 * (x @ params - y) ** 2

    for search in (
        gdjax.scale_by_backtracking_linesearch(15),
        gdjax.scale_by_backtracking_linesearch(15, store_grad=True),
        gdjax.scale_by_zoom_linesearch(15),
    ):
        opt = gdjax.chain(gdjax.sgd(1.0), search)
        params, x, y = jnp.array([1.0, 2.0, 3.0]), jnp.array([3.0, 2.0, 1.0]), jnp.array(0.0)
        state = opt.init(params)
        for _ in range(5):
            value, grad = jax.value_and_grad(fun)(params, x, y)
            updates, state = opt.update(
                grad, state, params, value=value, grad=grad, value_fn=fun, x=x, y=y
            )
            params = gdjax.apply_updates(params, updates)
        assert fun(params, x, y) < 6
    with pytest.raises(ValueError, match="a state with one value and gradient, got 0"):
        plain = gdjax.sgd(1.0).init(params)
        gdjax.value_and_grad_from_state(fun)(params, x, y, state=plain)


def test_backtracking_takes_the_steps_that_optax_takes():
    def fun(x):
        return jnp.sum(jnp.array([1.0, 4.0]) * x**4)

    runs = []
    for library in (gdjax, optax):
        opt = library.chain(
            library.sgd(1.0), library.scale_by_backtracking_linesearch(30, slope_rtol=0.1)
        )
        x, path = jnp.array([1.0, 2.0]), []
        state = opt.init(x)
        for _ in range(6):
            value, grad = jax.value_and_grad(fun)(x)
            updates, state = opt.update(grad, state, x, value=value, grad=grad, value_fn=fun)
            x = library.apply_updates(x, updates)
            path.append(x)
        runs.append(path)
    np.testing.assert_allclose(*runs, rtol=1e-5)
