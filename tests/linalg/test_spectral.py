"""Power iteration, inverse roots and non-negative least squares against NumPy, SciPy and optax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from x64 import enable_x64

import gdjax


def symmetric(eigenvalues, seed=0):
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.normal(size=(len(eigenvalues),) * 2))
    return (q * eigenvalues) @ q.T, q


@pytest.mark.parametrize("eigenvalues", [[3.0, 1.0, 0.5, -1.0], [-5.0, 2.0, 1.0], [7.0]])
def test_largest_eigenvalue(eigenvalues):
    matrix, q = symmetric(np.array(eigenvalues))
    with enable_x64():
        value, vector = gdjax.power_iteration(jnp.asarray(matrix), error_tolerance=1e-10)
        assert value.dtype == vector.dtype == jnp.float64
    np.testing.assert_allclose(value, eigenvalues[0], rtol=1e-12)
    np.testing.assert_allclose(np.abs(np.asarray(vector) @ q[:, 0]), 1.0, rtol=1e-12)


def test_power_iteration_equals_optax_step_by_step():
    import optax

    matrix, _ = symmetric(np.array([2.0, 1.5, 1.0, 0.1]))
    matrix = jnp.asarray(matrix, jnp.float32)
    for steps in (1, 3, 100):
        ours = gdjax.power_iteration(matrix, num_iters=steps, key=jax.random.key(3))
        theirs = optax.power_iteration(matrix, num_iters=steps, key=jax.random.key(3))
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5)


def test_power_iteration_of_a_function_of_a_tree():
    def product(x):  # the matrix [[2, 1], [1, 2]]
        return {"a": 2 * x["a"] + x["b"], "b": x["a"] + 2 * x["b"]}

    start = {"a": jnp.array([1.0]), "b": jnp.array([0.2])}
    value, vector = jax.jit(lambda v: gdjax.power_iteration(product, v0=v))(start)
    np.testing.assert_allclose(value, 3.0, rtol=1e-6)
    np.testing.assert_allclose(vector["a"], 0.5**0.5, rtol=1e-5)
    np.testing.assert_allclose(vector["b"], 0.5**0.5, rtol=1e-5)


def test_power_iteration_of_zero_halves_and_hermitian():
    value, vector = gdjax.power_iteration(jnp.zeros((3, 3)))
    assert value == 0 and np.all(np.isfinite(vector))
    value, _ = gdjax.power_iteration(jnp.diag(jnp.array([1.0, 4.0])).astype(jnp.bfloat16))
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, 4.0, rtol=1e-6)
    value, _ = gdjax.power_iteration(jnp.array([[2.0, 1j], [-1j, 2.0]]))
    np.testing.assert_allclose(value, 3.0, rtol=1e-5)


@pytest.mark.parametrize("p", [1, 2, 3, 4, 6, 8])
def test_inverse_root_is_that_of_the_eigenvalues(p):
    eigenvalues = np.array([5.0, 2.0, 0.3, 1e-2, 1e-3])
    matrix, q = symmetric(eigenvalues)
    ridge = 1e-6 * 5.0
    expected = (q * (eigenvalues + ridge) ** (-1 / p)) @ q.T
    with enable_x64():
        root, error = gdjax.matrix_inverse_pth_root(jnp.asarray(matrix), p, error_tolerance=1e-9)
        assert root.dtype == jnp.float64
    np.testing.assert_allclose(root, expected, rtol=1e-6, atol=1e-7 * np.abs(expected).max())
    assert float(error) < 1e-9


def test_inverse_root_equals_optax():
    import optax

    matrix, _ = symmetric(np.array([5.0, 2.0, 0.3, 0.1]))
    matrix = jnp.asarray(matrix, jnp.float32)
    ours, theirs = (m.matrix_inverse_pth_root(matrix, 4) for m in (gdjax, optax))
    np.testing.assert_allclose(ours[0], theirs[0], rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_inverse_root_at_any_scale_and_batched(scale):
    eigenvalues = np.array([1.0, 0.5, 0.1])
    matrix, q = symmetric(eigenvalues * scale)
    both = jnp.stack([jnp.asarray(matrix, jnp.float32), jnp.zeros((3, 3))])
    roots, errors = jax.vmap(lambda m: gdjax.matrix_inverse_pth_root(m, 4))(both)
    expected = (q * (eigenvalues * scale) ** (-1 / 4)) @ q.T
    np.testing.assert_allclose(roots[0], expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    assert np.all(np.isfinite(roots)) and np.all(errors < 1e-3)


def test_inverse_root_of_one_number_and_none():
    root, error = gdjax.matrix_inverse_pth_root(jnp.array([[16.0]], jnp.bfloat16), 4)
    assert root.dtype == jnp.bfloat16 and error < 1e-5
    np.testing.assert_allclose(root.astype(jnp.float32), [[0.5]], rtol=0.01)
    assert gdjax.matrix_inverse_pth_root(jnp.zeros((0, 0)), 2)[0].shape == (0, 0)


@pytest.mark.parametrize("shape", [(8, 4), (4, 4), (6, 1)])
def test_nnls_equals_scipy(shape):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=shape), rng.normal(size=(shape[0], 5))
    expected = np.stack([scipy.optimize.nnls(a, column)[0] for column in b.T], axis=1)
    with enable_x64():
        x = gdjax.nnls(jnp.asarray(a), jnp.asarray(b))
        one = gdjax.nnls(jnp.asarray(a), jnp.asarray(b[:, 1]), L=np.linalg.norm(a, 2) ** 2)
    assert shape == (6, 1) or np.any(expected == 0) and np.any(expected > 0)
    np.testing.assert_allclose(x, expected, atol=1e-8)
    np.testing.assert_allclose(one, expected[:, 1], atol=1e-8)


def nnls_problems(kind, shape=(9, 12), count=20):
    """Return matrices and right sides, in float64."""
    rng = np.random.default_rng(0)
    m, n = shape
    a, b = rng.normal(size=(count, m, n)), rng.normal(size=(count, m))
    if kind == "rank 2":
        a = rng.normal(size=(count, m, 2)) @ rng.normal(size=(count, 2, n))
    if kind == "rank 2, columns that agree":
        a = rng.random((count, m, 2)) @ rng.random((count, 2, n))
    if kind == "equal columns":
        a = a[:, :, rng.integers(0, n // 2, n)]
    if kind == "zero columns":
        a[:, :, ::2] = 0
    if kind == "units":
        a, b = a * 10.0 ** rng.integers(-15, 15, (count, 1, n)), b * 1e15
    if kind == "x = 0":
        a, b = np.abs(a), -np.abs(b)
    if kind == "residual 0":
        b = np.einsum("kmn,kn->km", a, np.maximum(rng.normal(size=(count, n)), 0))
    if kind == "b = 0":
        b = 0 * b
    if kind == "condition 1e3":
        u, _, vt = np.linalg.svd(a, full_matrices=False)
        a = (u * np.logspace(0, -3, min(m, n))) @ vt
    return a, b


NNLS_KINDS = (
    "random", "rank 2", "rank 2, columns that agree", "equal columns", "zero columns", "units",
    "x = 0", "residual 0", "b = 0", "condition 1e3",
)  # fmt: skip


@pytest.mark.parametrize("iters", [0, 10])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nnls_leaves_no_larger_residual_than_scipy(dtype, iters):
    """Of matrices before they are rounded to the dtype, whose rank rounding would raise."""
    with enable_x64():
        solve = jax.jit(jax.vmap(lambda a, b: gdjax.nnls(a, b, iters)))
        for kind in NNLS_KINDS:
            a, b = nnls_problems(kind)
            x = np.asarray(solve(a.astype(dtype), b.astype(dtype)), np.float64)
            assert x.min() >= 0, kind
            for one, right, found in zip(a, b, x):
                units = np.where(np.any(one, axis=0), np.abs(one).max(axis=0), 1)
                least = scipy.optimize.nnls(one / units, right)[1]
                excess = np.linalg.norm(one @ found - right) - least
                most = np.finfo(dtype).eps * (1e4 if kind == "condition 1e3" else 20)
                assert excess <= most * np.linalg.norm(right) + 1e-300, (kind, excess)


@pytest.mark.parametrize("unit", [1e-30, 1e-15, 1.0, 1e15, 1e30])
def test_nnls_has_no_units(unit):
    a, b = jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([5.0, 6.0])
    np.testing.assert_allclose(gdjax.nnls(a * unit, b * unit, 10), [0, 1.7], rtol=1e-6)
    columns = jnp.array([[unit, 1.0]])
    np.testing.assert_allclose(gdjax.nnls(a * columns, b, 10), [0, 1.7], rtol=1e-6)
    right = jnp.stack([b * unit, b], axis=1)
    np.testing.assert_allclose(gdjax.nnls(a, right, 10), [[0, 0], [1.7 * unit, 1.7]], rtol=1e-6)


def test_nnls_is_nan_where_a_number_is_not_finite():
    a = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    right = jnp.array([[5.0, jnp.nan, jnp.inf], [6.0, 1.0, 1.0]])
    x = gdjax.nnls(a, right, 10)
    np.testing.assert_allclose(x[:, 0], [0, 1.7], rtol=1e-6)
    assert np.all(np.isnan(x[:, 1:]))
    assert np.all(np.isnan(gdjax.nnls(a.at[0, 0].set(jnp.inf), right[:, 0])))


def test_derivatives_of_nnls():
    """Those of the least squares over the positive elements."""
    rng = np.random.default_rng(3)
    with enable_x64():
        a, b = jnp.asarray(rng.normal(size=(6, 4))), jnp.asarray(rng.normal(size=6))
        weights = jnp.arange(1.0, 5.0)
        value = lambda a, b: gdjax.nnls(a, b) @ weights  # noqa: E731
        free = np.asarray(gdjax.nnls(a, b)) > 0
        assert 0 < free.sum() < 4
        exact = lambda a, b: jnp.linalg.lstsq(a[:, free], b)[0] @ weights[free]  # noqa: E731
        ours, theirs = (jax.jit(jax.grad(f, argnums=(0, 1)))(a, b) for f in (value, exact))
        for x, y in zip(ours, theirs):
            np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-12)


def test_nnls_keeps_dtypes_and_takes_zeros():
    x = gdjax.nnls(jnp.eye(2, dtype=jnp.bfloat16), jnp.array([1.0, -1.0], jnp.bfloat16), 3)
    assert x.dtype == jnp.bfloat16
    np.testing.assert_array_equal(x.astype(jnp.float32), [1.0, 0.0])
    np.testing.assert_array_equal(gdjax.nnls(jnp.zeros((2, 3)), jnp.ones(2), 4), 0.0)
    assert gdjax.nnls(jnp.zeros((2, 0)), jnp.ones(2), 4).shape == (0,)


SQUARE = jnp.eye(2)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: gdjax.power_iteration(jnp.ones((2, 3))),
            ValueError,
            r"must be square, got \[2, 3",
        ),
        (lambda: gdjax.power_iteration(lambda v: v), ValueError, r"power_iteration\(v0=...\) must"),
        (lambda: gdjax.power_iteration(SQUARE, v0=jnp.ones(3)), ValueError, r"have shape \[2\]"),
        (lambda: gdjax.power_iteration(jnp.eye(2, dtype=int)), TypeError, "must be float or compl"),
        (
            lambda: gdjax.matrix_inverse_pth_root(SQUARE, 2.5),
            ValueError,
            r"p=...\) must be an integer, got 2.5",
        ),
        (
            lambda: gdjax.matrix_inverse_pth_root(SQUARE, 0),
            ValueError,
            r"p=...\) must be an integer",
        ),
        (lambda: gdjax.matrix_inverse_pth_root(SQUARE, 2, ridge_epsilon=-1.0), ValueError, "ridge"),
        (lambda: gdjax.nnls(SQUARE, jnp.ones(3), 4), ValueError, r"nnls needs A \[m, n\]"),
        (
            lambda: gdjax.nnls(SQUARE, jnp.ones(2, int), 4),
            TypeError,
            r"nnls\(b=...\) must be float",
        ),
        (lambda: gdjax.nnls(SQUARE, jnp.ones(2), 1.5), ValueError, r"iters=...\) must be an integ"),
        (
            lambda: gdjax.nnls(SQUARE, jnp.ones(2), -1),
            ValueError,
            r"iters=...\) must be an integer >= 0",
        ),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
