"""`find_root` against SciPy's Brent, on its bounds, edges and derivatives."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special
from x64 import enable_x64

import gdjax


def status(result):
    return [gdjax.Status(int(s)).name for s in np.ravel(result.status)]


# Alefeld, Potra & Shi (1995), "Algorithm 748", table 1: (function of x and n, lower, upper, all n)
EVEN, MANY = np.arange(4.0, 13.0, 2.0), np.array([1.0, 2.0, 3.0, 4.0, 5.0, 15.0, 20.0])
SQUARES = np.arange(1.0, 11.0)


def poles(x, n):
    return -2 * sum((2 * i - 5) ** 2 / (x - i**2) ** 3 for i in range(1, 21))


PROBLEMS = {
    "sine": (lambda x, n: jnp.sin(x) - n * x, np.pi / 2, np.pi, np.array([0.5])),
    "poles": (poles, SQUARES**2 + 1e-9, (SQUARES + 1) ** 2 - 1e-9, SQUARES),
    "x_exp": (lambda x, n: -200 * x * jnp.exp(-n * x), -9.0, 31.0, MANY[:3]),
    "power": (lambda x, n: x**n - 0.2, 0.0, 5.0, EVEN),
    "odd_power": (lambda x, n: x**n - 1, -0.95, 4.05, EVEN),
    "exp": (lambda x, n: 2 * x * jnp.exp(-n) - 2 * jnp.exp(-n * x) + 1, 0.0, 1.0, MANY),
    "quadratic": (lambda x, n: (1 + (1 - n) ** 2) * x - (1 - n * x) ** 2, 0.0, 1.0, MANY + 4),
    "power_of_rest": (lambda x, n: x**2 - (1 - x) ** n, 0.0, 1.0, MANY + 1),
    "quartic": (lambda x, n: (1 + (1 - n) ** 4) * x - (1 - n * x) ** 4, 0.0, 1.0, MANY),
    "decay": (lambda x, n: jnp.exp(-n * x) * (x - 1) + x**n, 0.0, 1.0, MANY),
    "hyperbola": (lambda x, n: (n * x - 1) / ((n - 1) * x), 0.01, 1.0, MANY + 1),
    "radical": (lambda x, n: x ** (1 / n) - n ** (1 / n), 1.0, 100.0, MANY + 1),
    "plateau": (
        lambda x, n: n / 20 * jnp.where(x >= 0, x / 1.5 + jnp.sin(x) - 1, -1.0),
        -1e4, np.pi / 2, MANY,
    ),
    "steep": (
        lambda x, n: jnp.select(
            [x > 2e-3 / (1 + n), x >= 0],
            [math.e - 1.859, jnp.exp((n + 1) / 2 * x * 1e3) - 1.859], -0.859,
        ),
        -1e4, 1e-4, MANY * 20,
    ),
}  # fmt: skip


@pytest.mark.slow
def test_roots_are_scipys_at_no_more_evaluations():
    """All equations of a family are one call; SciPy's tolerances are its least."""
    ours, theirs = [], []
    with enable_x64():
        for fun, lower, upper, n in PROBLEMS.values():
            result = gdjax.find_root(fun, (lower, upper), args=(jnp.asarray(n),))
            assert set(status(result)) == {"CONVERGED"}
            ours += result.evaluations.tolist()
            ends = np.broadcast_to(lower, n.shape), np.broadcast_to(upper, n.shape)
            compiled = jax.jit(fun)
            for i, (a, b) in enumerate(zip(*ends)):
                root, peer = scipy.optimize.brentq(
                    lambda x: float(compiled(x, n[i])), a, b,  # noqa: B023
                    xtol=1e-300, rtol=4 * np.finfo(float).eps, full_output=True,
                )  # fmt: skip
                theirs.append(peer.function_calls)
                # each is within 8 eps of a change of sign, and the functions' rounding is one, too
                np.testing.assert_allclose(result.params[i], root, rtol=1e-12, atol=1e-300)
    assert len(ours) == len(theirs) > 80
    assert np.sum(ours) <= np.sum(theirs) and np.median(ours) <= np.median(theirs)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_no_place_outside_and_no_more_evaluations_than_it_says(dtype):
    """Where only the signs tell anything; roots at 0, of all sizes, and next to the ends."""
    info = np.finfo(dtype)
    roots = np.array([0, 1e-30, -1e-30, 3e-7, 0.3, -1, 1e10, -1e30, info.tiny, info.max / 2], dtype)
    most = np.full(10, info.max)
    cases = (
        (lambda x, r: jnp.where(x > r, 1, -1), -most),
        (lambda x, r: jnp.where(x > r, 1e-3, -1e3), roots - abs(roots) - 1),
        (lambda x, r: jnp.cbrt(x) - jnp.cbrt(r), -most),
    )
    with enable_x64():
        for fun, lower in cases:
            seen = []

            def watched(x, r):
                inside = jnp.all((x >= lower) & (x <= most))  # noqa: B023
                jax.debug.callback(lambda ok: seen.append(bool(ok)), inside)  # noqa: B023
                return fun(x, r)  # noqa: B023

            result = gdjax.find_root(watched, (lower, most), args=(roots,))
            jax.effects_barrier()
            assert set(status(result)) == {"CONVERGED"} and result.params.dtype == dtype
            assert int(result.evaluations.max()) <= 2 * info.bits + 2
            assert len(seen) == int(result.evaluations.max()) and all(seen)
            np.testing.assert_allclose(result.params, roots, rtol=4 * info.eps, atol=4 * info.tiny)


