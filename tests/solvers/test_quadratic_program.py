"""`quadratic_program` against all sets of constraints that may bind, tried one by one."""

import contextlib
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from sklearn.datasets import load_breast_cancer
from sklearn.svm import SVC
from x64 import enable_x64

import gdjax

N, P, M = 5, 1, 4
NAMES = ("Q", "c", "A", "b", "G", "h", "lower", "upper")
# most of the time here is compilation: so several cases share a program and a test (tests run in
# processes that share none), and XLA optimizes less, but where the call itself is what is tested
quick = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def program(seed, kind=""):
    """Return a random program with a point inside."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(N, 2 if "singular" in kind else N))
    Q = 0.0 * np.eye(N) if "linear" in kind else root @ root.T
    inside = rng.normal(size=N)
    A, G = rng.normal(size=(P, N)), rng.normal(size=(M, N))
    lower, upper = inside - rng.uniform(0.1, 1, N), inside + rng.uniform(0.1, 1, N)
    if "half" in kind:
        lower[::2], upper[1::2] = -np.inf, np.inf
    h = G @ inside + rng.uniform(0, 1, M)
    if "fixed" in kind:
        lower[0] = upper[0] = inside[0]
    if "rows" in kind:
        h[0] = np.inf
        A, G = 1e3 * A, np.array([1e-3, 1, 1e3, 1e2])[:, None] * G
        h = G @ inside + 1e-1 * np.array([np.inf, 1, 1e3, 1e2])
    return Q, rng.normal(size=N), A, A @ inside, G, h, lower, upper


def solve(q, **options):
    *rest, lower, upper = q
    return gdjax.quadratic_program(*rest, bounds=(lower, upper), **options)


@quick
def solved(q, options):
    return solve(q, **options)


@quick
@jax.vmap
def exactly(q):
    return solve(q, tol=1e-10)


def unknowns(q):
    result = solve(q, tol=1e-12)
    return jnp.concatenate([result.params, *result.state])


backwards, forwards = quick(jax.jacrev(unknowns)), quick(jax.jacfwd(unknowns))


def oracle(q):
    """Return the least feasible point where some rows hold with equality, and the multipliers."""
    Q, c, A, b, G, h, lower, upper = q
    rows = np.concatenate([G, -np.eye(N), np.eye(N)])
    limits = np.concatenate([h, -lower, upper])
    there = np.flatnonzero(np.isfinite(limits))
    best = np.inf, None, None, None
    for k in range(N - P + 1):
        for some in itertools.combinations(there, k):
            some = list(some)
            C, d = np.concatenate([A, rows[some]]), np.concatenate([b, limits[some]])
            K = np.block([[Q, C.T], [C, np.zeros((len(d), len(d)))]])
            if abs(np.linalg.det(K)) < 1e-9:
                continue
            x, y = np.split(np.linalg.solve(K, np.concatenate([-c, d])), [N])
            value = x @ Q @ x / 2 + c @ x
            fits = (rows @ x <= limits + 1e-9 * (1 + np.abs(rows).max(1))).all()
            if fits and (y[P:] >= -1e-9).all() and value < best[0]:
                z = np.zeros(len(limits))
                z[some] = y[P:]
                best = value, x, y[:P], z
    return best


KINDS = ["", "linear", "singular half", "half", "rows", "fixed"]


@pytest.mark.slow
def test_it_finds_what_all_sets_of_binding_constraints_give():
    cases = [(program(seed, kind), kind) for kind in KINDS for seed in range(4)]
    with enable_x64():
        many = jax.tree.map(lambda *v: jnp.asarray(np.stack(v)), *(q for q, _ in cases))
        result = exactly(tuple(many))
        assert result.converged.all() and result.steps.max() < 20
        for i, (q, kind) in enumerate(cases):
            value, x, y, z = oracle(q)
            np.testing.assert_allclose(result.value[i], value, rtol=1e-6, atol=1e-6)
            np.testing.assert_allclose(result.params[i], x, rtol=1e-5, atol=1e-5)
            if "fixed" in kind:  # two rows for one bound: only their difference counts
                continue
            found = [v[i] for v in result.state]
            np.testing.assert_allclose(found[0], y, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(np.concatenate(found[1:]), z, rtol=1e-4, atol=1e-5)


def test_float32():
    for kind, seed in itertools.product(KINDS, range(3)):
        q = program(seed, kind)
        result = solved([jnp.asarray(v, jnp.float32) for v in q], {})
        assert result.params.dtype == jnp.float32 and result.converged
        np.testing.assert_allclose(result.value, oracle(q)[0], rtol=2e-3, atol=2e-3)


def test_variables_of_very_different_units():
    units = 10.0 ** np.linspace(-3, 3, N)
    Q, c, A, b, G, h, lower, upper = q = program(0)
    other = units[:, None] * Q * units, units * c, A * units, b, G * units, h
    with enable_x64():
        result = solved((*other, lower / units, upper / units), {})
        assert result.converged
        np.testing.assert_allclose(units * result.params, oracle(q)[1], rtol=1e-6, atol=1e-6)


def test_more_accurate_than_asked_is_possible_and_less_than_rounding_is_not_waited_for():
    q = program(0)
    with enable_x64():
        exact = solved(q, dict(tol=1e-13, max_steps=100))
        assert exact.converged
        np.testing.assert_allclose(exact.params, oracle(q)[1], atol=1e-11)
        never = solved(q, dict(tol=0.0, max_steps=100))
        assert never.status == gdjax.Status.LINE_SEARCH_FAILED and never.steps < 50
        np.testing.assert_allclose(never.params, oracle(q)[1], atol=1e-11)
        short = solved(q, dict(tol=1e-8, max_steps=2))
        assert short.status == gdjax.Status.STEP_LIMIT and short.steps == 2


def test_a_thousand_programs_at_once():
    q = tuple(jnp.asarray(v, jnp.float32) for v in program(0))
    shifts = jnp.linspace(-1.0, 1.0, 1000)
    result = quick(jax.vmap(lambda t: solve((q[0], q[1] + t, *q[2:]))))(shifts)
    assert result.converged.all()
    for i in (0, 500, 999):
        moved = (q[0], q[1] + shifts[i], *q[2:])
        value = oracle([np.asarray(v, np.float64) for v in moved])[0]
        np.testing.assert_allclose(result.value[i], value, rtol=2e-3, atol=2e-3)


# --- programs without a solution ---------------------------------------------------------------


@pytest.mark.slow
def test_a_proof_that_no_point_fits():
    for seed in range(3):
        Q, c, A, b, G, h, lower, upper = program(seed, "half")
        h[0] = (G @ np.clip(0, lower, upper))[0]
        G[1], h[1] = -G[0], -h[0] - 0.1
        for dtype in (jnp.float32, jnp.float64):
            with enable_x64():
                q = [jnp.asarray(v, dtype) for v in (Q, c, A, b, G, h, lower, upper)]
                result = solved(q, {})
                assert result.status == gdjax.Status.INFEASIBLE, (seed, dtype)
                y, z, below, above = map(np.asarray, result.state)
            residual = A.T @ y + G.T @ z + above - below
            finite = [np.where(np.isfinite(v), v, 0) for v in (lower, upper)]
            total = b @ y + h @ z - finite[0] @ below + finite[1] @ above
            assert np.abs(residual).sum() < -0.01 * total  # no x with elements up to 100
    with pytest.raises(gdjax.MinimizeError, match="INFEASIBLE: no point satisfies"):
        solve([v.astype(jnp.float32) for v in q], throw=True)


def test_equations_that_contradict_each_other():
    @quick
    def found(b):
        return gdjax.quadratic_program(jnp.eye(3), jnp.zeros(3), jnp.ones((2, 3)), b)

    result = found(jnp.array([1.0, 2.0]))
    assert result.status == gdjax.Status.INFEASIBLE
    result = found(jnp.ones(2))  # say it twice
    assert result.converged
    np.testing.assert_allclose(result.params, np.full(3, 1 / 3), atol=1e-4)


def test_a_direction_without_an_end():
    Q, c = jnp.diag(jnp.array([1.0, 0.0])), jnp.array([0.0, -1.0])
    result = gdjax.quadratic_program(Q, c, bounds=(0.0, None))
    assert result.status == gdjax.Status.UNBOUNDED
    assert result.params[1] > 0
    assert gdjax.quadratic_program(Q, c, bounds=(0.0, 5.0)).converged


def test_a_large_solution_is_no_proof_of_anything():
    @quick
    def found(b):
        return gdjax.quadratic_program(jnp.eye(2), jnp.zeros(2), jnp.array([[1.0, 1.0]]), b)

    for size in (1e3, 1e5):
        result = found(jnp.array([size]))
        assert result.converged
        np.testing.assert_allclose(result.params, size / 2, rtol=1e-3)


def test_not_convex_and_not_finite():
    Q = jnp.diag(jnp.array([1.0, -1.0]))
    result = gdjax.quadratic_program(Q, jnp.ones(2), bounds=(-1, 1))
    assert result.status == gdjax.Status.NOT_CONVEX
    nan = gdjax.quadratic_program(jnp.eye(2), jnp.array([1.0, jnp.nan]))
    assert nan.status == gdjax.Status.NONFINITE


def test_a_bad_lane_leaves_the_others_alone():
    limits = jnp.array([[1.0, -2.0], [0.5, 1.0], [jnp.nan, 1.0]])  # x <= 1 and -x <= -2, ...

    def one(h):
        return gdjax.quadratic_program(jnp.eye(1), -jnp.ones(1), G=[[1.0], [-1.0]], h=h)

    result = quick(jax.vmap(one))(limits)
    names = [gdjax.Status(int(s)).name for s in result.status]
    assert names == ["INFEASIBLE", "CONVERGED", "NONFINITE"]
    np.testing.assert_allclose(result.params[1], 0.5, atol=1e-3)


# --- derivatives --------------------------------------------------------------------------------


@pytest.mark.slow
def test_derivatives_equal_differences_of_the_oracle():
    for kind in ("", "half", "linear"):
        check_derivatives(kind)


def check_derivatives(kind):
    q = program(1, kind)

    def truth(q):
        _, x, y, z = oracle(q)
        return np.concatenate([x, y, z])

    rng = np.random.default_rng(0)
    with enable_x64():
        back, forth = backwards(q), forwards(q)
    for i, name in enumerate(NAMES):
        if name == "Q" and kind == "linear":
            continue  # half of the directions lead to no convex function
        to = rng.normal(size=q[i].shape)
        to = np.where(np.isfinite(q[i]), to + to.T if name == "Q" else to, 0)
        moved = [[v + s * to if k == i else v for k, v in enumerate(q)] for s in (1e-6, -1e-6)]
        slope = (truth(moved[0]) - truth(moved[1])) / 2e-6
        found = np.tensordot(np.nan_to_num(back[i]), to, to.ndim)
        np.testing.assert_allclose(found, slope, rtol=1e-4, atol=1e-6, err_msg=name)
        np.testing.assert_allclose(back[i], forth[i], rtol=1e-9, atol=1e-9, err_msg=name)


@pytest.mark.slow
def test_derivatives_of_the_value_are_the_multipliers_and_second_ones_exist():
    q = program(2)

    def value(c, h):
        return solve((q[0], c, *q[2:5], h, *q[6:]), tol=1e-10).value

    with enable_x64():
        c, h = jnp.asarray(q[1]), jnp.asarray(q[5])
        result = solved(q, dict(tol=1e-12, max_steps=100))
        by_c, by_h = quick(jax.grad(value, (0, 1)))(c, h)
        np.testing.assert_allclose(by_c, result.params, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(by_h, -result.state.inequality, rtol=1e-6, atol=1e-6)
        hessian = quick(jax.hessian(value))(c, h)
        slopes = forwards(tuple(map(jnp.asarray, q)))[1][:N]  # of x by c
        np.testing.assert_allclose(hessian, slopes, rtol=1e-6, atol=1e-8)


def test_no_constraint_that_binds_leaves_the_gradient_of_an_unconstrained_one():
    with enable_x64():
        Q, c = jnp.array([[3.0, 1.0], [1.0, 2.0]]), jnp.array([1.0, -1.0])
        free = gdjax.quadratic_program(Q, c)
        np.testing.assert_allclose(free.params, -np.linalg.solve(Q, c), rtol=1e-9)

        def solution(c):
            return gdjax.quadratic_program(Q, c, bounds=(-9.0, 9.0)).params

        np.testing.assert_allclose(quick(jax.jacobian(solution))(c), -np.linalg.inv(Q), rtol=1e-6)


# --- real programs ------------------------------------------------------------------------------


def test_the_dual_of_a_support_vector_machine_equals_scikit_learns():
    x, labels = load_breast_cancer(return_X_y=True)
    x, y = ((x - x.mean(0)) / x.std(0))[:150], np.where(labels == 1, 1.0, -1.0)[:150]
    kernel = np.exp(-((x[:, None] - x) ** 2).sum(-1) / 30)
    with enable_x64():
        dual = quick(
            lambda Q: gdjax.quadratic_program(
                Q, -np.ones(150), y[None], [0.0], bounds=(0.0, 1.0), tol=1e-10
            )
        )(y[:, None] * kernel * y)
    assert dual.converged
    peer = SVC(C=1.0, kernel="precomputed", tol=1e-10).fit(kernel, y)
    mine = (np.asarray(dual.params) * y)[peer.support_]
    np.testing.assert_allclose(mine, peer.dual_coef_[0], atol=1e-5)
    np.testing.assert_allclose(dual.state.equality, peer.intercept_, atol=1e-5)


def test_a_linear_program_equals_scipys():
    rng = np.random.default_rng(0)
    cost, supply, demand = rng.uniform(size=(6, 8)), np.full(6, 4.0), np.full(8, 3.0)
    A = np.concatenate([np.kron(np.eye(6), np.ones(8)), np.kron(np.ones(6), np.eye(8))])
    b = np.concatenate([supply, demand])  # the rows of a transport problem depend on each other
    peer = scipy.optimize.linprog(cost.ravel(), A_eq=A, b_eq=b, bounds=(0, None))
    with enable_x64():
        result = quick(
            lambda b: gdjax.quadratic_program(
                np.zeros((48, 48)), cost.ravel(), A, b, bounds=(0, None)
            )
        )(b)
        assert result.converged
        np.testing.assert_allclose(result.value, peer.fun, rtol=1e-6)


# --- input --------------------------------------------------------------------------------------


def test_what_does_not_fit_is_named():
    eye, zero = jnp.eye(2), jnp.zeros(2)
    for arrays, options, message in (
        ((jnp.eye(3), zero), {}, r"Q \[n, n\] and c \[n\], n >= 1, got \[3, 3\] and \[2\]"),
        ((eye, zero, eye), {}, "both A and b, or neither"),
        ((eye, zero), dict(G=eye, h=jnp.ones(3)), r"G \[rows, 2\] and h \[rows\], got"),
        ((eye, zero), dict(bounds=(0, jnp.ones(3))), r"arrays \[2\], got \[3\]"),
        ((eye, zero), dict(bounds=0.0), r"must be \(lower, upper\), got 0.0"),
        ((eye, zero), dict(tol=-1.0), "tol"),
    ):
        with pytest.raises(ValueError, match=message):
            gdjax.quadratic_program(*arrays, **options)
    with pytest.raises(TypeError, match=r"c=\.\.\.\) must be real, got dtype complex64"):
        gdjax.quadratic_program(eye, zero + 1j)


def test_whole_numbers_and_half_precision_are_computed_in_float32():
    whole = gdjax.quadratic_program([[2, 0], [0, 2]], [-2, -8], bounds=(0, 3))
    np.testing.assert_allclose(whole.params, [1, 3], atol=1e-3)
    half = gdjax.quadratic_program(jnp.eye(2, dtype=jnp.bfloat16), jnp.ones(2, jnp.bfloat16))
    assert half.params.dtype == jnp.float32
    np.testing.assert_allclose(half.params, -1, atol=1e-3)


def test_other_numbers_compile_nothing(caplog):
    solve(program(0), tol=1e-3)
    with jax.log_compiles():
        solve(program(1), tol=1e-4, max_steps=30)
        assert "solve_scaled" not in caplog.text
        gdjax.quadratic_program(jnp.eye(3), jnp.ones(3))
    assert "solve_scaled" in caplog.text


def test_step_limits_are_whole_numbers():
    for bad in (1.5, -1, 2**31):
        message = rf"^quadratic_program\(max_steps=...\) must be a whole number .*, got {bad}"
        with pytest.raises(ValueError, match=message):
            gdjax.quadratic_program(jnp.eye(2), jnp.ones(2), max_steps=bad)


def test_multipliers_print_their_shapes():
    result = gdjax.quadratic_program(jnp.eye(2), jnp.ones(2), G=jnp.eye(2)[:1], h=[0.0])
    shown = "Multipliers(equality=float32[0], inequality=float32[1], lower=float32[0], "
    assert repr(result.state) == shown + "upper=float32[0])"


# --- units ----------------------------------------------------------------------------------------


def test_the_unit_of_the_objective_and_of_x_changes_nothing_else():
    """SciPy's issue 21630: min x'Qx / 2 + c'x over x >= 0 is at (1/2, 0), with multiplier 5/2."""
    Q, c = np.array([[2.0, 1], [1, 4]]), np.array([-1.0, 2])
    s = np.repeat([1e-16, 1e-12, 1e-8, 1, 1e9, 1e16], 3)
    t = np.tile([1e-16, 1, 1e9], 6)  # of x

    @quick
    @jax.vmap
    def scaled(s, t):
        return gdjax.quadratic_program(s * Q, s * t * c, bounds=(0.0, None))

    with enable_x64():
        result = scaled(s, t)
        assert result.converged.all()
        np.testing.assert_allclose(result.params[:, 0] / t, 0.5, rtol=1e-9)
        np.testing.assert_allclose(result.params[:, 1] / t, 0.0, atol=1e-9)
        np.testing.assert_allclose(result.state.lower[:, 1] / (s * t), 2.5, rtol=1e-7)


