"""Inverse roots of random matrices against float64 eigenvalues, and failures that are named."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from x64 import enable_x64

import gdjax
from gdjax.linalg.eigenbasis import eigenbasis, tracked_basis

POWERS = tuple(range(1, 9))


def random_matrices(size, count, digits, seed=0):
    """Return symmetric matrices [count, n, n] with eigenvalues from 10**-digits to 1."""
    rng = np.random.default_rng(seed)
    q = np.linalg.qr(rng.normal(size=(count, size, size)))[0]
    values = 10.0 ** (-digits * rng.random((count, size)))
    values[:, 0], values[:, -1] = 10.0**-digits, 1
    a = (q * values[:, None]) @ q.swapaxes(1, 2)
    return (a + a.swapaxes(1, 2)) / 2


def exact(a, p, ridge):
    values, vectors = np.linalg.eigh(np.asarray(a, np.float64))
    values = values + ridge * values[:, -1:]
    return (vectors * values[:, None] ** (-1 / p)) @ vectors.swapaxes(1, 2)


@functools.cache
def program(method, powers):
    def roots(a, ridge):
        return [
            gdjax.matrix_inverse_pth_root(a, p, ridge_epsilon=ridge, method=method) for p in powers
        ]

    options = {"xla_backend_optimization_level": 0}
    return jax.jit(jax.vmap(roots, (0, None)), compiler_options=options)


def check(a, ridge, method, powers, bound, certain=True):
    """Check each root: right to `bound`, or, if not `certain`, NaN with an infinite error."""
    for p, (roots, errors) in zip(powers, program(method, powers)(a, ridge), strict=True):
        assert roots.dtype == a.dtype
        expected = exact(a, p, ridge)
        wrong = np.linalg.norm(np.asarray(roots, np.float64) - expected, axis=(1, 2))
        wrong = wrong / np.linalg.norm(expected, axis=(1, 2))
        failed = np.isinf(np.asarray(errors))
        np.testing.assert_array_equal(failed, np.isnan(wrong))
        assert not (certain and np.any(failed)), (p, np.sum(failed))
        assert np.nanmax(wrong, initial=0) < bound, (p, np.nanmax(wrong))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("size", "count"), [(1, 3), (2, 60), (8, 300), (30, 20)])
def test_roots_are_right_for_conditions_up_to_a_million(size, count, dtype):
    powers = POWERS if size == 8 else (2, 5)
    digits = (1, 3, 6)
    a = np.concatenate([random_matrices(size, count, d, seed=d) for d in digits])
    with enable_x64():
        a = jnp.asarray(a, dtype)
        for ridge in (0.0, 1e-6):
            check(a, ridge, "eigh", powers, 1e-3 if dtype == "float32" else 1e-9)


def test_a_large_matrix():
    a = jnp.asarray(random_matrices(128, 2, 6), jnp.float32)
    check(a, 1e-6, "eigh", (4,), 1e-3)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_products_alone_never_stop_at_a_multiple_of_one(dtype):
    with enable_x64():
        a = np.concatenate([random_matrices(8, 300, d, seed=d) for d in (1, 2, 4)])
        bound = 1e-2 if dtype == "float32" else 1e-8
        check(jnp.asarray(a, dtype), 0.0, "newton", POWERS[3:7], bound)
        worse = jnp.asarray(random_matrices(8, 300, 6), dtype)
        check(worse, 1e-6, "newton", POWERS[3:7], 0.05)


def test_the_reported_matrix():
    """optax#1735: 0.77 and a multiple of the identity, at a condition of 133."""
    a = np.random.default_rng(0).normal(size=(8, 8))
    with enable_x64():
        a = jnp.asarray(a @ a.T + 0.1 * np.eye(8))
        for method in ("eigh", "newton"):
            root, error = gdjax.matrix_inverse_pth_root(a, 5, method=method)
            np.testing.assert_allclose(root, exact(a[None], 5, 1e-6)[0], rtol=1e-8, atol=1e-10)
            assert error < 1e-6


@pytest.mark.parametrize("method", ["eigh", "newton"])
def test_any_scale_and_what_has_no_root(method):
    base = random_matrices(8, 1, 3)[0]
    low = np.diag([1.0, 0.5, 0.25, 0, 0, 0, 0, 0])
    scales = [1e-30, 1e-20, 1e-10, 1.0, 1e10, 1e20, 1e30]
    uneven = base + 1e-8 * np.triu(np.ones((8, 8)), 1)  # not symmetric by rounding
    regular = [base * s for s in scales] + [low, uneven]
    nothing = [-base, base * np.nan, np.where(np.eye(8) > 0, np.inf, base), base - 0.5 * np.eye(8)]
    a = jnp.asarray(np.stack([*regular, *nothing, 0 * base]), jnp.float32)
    (roots, errors), *_ = program(method, (4,))(a, 1e-6)
    expected = exact(a[: len(regular)], 4, 1e-6)
    for i, one in enumerate(expected):
        np.testing.assert_allclose(
            roots[i] / np.max(one), one / np.max(one), atol=3e-3, err_msg=str(i)
        )
    assert np.all(errors[: len(regular)] < 0.1)
    rest = slice(len(regular), -1)
    assert np.all(np.isnan(roots[rest])) and np.all(np.isinf(errors[rest]))
    assert np.all(np.isfinite(roots[-1]))  # the zero matrix, see the documentation
    (_, error), *_ = program(method, (4,))(jnp.asarray(low, jnp.float32)[None], 0.0)
    assert np.isinf(error[0])  # singular, without a ridge