def test_ends_shapes_and_dtypes():
    def fun(x, a):
        return x**3 - a

    a = jnp.array([0.0, 8.0, 27.0, 1e-3])
    whole = gdjax.find_root(fun, (0, 3), args=(a,))  # whole numbers, and a root at either end
    np.testing.assert_allclose(whole.params, np.cbrt(a), rtol=1e-6)
    assert whole.params.dtype == jnp.float32 and whole.evaluations.tolist()[0::2] == [2, 2]
    assert whole.steps.dtype == whole.status.dtype == jnp.int32
    np.testing.assert_allclose(whole.value, fun(whole.params, a), atol=1e-6)  # its own rounding
    np.testing.assert_array_equal(whole.grad_norm, jnp.abs(whole.value))
    backwards = gdjax.find_root(fun, (jnp.full(4, 3.0), 0.0), args=(a,))
    np.testing.assert_allclose(backwards.params, np.cbrt(a), rtol=1e-6)
    one = gdjax.find_root(fun, (jnp.float16(0), 3.0), args=(8.0,))
    assert one.params.shape == () and one.params.dtype == jnp.float32
    np.testing.assert_allclose(one.params, 2.0, rtol=1e-6)
    assert float(gdjax.find_root(fun, (2.0, 2.0), args=(8.0,)).params) == 2.0
    table = gdjax.find_root(fun, (jnp.zeros((2, 1)), jnp.full(3, 9.0)), args=(jnp.ones((2, 3)),))
    np.testing.assert_allclose(table.params, np.ones((2, 3)), rtol=1e-6)
    empty = gdjax.find_root(fun, (jnp.zeros((0, 2)), 1.0), args=(1.0,))
    assert empty.params.shape == (0, 2) and empty.status.shape == (0, 2)
    lanes = jax.jit(jax.vmap(lambda a: gdjax.find_root(fun, (0.0, 3.0), args=(a,))))(a)
    for name in ("params", "status", "evaluations"):
        np.testing.assert_array_equal(getattr(lanes, name), getattr(whole, name))