def test_large_right_sides_are_no_proof_of_infeasibility():
    """SciPy's issue 10466."""
    b = np.array([1e-16, 1.0, 1e9, 1e16])

    @quick
    @jax.vmap
    def solution(b):
        return gdjax.quadratic_program(
            jnp.zeros((4, 4)), jnp.ones(4), jnp.eye(4)[:1], b[None], bounds=(0.0, None)
        )

    with enable_x64():
        result = solution(b)
        assert result.converged.all()
        np.testing.assert_allclose(
            result.params / b[:, None], np.eye(4)[:1].repeat(4, 0), atol=1e-7
        )


def test_two_inequalities_that_are_one_equation():
    """SciPy's issue 8662: no point is strictly inside, and x is not unique; the value is 36."""
    G = jnp.array([[8.0, -8, -4, 6], [-8, 8, 4, -6], [-4, 4, 8, -4], [3, -3, -3, -10]])
    c, h = jnp.array([-10.0, 10, 6, 3]), jnp.array([9.0, -9, -9, -4])
    s, t = np.array([1, 1e-16, 1e16, 1, 1, 1e16]), np.array([1, 1, 1, 1e-16, 1e16, 1e-16])

    @quick
    @jax.vmap
    def scaled(s, t):
        return gdjax.quadratic_program(jnp.zeros((4, 4)), s * c, G=G, h=t * h, bounds=(0.0, None))

    with enable_x64():
        result = scaled(s, t)
        assert result.converged.all()
        np.testing.assert_allclose(result.value / (s * t), 36.0, rtol=1e-11)


