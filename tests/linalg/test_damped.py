"""Damped linear least squares against LAPACK in float64, in all forms, shapes and dtypes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from x64 import enable_x64

from gdjax.linalg.damped import (
    FORMS,
    block_diagonal,
    damped_cg,
    damped_direction,
    damped_inverse,
    direct_form,
    nystrom,
)


def matrix(m, n, condition, kind=float, rank=None, seed=0):
    """A matrix with singular values from 1 to 1 / condition, the last ones 0 above the rank."""
    rng = np.random.default_rng(seed)
    k = min(m, n)
    draw = lambda *s: rng.normal(size=s) + (1j * rng.normal(size=s) if kind is complex else 0)  # noqa: E731
    u, v = np.linalg.qr(draw(m, k))[0], np.linalg.qr(draw(n, k))[0]
    s = np.logspace(0, -np.log10(condition), k)
    s[k if rank is None else rank :] = 0
    return (u * s) @ v.conj().T, draw(m)


def exact(j, r, damping):
    """The direction from singular values, of which those below 1e-10 count as 0."""
    u, s, vh = np.linalg.svd(j, full_matrices=False)
    kept = s > 1e-10 * s[0]
    ratio = np.where(kept, s / np.where(kept, s**2 + damping, 1), 0)
    return vh.conj().T @ (ratio * (u.conj().T @ r))


@pytest.mark.parametrize("kind", [float, complex])
@pytest.mark.parametrize("shape", [(30, 8), (8, 30), (9, 9)])
def test_forms_agree_with_lapack(kind, shape):
    """Also in any units, without damping, and with a rank that is not full."""
    run = jax.jit(
        lambda j, r, damping: [damped_direction(j, r, damping, solver=s) for s in (*FORMS, "auto")]
    )
    with enable_x64():
        for rank, damping in ((None, 1e-3), (None, 0.0), (6, 1e-3), (6, 0.0)):
            j, r = matrix(*shape, 30.0, kind, rank)
            for unit in (1.0, 1e-100, 1e100):
                for form, d in zip(
                    (*FORMS, "auto"), run(j * unit, r, damping * unit * unit), strict=True
                ):
                    least = "normal" if shape[0] >= shape[1] else "kernel"
                    regular = form == least or form == "kernel" and shape[0] == shape[1]
                    if not damping and form in ("normal", "kernel") and (rank or not regular):
                        continue  # they promise no shortest solution
                    rtol = 1e-11
                    expected = exact(j, r, damping) / unit
                    scale = np.linalg.norm(expected)
                    np.testing.assert_allclose(
                        d, expected, atol=rtol * scale, rtol=0, err_msg=str((form, rank, unit))
                    )


@pytest.mark.parametrize("shape", [(60, 12), (12, 60)])
def test_float32_keeps_the_digits_that_each_form_promises(shape):
    """Error at condition 1e3 without damping, and with damping below and above the cutoff."""
    j, _ = matrix(*shape, 1e3)
    r = j @ np.random.default_rng(1).normal(size=shape[1])  # what a fit has to find
    for damping in (0.0, 1e-9, 1e-4):
        expected = exact(j, r, damping)
        for form in FORMS:
            d = damped_direction(jnp.asarray(j, jnp.float32), jnp.asarray(r, jnp.float32), damping,
                                 solver=form)  # fmt: skip
            assert d.dtype == jnp.float32
            error = np.linalg.norm(d - expected) / np.linalg.norm(expected)
            assert error < (2e-3 if form == "qr" or damping == 1e-4 else 0.7), (damping, form)


def test_shape_decides_and_zeros_do_no_harm():
    assert [direct_form(*s) for s in ((10, 1000), (3000, 2000), (2000, 3000))] == [
        "qr", "normal", "kernel",
    ]  # fmt: skip
    for form in FORMS:
        assert not damped_direction(jnp.zeros((4, 3)), jnp.ones(4), 0.0, solver=form).any()
        assert damped_direction(jnp.zeros((0, 3)), jnp.ones(0), 0.0, solver=form).shape == (3,)


@pytest.mark.slow
def test_preconditioners_save_steps():
    """Nystrom of rank 30 for fast decay; blocks for badly scaled parts."""
    rng = np.random.default_rng(0)
    with enable_x64():
        j, r = matrix(80, 50, 1e6)
        damping = 1e-6
        expected = exact(j, r, damping)

        def solve(j, precondition, **more):
            return damped_cg(lambda v: j @ v, lambda w: j.conj().T @ w, r, damping, rtol=1e-10,
                             max_steps=1000, precondition=precondition, **more)  # fmt: skip

        found = nystrom(lambda v: j @ v, lambda w: j.T @ w, jnp.ones(50), 30, jax.random.key(0))
        sizes = np.linalg.svd(j, compute_uv=False) ** 2
        np.testing.assert_allclose(found.values[:15], sizes[:15], rtol=1e-3)
        plain, better = solve(j, None), solve(j, found.inverse(damping))
        np.testing.assert_allclose(better.d, expected, atol=1e-6 * np.linalg.norm(expected))
        np.testing.assert_allclose(better.image, j @ better.d, atol=1e-9)
        assert better.steps < 15 and plain.steps > 100, (better.steps, plain.steps)

        parts = [matrix(20, 4, 3.0, seed=i)[0] * 10.0 ** (3 * i) for i in range(3)]
        zeros = np.zeros((20, 4))
        j = np.block([[a if i == k else zeros for k in range(3)] for i, a in enumerate(parts)])
        j, r = j + 1e-3 * rng.normal(size=j.shape), rng.normal(size=60)
        squares = jnp.sum(jnp.asarray(j) ** 2, 0)
        for largest, most in ((4, 12), (0, 40)):
            apply = block_diagonal(
                lambda v: j @ v, jnp.ones(12), [4, 4, 4], squares, damping, largest
            )
            steps = solve(j, apply).steps
            assert steps <= most, (largest, steps)


@pytest.mark.slow
def test_inverse_and_derivatives():
    """Against the matrix itself; also where singular values are equal."""
    rng = np.random.default_rng(0)
    with enable_x64():
        for m, n in ((5, 3), (3, 5)):
            j, r, g = jnp.eye(m, n), jnp.asarray(rng.normal(size=m)), rng.normal(size=n)
            along = jnp.asarray(rng.normal(size=(m, n)))

            def explicit(t, j=j, r=r, along=along, n=n):
                a = j + t * along
                return jnp.linalg.solve(a.T @ a + (0.3 + t) * jnp.eye(n), a.T @ (r + t))

            def ours(t, form, j=j, r=r, along=along):
                return damped_direction(j + t * along, r + t, 0.3 + t, solver=form)

            gram = np.asarray(j.T @ j)
            for form in FORMS:
                value, slope = jax.jvp(lambda t, f=form: ours(t, f), (0.0,), (1.0,))
                expected = jax.jvp(explicit, (0.0,), (1.0,))
                np.testing.assert_allclose(value, expected[0], rtol=1e-12)
                np.testing.assert_allclose(slope, expected[1], rtol=1e-11)
                back = jax.grad(lambda t, f=form: ours(t, f).sum())(0.0)
                np.testing.assert_allclose(back, expected[1].sum(), rtol=1e-11)
                twice = jax.grad(lambda t, f=form: jax.jvp(
                    lambda t: ours(t, f).sum(), (t,), (1.0,))[1])(0.0)  # fmt: skip
                double = jax.jvp(lambda t: jax.jvp(explicit, (t,), (1.0,))[1], (0.0,), (1.0,))[1]
                np.testing.assert_allclose(twice, double.sum(), rtol=1e-10)
                d = damped_inverse(j, jnp.asarray(g), 0.3, solver=form)
                np.testing.assert_allclose(d, np.linalg.solve(gram + 0.3 * np.eye(n), g))
            d = damped_inverse(j, jnp.asarray(g), 0.0, solver="qr")
            np.testing.assert_allclose(d, np.linalg.pinv(gram) @ g)