def test_how_it_ends():
    """Each status; each equation by itself."""
    nan, inf = jnp.nan, jnp.inf
    funs = [
        (lambda x: x - 0.3, "CONVERGED", 0.3),
        (lambda x: x + 2, "NO_SIGN_CHANGE", -1.0),
        (lambda x: -(x**2) - 1e-3, "NO_SIGN_CHANGE", -1.0),
        (lambda x: 0.0 * x, "CONVERGED", -1.0),
        (lambda x: jnp.where(x < 0, nan, x - 0.3), "NONFINITE", 2.0),
        (lambda x: jnp.where(jnp.abs(x) < 0.9, nan, x), "NONFINITE", -1.0),
        (lambda x: jnp.where(x < 0.5, -inf, x - 0.5), "CONVERGED", 0.5),
        (lambda x: jnp.log((x + 1) / 3) + 1, "CONVERGED", 3 / math.e - 1),
        (lambda x: jnp.where(x < 0.5, -inf, inf), "NONFINITE", 0.5),
        (lambda x: jnp.where(jnp.abs(x - 0.5) <= 0.25, 0.0, x - 0.5), "CONVERGED", 0.5),
        (lambda x: 1e30 * (x - 0.3) ** 3, "CONVERGED", 0.3),
        (lambda x: jnp.maximum(x, 0) ** 2 - 1e-30, "CONVERGED", 1e-15),
    ]
    stacked = lambda x: jnp.stack([f(x[i]) for i, (f, _, _) in enumerate(funs)])  # noqa: E731
    result = gdjax.find_root(stacked, (jnp.full(len(funs), -1.0), 2.0))
    assert status(result) == [name for _, name, _ in funs]
    wanted = np.array([x for _, _, x in funs])
    np.testing.assert_allclose(result.params[:9], wanted[:9], rtol=1e-6)
    assert 0.25 <= result.params[9] <= 0.75 and result.value[9] == 0
    np.testing.assert_allclose(result.params[10:], wanted[10:], rtol=1e-6)
    with pytest.raises(gdjax.MinimizeError, match="find_root: 5 of 12 .* NO_SIGN_CHANGE: the fun"):
        gdjax.find_root(stacked, (jnp.full(len(funs), -1.0), 2.0), throw=True)
    unbounded = jax.jit(lambda b: gdjax.find_root(lambda x: x - 1, (0.0, b)).status)
    assert unbounded(jnp.inf) == gdjax.Status.NONFINITE and unbounded(2.0) == 0


def test_a_function_whose_rounding_differs_between_two_calls():
    """XLA may compute it twice, and leave out the rounding to bfloat16 once."""
    with enable_x64():
        coarse = lambda x: (x**2 - 2).astype(jnp.bfloat16)  # noqa: E731
        result = gdjax.find_root(coarse, (0.0, 2.0))
        assert status(result) == ["CONVERGED"]
        np.testing.assert_allclose(result.params, math.sqrt(2), rtol=2**-8)


def test_tolerance_is_a_distance():
    roots = jnp.array([1.0, 10.0, 100.0, 777.0])
    fun = lambda x, r: (x - r) * (1 + (x - r) ** 2)  # noqa: E731
    counts = []
    for tol in (0.0, 1e-3, jnp.array([0.1, 1.0, 10.0, 100.0])):
        result = gdjax.find_root(fun, (0.0, 1000.0), args=(roots,), tol=tol)
        assert bool(result.converged.all())
        assert bool((jnp.abs(result.params - roots) <= tol + 4e-7 * roots).all())
        counts.append(int(result.evaluations.sum()))
    assert counts[0] > counts[1] > counts[2]