def test_right_sides_that_are_rounding_do_not_decide_units():
    """As in QSCSD1 of Maros and Mészáros: one equation has the right side 1, others 1e-16."""
    A = np.eye(10, 20) + np.eye(10, 20, 5) - np.eye(10, 20, 9)
    b = np.where(np.arange(10) == 0, 1, 1.1e-16)
    Q = np.zeros((20, 20))
    Q[:3, :3] = np.eye(3)
    cost = 1 + np.arange(20) % 3

    @quick
    def solution(b):
        return gdjax.quadratic_program(Q, cost, A, b, bounds=(0.0, None), tol=1e-13)

    with enable_x64():
        found, clean = (solution(jnp.asarray(side)) for side in (b, np.round(b)))
        assert found.converged and clean.converged and found.steps < 30
        np.testing.assert_allclose(found.params, clean.params, atol=1e-12)
        np.testing.assert_allclose(A @ found.params, b, atol=1e-15)


@pytest.mark.slow
def test_bounds_and_rows_that_cannot_hold_or_do_not_matter():
    wide = (-jnp.inf, jnp.inf)
    inf, nan = jnp.inf, jnp.nan
    cases = [  # lower, upper, right side of 0 x = b, of 0 x <= h, status
        (inf, inf, 0.0, 1.0, "INFEASIBLE"),
        (-inf, -inf, 0.0, 1.0, "INFEASIBLE"),
        (1.0, 0.0, 0.0, 1.0, "INFEASIBLE"),
        (nan, 0.0, 0.0, 1.0, "NONFINITE"),
        (*wide, 1.0, 1.0, "INFEASIBLE"),
        (*wide, 0.0, -1.0, "INFEASIBLE"),
        (*wide, 0.0, 0.0, "CONVERGED"),
        (3.0, 3.0, 0.0, 1.0, "CONVERGED"),
    ]

    @quick
    @jax.vmap
    def one(lower, upper, b, h):
        zero, side = jnp.zeros((1, 2)), jnp.array([-1.0, 2.0])
        bounds = jnp.stack([lower, -5.0]), jnp.stack([upper, 5.0])
        return gdjax.quadratic_program(
            jnp.eye(2), side, zero, b[None], zero, h[None], bounds=bounds
        )

    result = one(*(jnp.array([case[i] for case in cases]) for i in range(4)))
    assert [gdjax.Status(int(s)).name for s in result.status] == [case[4] for case in cases]
    np.testing.assert_allclose(result.params[-2:], [[1, -2], [3, -2]], atol=1e-5)
    np.testing.assert_allclose(result.state.lower[-1], [2, 0], atol=1e-5)