def test_bases_stay_orthonormal_for_any_matrix():
    base = random_matrices(8, 1, 6)[0]
    rank_one = np.outer(base[0], base[0])
    cases = [base, rank_one, 0 * base, 1e-30 * base, 1e30 * base, 1e-37 * rank_one, np.eye(8)]
    a = jnp.asarray(np.stack(cases), jnp.float32)

    @jax.jit
    @jax.vmap
    def bases(a):
        first = eigenbasis(a)
        turned, _ = tracked_basis(a, jnp.eye(8))
        return first, tracked_basis(a, first)[0], tracked_basis(a, turned)[0]

    for q in bases(a):
        np.testing.assert_allclose(q.swapaxes(1, 2) @ q, np.tile(np.eye(8), (7, 1, 1)), atol=1e-5)


ROOTS = {
    root: functools.partial(
        gdjax.shampoo, 0.1, b2=0.5, eps=1e-6, precondition_frequency=1, merge_dims=False, root=root
    )
    for root in ("eigh", "newton")
}


@pytest.mark.parametrize("root", ROOTS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_shampoo_renews_every_root(root, dtype):
    """No root fails for gradients of any condition, also in a vmap over runs, with eager steps."""
    opt = ROOTS[root]()
    q = random_matrices(6, 2, 0, seed=1)
    shapes = random_matrices(6, 40, 3, seed=2) @ q[0]  # factors of conditions up to 1e6
    grads = jnp.asarray(shapes, dtype).reshape(2, 20, 6, 6)
    params = jnp.ones((2, 6, 6), dtype)

    @jax.jit
    @jax.vmap
    def run(params, grads):
        def step(carry, g):
            params, state = carry
            updates, state = opt.update(g, state, params)
            return (gdjax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, opt.init(params)), grads)[0]

    out, state = run(params, grads)
    assert np.all(np.isfinite(out.astype(jnp.float32)))
    failed = gdjax.metrics(state)["failed_roots"]
    np.testing.assert_array_equal(failed, [0, 0])
    factor, kept = state.slots.factors[0][0, 0], state.slots.roots[0][0, 0]
    scaled = np.asarray(factor, np.float64) / (1 - 0.5**20) + 1e-6 * np.eye(6)
    expected = exact(scaled[None], 4, 1e-6 if root == "newton" else 0)[0]
    np.testing.assert_allclose(kept, expected, atol=2e-2 * np.max(np.abs(expected)))


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("failed_roots", ROOTS["eigh"]),
        ("failed_roots", ROOTS["newton"]),
        ("failed_bases", lambda: gdjax.soap(0.1, precondition_frequency=1)),
    ],
)
def test_failures_show_in_the_metrics_wherever_the_optimizer_is(name, make):
    params = {"a": jnp.ones((3, 3)), "b": jnp.ones(3)}
    opt = gdjax.chain(gdjax.clip(1e9), gdjax.monitor(make()))
    state = opt.init(params)
    assert gdjax.metrics(state)[name] == 0
    bad = {"a": jnp.full((3, 3), jnp.nan), "b": jnp.ones(3)}
    _, state = opt.update(bad, state, params)
    assert gdjax.metrics(state)[name] == 2  # both sides of "a"


@pytest.mark.parametrize("p", [17, 32, 64, 100])
def test_the_error_of_high_roots_by_newton_is_not_less_than_it_is(p):
    """Rounding parts the iterates of the root and of the rest: they were wrong by 50 %."""
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0]
    with enable_x64():
        for condition in (10, 1e3, 1e6):
            a = (basis * np.logspace(0, -np.log10(condition), 5)) @ basis.T
            root, error = gdjax.matrix_inverse_pth_root(
                jnp.asarray(a), p, ridge_epsilon=0.0, method="newton"
            )
            if np.isfinite(error):
                off = np.linalg.matrix_power(np.asarray(root), p) @ a - np.eye(5)
                assert np.abs(off).max() <= 1.1 * error + 1e-12
            else:
                assert jnp.isnan(root).all()