@pytest.mark.slow
def test_derivatives():
    """Lambert's function, w e^w = a, whose derivative is w / (a (1 + w))."""

    def lambert(a, shift=0.0):  # both are closed over
        return gdjax.find_root(lambda w: w * jnp.exp(w) - a - shift, (-1.0, 10.0)).params

    slope = lambda w: np.exp(-w) / (1 + w)  # noqa: E731
    with enable_x64():
        a = jnp.array([-0.3, 0.0, 0.5, 20.0])
        w = np.asarray(lambert(a))
        np.testing.assert_allclose(w, scipy.special.lambertw(np.asarray(a)).real, atol=1e-14)
        np.testing.assert_allclose(jax.grad(lambda a: lambert(a).sum())(a), slope(w), rtol=1e-12)
        np.testing.assert_allclose(jax.jacfwd(lambert)(a), np.diag(slope(w)), rtol=1e-12)
        one = jax.jit(jax.vmap(jax.grad(lambert, argnums=1)))(a, jnp.zeros(4))
        np.testing.assert_allclose(one, slope(w), rtol=1e-12)
        bent = -(slope(w) ** 2) * (2 + w) / (1 + w)
        np.testing.assert_allclose(jax.vmap(jax.grad(jax.grad(lambert)))(a), bent, rtol=1e-12)
        h = 1e-5
        numeric = (lambert(a + h) - lambert(a - h)) / (2 * h)
        np.testing.assert_allclose(jax.jvp(lambert, (a,), (jnp.ones(4),))[1], numeric, rtol=1e-7)
        by_args = jax.grad(lambda p: gdjax.find_root(
            lambda x, p: x ** p["n"] - p["a"], (0.0, 9.0), args=(p,)
        ).params)({"n": 3.0, "a": 8.0})  # fmt: skip
        np.testing.assert_allclose(by_args["a"], 1 / 12, rtol=1e-12)
        np.testing.assert_allclose(by_args["n"], -2 * math.log(8) / 9, rtol=1e-12)


def test_an_infinite_derivative_stays_with_its_equation():
    cube = lambda a: gdjax.find_root(lambda x: x**3 - a, (-2.0, 2.0)).params  # noqa: E731
    steep = jax.grad(lambda a: cube(a).sum())(jnp.array([0.0, 1.0]))
    assert steep[0] == jnp.inf and abs(steep[1] - 1 / 3) < 1e-6
    used = jax.grad(lambda a: jnp.where(jnp.arange(2) == 1, cube(a), 0).sum())(jnp.array([0.0, 1]))
    assert used[0] == 0 and abs(used[1] - 1 / 3) < 1e-6


def test_bad_input_is_named():
    line = lambda x: x - 0.5  # noqa: E731
    for bad in ([0.0, 1.0], (0.0, 1.0, 2.0), 1.0):
        with pytest.raises((ValueError, TypeError), match=r"find_root\(bracket=...\) must be"):
            gdjax.find_root(line, bad)
    for end in (np.inf, jnp.nan, np.array([1.0, -np.inf])):
        with pytest.raises(ValueError, match="must be finite"):
            gdjax.find_root(line, (0.0, end))
    with pytest.raises(TypeError, match="two real numbers"):
        gdjax.find_root(line, (0.0, 1j))
    with pytest.raises(TypeError, match="array of real numbers"):
        gdjax.find_root(lambda x: x > 0, (0.0, 1.0))
    with pytest.raises(ValueError, match=r"\(\) for \(3,\).* gdjax.root"):
        gdjax.find_root(lambda x: jnp.sum(x), (jnp.zeros(3), 1.0))
    with pytest.raises(ValueError, match="tol=.* >= 0"):
        gdjax.find_root(line, (0.0, 1.0), tol=-1.0)
    with pytest.raises(TypeError, match="find_root.throw=True"):
        jax.jit(lambda b: gdjax.find_root(line, (0.0, b), throw=True).params)(1.0)


def test_shapes_that_do_not_fit_are_named():
    two, three = jnp.array([0.0, 1.0]), jnp.array([2.0, 3.0, 4.0])
    with pytest.raises(ValueError, match=r"find_root\(fun=...\) must return one number for each"):
        gdjax.find_root(lambda x: three, (two, 2.0))
    with pytest.raises(ValueError, match=r"shapes that fit each other, got \(\(2,\), \(3,\)"):
        gdjax.find_root(lambda x: x, (two, three))