def test_a_direction_without_an_end_where_no_point_fits_is_infeasible():
    G = jnp.array([[0.0, 1.0], [0.0, -1.0]])  # x1 <= h0, x1 >= 0, and x0 is free
    h = jnp.array([[-1.0, 0.0], [1.0, 0.0]])
    result = quick(
        jax.vmap(
            lambda h: gdjax.quadratic_program(jnp.zeros((2, 2)), jnp.array([-1.0, 0.0]), G=G, h=h)
        )
    )(h)
    names = [gdjax.Status(int(s)).name for s in result.status]
    assert names == ["INFEASIBLE", "UNBOUNDED"] and result.params[1, 0] >= 1


def test_float32_is_as_accurate_as_osqp():
    """Problem QPSUT03 of qpax's issue 5, where OSQP's default is off by 9e-5."""
    Q = [[122.0, 59, 39, 9], [59, 95, 48, 24], [39, 48, 26, 19], [9, 24, 19, 90]]
    inf = jnp.inf
    bounds = jnp.array([-inf, -0.4, -inf, -1]), jnp.array([inf, inf, 0.5, 1])
    result = gdjax.quadratic_program(Q, [66.0, 93, 47, 11], bounds=bounds)
    assert result.converged
    exact = [0.18143460, 0.00843882, -2.35443038, 0.35443038]
    np.testing.assert_allclose(result.params, exact, atol=9e-5)


