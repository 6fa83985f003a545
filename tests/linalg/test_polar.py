"""The polar kernel against the SVD in float64; buckets give the results of one call per matrix."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from x64 import enable_x64

import gdjax
from gdjax.linalg.buckets import in_turn, map_buckets
from gdjax.linalg.polar import PRECONDITIONINGS

# Each set's image of singular values in [1e-3, 1]: algorithms as published, measured in float64
IMAGES = {
    "keller": (0.470, 1.203),
    "you": (0.474, 1.146),
    "polar_express5": (0.846, 1.142),
    "polar_express": (1 - 1e-4, 1 + 1e-4),
}


def with_singular_values(s, n, seed=0):
    """Return matrices [len(s), 2, n] of norm 1 whose smaller singular value is s."""
    rng = np.random.default_rng(seed)
    u = np.linalg.qr(rng.normal(size=(len(s), 2, 2)))[0]
    v = np.linalg.qr(rng.normal(size=(len(s), n, 2)))[0]
    d = np.stack([np.sqrt(1 - s**2), s], 1)
    return (u * d[:, None]) @ v.swapaxes(-1, -2)


@pytest.mark.parametrize("name", IMAGES)
def test_singular_values_come_into_the_published_range(name):
    x = with_singular_values(np.logspace(-3, -0.2, 300), 9)
    low, high = IMAGES[name]
    with enable_x64():
        out = {f: np.asarray(gdjax.polar(x, name, form=f)) for f in ("direct", "gram")}
    for y in out.values():
        s = np.linalg.svd(y, compute_uv=False)
        assert low <= s.min() and s.max() <= high, (s.min(), s.max())
    np.testing.assert_allclose(out["direct"], out["gram"], atol=1e-12)
    u, _, vt = np.linalg.svd(x, full_matrices=False)
    left, right = u.swapaxes(-1, -2) @ out["gram"] @ vt.swapaxes(-1, -2), np.zeros((300, 2, 2))
    right[:, [0, 1], [0, 1]] = np.diagonal(left, 0, 1, 2)  # the singular vectors stay
    np.testing.assert_allclose(left, right, atol=1e-10)  # singular values near each other mix


@pytest.mark.slow
def test_is_the_polar_factor_of_any_shape_and_complex():
    rng = np.random.default_rng(1)
    for shape in [(30, 3), (1, 7), (2, 5, 5)]:
        x = rng.normal(size=shape) + 1j * rng.normal(size=shape)
        for one in (x, x.real):
            u, _, vt = np.linalg.svd(one, full_matrices=False)
            with enable_x64():
                out = np.asarray(gdjax.polar(one))
            np.testing.assert_allclose(out, u @ vt, atol=2e-3)


@pytest.mark.parametrize("form", ["direct", "gram"])
def test_hard_spectra_in_low_precision(form):
    """Conditions of 1e8 and rank one: nothing blows up, as the Gram form without restarts does."""
    rng = np.random.default_rng(2)
    u, v = (np.linalg.qr(rng.normal(size=(n, 32)))[0] for n in (32, 200))
    for s in (np.logspace(0, -8, 32), np.eye(32)[0]):
        x = (u * s) @ v.T
        with enable_x64():
            exact = np.asarray(gdjax.polar(x, form="direct"))
        for dtype, atol in ((jnp.float32, 1e-4), (jnp.float16, 0.02)):
            out = np.asarray(gdjax.polar(jnp.asarray(x, jnp.float32), form=form, dtype=dtype))
            assert np.linalg.norm(out, 2) < 1.1
            np.testing.assert_allclose(out @ v[:, 0], exact @ v[:, 0], atol=atol)


@pytest.mark.parametrize("preconditioning", ["spectral", "schatten", "aol"])
def test_other_starts_use_more_of_the_unit_interval(preconditioning):
    x = np.random.default_rng(3).normal(size=(20, 60))
    with enable_x64():

        def smallest(start):
            y = gdjax.polar(x, (1.5, -0.5, 0.0), 3, preconditioning=start)  # monotone
            s = np.linalg.svd(y, compute_uv=False)
            assert s.max() < 1 + 1e-9
            return s.min()

        assert smallest(preconditioning) > 1.05 * smallest("frobenius")
        scaled = gdjax.polar(1e-9 * x, eps=0.0, preconditioning=preconditioning)
        same = gdjax.polar(x, eps=0.0, preconditioning=preconditioning)
        np.testing.assert_allclose(scaled, same, atol=1e-12)


@pytest.mark.slow
def test_zero_matrices_and_derivatives():
    weights = jnp.asarray(np.random.default_rng(7).normal(size=(2, 5)), jnp.float32)
    for form in ("direct", "gram"):
        for start in ("frobenius", "aol") if form == "gram" else ("spectral", "schatten"):

            def f(x, form=form, start=start):
                y = gdjax.polar(x, form=form, preconditioning=start)
                return jnp.vdot(weights, y), y

            zero = jnp.zeros((2, 5))
            (_, y), grad = jax.jit(jax.value_and_grad(f, has_aux=True))(zero)
            np.testing.assert_array_equal(y, zero)
            assert jnp.isfinite(grad).all()
    assert gdjax.polar(jnp.zeros((0, 3))).shape == (0, 3)


def test_tables_of_coefficients():
    x = np.random.default_rng(4).normal(size=(3, 4))
    triple = (3.0, -3.2, 1.2)
    np.testing.assert_array_equal(gdjax.polar(x, triple, 4), gdjax.polar(x, [triple] * 4))
    np.testing.assert_array_equal(gdjax.polar(x, triple), gdjax.polar(x, [triple] * 5))
    np.testing.assert_array_equal(gdjax.polar(x, [triple] * 3, 7), gdjax.polar(x, [triple] * 3))
    keller = (3.4445, -4.7750, 2.0315)
    for name in ("keller", "standard"):
        np.testing.assert_array_equal(gdjax.polar(x, name, 3), gdjax.polar(x, [keller] * 3))
    with enable_x64():  # further steps repeat the last row, which converges to 1
        s = np.linalg.svd(gdjax.polar(x, "polar_express", 12), compute_uv=False)
    np.testing.assert_allclose(s, 1, atol=1e-12)
    for bad in ("typo", (1.0, 2.0), np.ones((2, 4)), np.ones((0, 3))):
        with pytest.raises(ValueError, match="ns_coeffs"):
            gdjax.polar(x, bad)
    with pytest.raises(ValueError, match="two axes"):
        gdjax.polar(jnp.ones(3))


def _frame(x, scale):
    return scale * x @ x.T @ x


def test_buckets_give_the_results_of_one_call_per_matrix_with_one_product_each():
    rng = np.random.default_rng(5)
    one, two = jnp.float32(1), jnp.float32(2)
    shared = [(one,), (one,), (two,), (two,), (one,)]
    keys = [id(number) for (number,) in shared]
    frame = jax.jit(_frame)
    for shapes, stacks, buckets in (
        ([(2, 3), (2, 3), (2, 3), (3, 3), (1, 3)], False, 1),
        ([(1, 2, 3), (4, 2, 3), (4, 2, 3), (1, 3, 3), (0, 2, 3)], True, 3),
    ):
        rows = [jnp.asarray(rng.normal(size=s), jnp.float32) for s in shapes]
        for how in (dict(batched=False), dict(batched=True), dict(batched=True, lift=in_turn)):

            def run(*rows, how=how, stacks=stacks):
                return map_buckets(frame, rows, keys, shared, stacks=stacks, **how)

            for x, (s,), out in zip(rows, shared, run(*rows), strict=True):
                np.testing.assert_allclose(out, s * x @ x.mT @ x, rtol=1e-5)
            program = jax.jit(run).lower(*rows).as_text()
            products = len(re.findall(r"dot_general.*batching_dims", program))  # two in _frame
            assert products == (2 * buckets if how == dict(batched=True) else 0)


@pytest.mark.parametrize("preconditioning", PRECONDITIONINGS)
def test_no_scale_is_lost_to_overflow_or_underflow(preconditioning):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 6)), jnp.float32)
    scales = jnp.array([1.0, 1e-36, 1e-25, 1e18, 1e25, 1e37])

    def one(x):
        return gdjax.polar(x, eps=0.0, preconditioning=preconditioning)

    out = jax.jit(jax.vmap(one))(scales[:, None, None] * x[None])
    np.testing.assert_allclose(out, np.broadcast_to(out[0], out.shape), atol=2e-5)
    loss = jax.jit(jax.grad(lambda x: jnp.sum(one(x) ** 2 * x / jnp.max(jnp.abs(x)))))
    assert np.all(np.isfinite(loss(1e25 * x)))