# --- random programs with known solutions, in all units ------------------------------------------

SIZES = n, p, m = 6, 2, 6
PLANNED = ["strict", "linear", "singular", "weak", "double"]


def planned(seed, kind):
    """Return a program made from its solution, its multipliers, and the derivative of x by c."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=n), rng.normal(size=p)
    A, G = rng.normal(size=(p, n)), rng.normal(size=(m, n))
    root = rng.normal(size=(n, n))
    root[:, {"linear": 0, "singular": 3}.get(kind, n) :] = 0
    Q = root @ root.T
    active = 3 if kind == "linear" else 2  # with A and one bound, as many as n for "linear"
    if kind == "double":
        A[1], G[1], y[1] = A[0], G[0], 0
    z = np.where(np.arange(m) < active, rng.uniform(0.5, 1.5, m), 0)
    h = G @ x + np.where(np.arange(m) < active, 0, rng.uniform(0.5, 1.5, m))
    if kind == "weak":  # an inequality that holds with equality, but for nothing
        z[1] = 0
    below, above = np.zeros(n), np.zeros(n)
    below[0] = rng.uniform(0.5, 1.5)
    lower, upper = x - (below == 0) * rng.uniform(0.5, 1.5, n), x + rng.uniform(0.5, 1.5, n)
    lower[3], upper[4:] = -np.inf, np.inf
    c = -(Q @ x + A.T @ y + G.T @ z + above - below)
    once = np.concatenate([A, G[z > 0], np.eye(n)[:1]])
    binding = np.delete(once, [1, 3], axis=0) if kind == "double" else once
    k = len(binding)
    K = np.block([[Q, binding.T], [binding, np.zeros((k, k))]])
    slopes = np.linalg.inv(K)[:n, :n] @ -np.eye(n)
    return (Q, c, A, A @ x, G, h, lower, upper), (x, y, z, below, above), slopes


def without_a_point(seed, _):
    """Return a program whose first two inequalities contradict each other."""
    Q, c, A, b, G, h, lower, upper = planned(seed, "strict")[0]
    G[1], h[1] = -G[0], -h[0] - 0.5
    return ((Q, c, A, b, G, h, lower, upper),)


def without_an_end(seed, _):
    """Return a program that decreases for ever along its fifth variable."""
    Q, c, A, b, G, h, lower, upper = planned(seed, "strict")[0]
    Q[4], Q[:, 4], A[:, 4], c[4] = 0, 0, 0, -abs(c[4])
    G[:, 4] = -abs(G[:, 4]) * (np.arange(m) > 2)
    h += 5 * abs(G).sum(1)
    return ((Q, c, A, A @ planned(seed, "strict")[1][0], G, h, lower, upper),)


def all_units(size):
    """Return units of objective, right sides, rows and columns: each alone, and all together."""
    rng = np.random.default_rng(0)
    units = []
    for mask in np.concatenate([np.zeros((1, 4)), np.eye(4), np.eye(4), np.ones((8, 4))]):
        one, side = size ** (mask[:2] * rng.choice([-1, 1], 2))
        rows, columns = (
            size ** (mask[2] * rng.uniform(-1, 1, p + m)),
            size ** (mask[3] * rng.uniform(-1, 1, n)),
        )
        units.append((one, side, rows[:p], rows[p:], columns))
    return units


def in_units(q, units):
    (Q, c, A, b, G, h, lower, upper), (one, t, a, g, d) = q, units
    return (
        one * d[:, None] * Q * d, one * t * d * c, a[:, None] * A * d, t * a * b,
        g[:, None] * G * d, t * g * h, t / d * lower, t / d * upper,
    )  # fmt: skip


@quick
@jax.vmap
def in_all_units(q, by):
    def solution(c):
        result = solve((q[0], c, *q[2:]))
        return result.params, result

    return jax.jvp(solution, (q[1],), (by,), has_aux=True)


def run_in_units(dtype):
    """Return for each kind its programs, units, and what was found, by one compiled program."""
    makers = dict.fromkeys(PLANNED, planned)
    makers |= {"no point": without_a_point, "no end": without_an_end}
    some = all_units(1e16 if dtype == np.float64 else 1e8)
    keys = [(kind, seed, k) for kind in makers for seed in range(3) for k in range(len(some))]
    made = {(kind, seed): make(seed, kind) for kind, make in makers.items() for seed in range(3)}
    made = [made[key[:2]] for key in keys]
    units = [some[key[2]] for key in keys]
    programs = [in_units(v[0], u) for v, u in zip(made, units, strict=True)]
    by = [u[0] * u[1] * u[4] * np.arange(1, n + 1) for u in units]
    with enable_x64():
        stacked = [jnp.asarray(np.stack(v), dtype) for v in zip(*programs, strict=True)]
        found = in_all_units(tuple(stacked), jnp.asarray(np.stack(by), dtype))
        _, slopes, result = jax.tree.map(lambda v: np.asarray(v, np.float64), found)
    parts = zip(*jax.tree.leaves(result), strict=True)
    results = [jax.tree.unflatten(jax.tree.structure(result), v) for v in parts]
    cases = list(zip(made, units, programs, slopes, results, strict=True))
    return {kind: [v for k, v in zip(keys, cases, strict=True) if k[0] == kind] for kind in makers}


@pytest.mark.parametrize(("dtype", "atol"), [(np.float64, 1e-8), (np.float32, 5e-4)])
def test_solutions_and_proofs_are_found_in_all_units(dtype, atol):
    found = run_in_units(dtype)
    for kind in PLANNED:
        check_solutions(found[kind], atol, kind)
    check_proofs(found["no point"], found["no end"], dtype)


def check_solutions(cases, atol, kind):
    for (_, exact, slopes), (one, t, a, g, d), _, slope, result in cases:
        assert result.status == gdjax.Status.CONVERGED
        x, *multipliers = exact
        units = a, g, 1 / d, 1 / d
        found = [v * u / (one * t) for v, u in zip(result.state, units, strict=True)]
        if kind == "double":  # only the sums of multipliers of equal rows are known
            found, multipliers = (
                [[y.sum()], [z[:2].sum(), *z[2:]], *rest] for y, z, *rest in (found, multipliers)
            )
        np.testing.assert_allclose(result.params * d / t, x, atol=atol)
        for ours, theirs in zip(found, multipliers, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=5 * atol)
        if kind != "weak":  # there, a derivative has two sides
            exact = slopes @ np.arange(1, n + 1)
            np.testing.assert_allclose(slope * d / t, exact, rtol=20 * atol, atol=20 * atol)


def check_proofs(without_point, without_end, dtype):
    precise = float(np.finfo(dtype).eps) ** 0.75
    for _, _, (_, _, A, b, G, h, lower, upper), _, result in without_point:
        assert result.status == gdjax.Status.INFEASIBLE
        y, z, below, above = result.state
        assert min(z.min(), below.min(), above.min()) >= 0
        sides = [np.where(np.isfinite(v), v, 0) for v in (lower, upper)]
        assert (below[~np.isfinite(lower)] == 0).all() and (above[~np.isfinite(upper)] == 0).all()
        terms = abs(A.T) @ abs(y) + abs(G.T) @ z + below + above
        assert (abs(A.T @ y + G.T @ z + above - below) <= 8 * precise * terms).all()
        parts = np.concatenate([b * y, h * z, -sides[0] * below, sides[1] * above])
        assert parts.sum() < -precise * abs(parts).sum()
    for _, _, (Q, c, A, _, G, *_), _, result in without_end:
        assert result.status == gdjax.Status.UNBOUNDED
        to = result.params
        for matrix in (Q, A):
            assert (abs(matrix @ to) <= 8 * precise * (abs(matrix) @ abs(to))).all()
        assert (G @ to <= 8 * precise * (abs(G) @ abs(to))).all()
        assert c @ to < -precise * (abs(c) @ abs(to))


# --- small programs of integers, whose statuses HiGHS knows ---------------------------------------

Status = gdjax.Status


def in_dtype(dtype):
    return enable_x64() if dtype == jnp.float64 else contextlib.nullcontext()


SHAPES = {  # name -> variables, equations, inequalities, whether x >= 0, rank of Q
    "linear": (2, 0, 3, False, 0),
    "linear, more rows": (3, 0, 5, False, 0),
    "linear, equations and bounds": (5, 2, 4, True, 0),
    "flat": (2, 0, 2, False, 1),
    "flat, bounds": (3, 0, 2, True, 1),
    "curved": (4, 1, 3, True, 4),
}


def integers(shape, seed):
    n, p, m, _, rank = SHAPES[shape]
    rng = np.random.default_rng([seed, n, p, m])
    sizes = (m, n), (m,), (p, n), (p,), (n,), (rank, n)
    G, h, A, b, c, root = (rng.integers(-3, 4, size).astype(float) for size in sizes)
    return root.T @ root, c, A, b, G, h


def by_highs(Q, c, A, b, G, h, low):
    """Return the status; a direction without an end has Q d = 0, A d = 0 and G d <= 0."""
    n = len(c)
    rows = dict(A_ub=G, b_ub=h, A_eq=A, b_eq=b, bounds=[(low, None)] * n)
    if scipy.optimize.linprog(np.zeros(n), **rows).status == 2:
        return Status.INFEASIBLE
    rows = dict(A_ub=G, b_ub=0 * h, A_eq=np.vstack([A, Q]), b_eq=np.zeros(len(b) + n))
    bounds = [(-1 if low is None else 0, 1)] * n
    decrease = scipy.optimize.linprog(c, **rows, bounds=bounds).fun
    return Status.UNBOUNDED if decrease < -1e-7 else Status.CONVERGED


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_statuses_of_integer_programs_are_those_of_highs(shape, dtype):
    """1 of 700 flat ones needs more than 100 steps; none here."""
    bounded = SHAPES[shape][3]
    programs = [integers(shape, seed) for seed in range(60)]
    right = [by_highs(*program, 0 if bounded else None) for program in programs]
    assert len({*right}) >= 2

    @jax.jit
    @jax.vmap
    def statuses(*arrays):
        return gdjax.quadratic_program(*arrays, bounds=(0, None) if bounded else None).status

    with in_dtype(dtype):
        found = statuses(*(jnp.asarray(x, dtype) for x in map(np.stack, zip(*programs))))
    np.testing.assert_array_equal(found, right)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_statuses_where_iterates_go_far_away(dtype):
    """They were CONVERGED at 1e14, where all else is small beside x, or LINE_SEARCH_FAILED."""
    none, low = None, (0, None)
    flat, sums = [[9.0, -9], [-9, 9]], [[1.0, 1], [1, 1]]
    three = [[4.0, 6, -6], [6, 9, -9], [-6, -9, 9]]
    zero = np.zeros((2, 2))
    rows = [
        (Status.UNBOUNDED, flat, [0, -1], [[1, -1]], [-1], low),
        (Status.UNBOUNDED, sums, [1, -3], [[2, -3], [3, 3]], [-3, -3], none),
        (Status.UNBOUNDED, sums, [1, -3], none, none, none),
        (Status.INFEASIBLE, three, [0, 2, 0], [[-3, -3, -1], [0, 3, 0]], [-1, -1], low),
        (Status.INFEASIBLE, zero, [0, 0], [[1, -1], [-1, 1]], [-1, 0], none),
        (Status.INFEASIBLE, zero, [0, 0], [[1, 1], [-1, -1]], [1, -2], none),
        (Status.INFEASIBLE, [[4, -4], [-4, 4]], [3, -3], [[0, 2]], [-2], low),
        (Status.UNBOUNDED, zero, [2, -3], [[-2, -3], [-2, -2], [1, 1]], [3, 1, 3], none),
    ]
    with in_dtype(dtype):
        for status, Q, c, G, h, bounds in rows:
            Q, c, G, h = (v if v is None else jnp.asarray(v, dtype) for v in (Q, c, G, h))
            result = gdjax.quadratic_program(Q, c, G=G, h=h, bounds=bounds)
            assert result.status == status, (c, result)
