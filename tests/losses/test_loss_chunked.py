"""The chunked cross entropy equals the plain one and never holds all logits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from x64 import enable_x64

import gdjax

chunked = gdjax.chunked_softmax_cross_entropy


def plain(hidden, kernel, labels, bias=None, where=None):
    logits = jnp.matmul(hidden, kernel)
    if bias is not None:
        logits += jnp.broadcast_to(bias, logits.shape)
    return gdjax.softmax_cross_entropy_with_integer_labels(logits, labels, where=where)


def problem(classes=7, scale=1.0):
    rng = np.random.default_rng(0)
    hidden, kernel = rng.normal(0.2, scale, (2, 3, 4)), rng.normal(0.1, scale, (4, classes))
    return hidden, kernel, rng.normal(size=classes), rng.integers(0, classes, (2, 3))


def weighted(loss):
    """Return the value, and the gradients for a cotangent that differs from token to token."""

    def value(hidden, kernel, bias, *args, **kwargs):
        out = loss(hidden, kernel, *args, bias=bias, **kwargs)
        return jnp.sum(out * jnp.cos(jnp.arange(out.size, dtype=out.dtype)).reshape(out.shape)), out

    fast = {"xla_backend_optimization_level": 0}
    return jax.jit(
        jax.value_and_grad(value, (0, 1, 2), has_aux=True),
        static_argnames="chunk_size",
        compiler_options=fast,
    )


@pytest.mark.parametrize("chunk_size", [1, 3, 7, 100])
def test_value_and_gradients_equal_the_plain_form(chunk_size):
    with enable_x64():
        hidden, kernel, bias, labels = map(jnp.asarray, problem())
        where = jnp.array([[True, True, False], [True, False, True]])
        labels = jnp.where(where, labels, -1)
        (_, actual), grads = weighted(chunked)(
            hidden, kernel, bias, labels, chunk_size=chunk_size, where=where
        )
        (_, expected), expected_grads = weighted(plain)(hidden, kernel, bias, labels, where=where)
        assert actual.dtype == jnp.float64
        np.testing.assert_allclose(actual, expected, rtol=1e-13)
        for g, e in zip(grads, expected_grads, strict=True):
            np.testing.assert_allclose(g, e, rtol=1e-12, atol=1e-14)


def test_second_derivatives_equal_the_plain_form():
    with enable_x64():
        hidden, kernel, _, labels = map(jnp.asarray, problem())

        def sharpness(loss):
            def norm(kernel, **kwargs):
                g = jax.grad(lambda w: loss(hidden, w, labels, **kwargs).mean())(kernel)
                return jnp.sum(g * g)

            return norm

        @jax.jit
        def derivatives(w):
            of_chunks = functools.partial(sharpness(chunked), chunk_size=3)
            forward = jax.jvp(of_chunks, (w,), (w,))[1]
            return jax.grad(of_chunks)(w), jax.grad(sharpness(plain))(w), forward

        actual, expected, forward = derivatives(kernel)
        np.testing.assert_allclose(actual, expected, rtol=1e-11)
        np.testing.assert_allclose(forward, jnp.sum(actual * kernel), rtol=1e-11)


def test_memory_is_that_of_a_chunk():
    tokens, dim, classes, chunk = 512, 16, 16384, 512

    def memory(loss):
        shapes = (
            jax.ShapeDtypeStruct((tokens, dim), jnp.float32),
            jax.ShapeDtypeStruct((dim, classes), jnp.float32),
            jax.ShapeDtypeStruct((tokens,), jnp.int32),
        )
        step = jax.jit(jax.value_and_grad(lambda h, w, y: loss(h, w, y).mean(), (0, 1)))
        return step.lower(*shapes).compile().memory_analysis().temp_size_in_bytes

    logits = 4 * tokens * classes
    assert memory(plain) >= logits
    # a few copies of the chunk and of the gradient of the kernel, 1 MiB each
    assert memory(lambda h, w, y: chunked(h, w, y, chunk_size=chunk)) < logits / 4


def test_bfloat16_is_summed_in_float32_and_keeps_its_dtype():
    hidden, kernel, bias, labels = problem(classes=40)
    halves = [jnp.asarray(x, jnp.bfloat16) for x in (hidden, kernel, bias)]
    (_, actual), grads = weighted(chunked)(*halves, jnp.asarray(labels), chunk_size=16)
    wide = [x.astype(jnp.float32) for x in halves]
    (_, expected), expected_grads = weighted(plain)(*wide, jnp.asarray(labels))
    assert actual.dtype == jnp.float32
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
    for g, e in zip(grads, expected_grads, strict=True):
        assert g.dtype == jnp.bfloat16
        np.testing.assert_allclose(g.astype(jnp.float32), e, rtol=0.02, atol=0.01)


def test_finite_at_large_logits_and_for_excluded_classes():
    hidden, kernel, bias, labels = map(jnp.float32, problem(scale=100.0))
    labels = labels.astype(jnp.int32)
    bias = jnp.where(jnp.arange(7) == (labels.ravel()[0] + 1) % 7, -jnp.inf, 1e4)
    labels = jnp.full_like(labels, labels.ravel()[0])
    (_, loss), grads = weighted(chunked)(hidden, kernel, bias, labels, chunk_size=1)
    logits = np.asarray(hidden, np.float64) @ np.asarray(kernel, np.float64)
    logits += np.asarray(bias, np.float64)
    top = logits.max(-1, keepdims=True)
    exact = np.log(np.exp(logits - top).sum(-1)) + top[..., 0]
    exact -= np.take_along_axis(logits, np.asarray(labels)[..., None], -1)[..., 0]
    np.testing.assert_allclose(loss, exact, rtol=1e-5, atol=2e-2)
    assert all(np.all(np.isfinite(g)) for g in grads)


def test_labels_out_of_range_are_nan():
    hidden, kernel, _, _ = map(jnp.asarray, problem())
    labels = jnp.array([[0, -1, 7], [6, -100, 300]])
    loss = chunked(hidden, kernel, labels, chunk_size=3)
    np.testing.assert_array_equal(jnp.isnan(loss), (labels < 0) | (labels > 6))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"hidden": jnp.ones((2, 4), int)}, TypeError, r"hidden=...\) must be float, got dtype"),
        ({"kernel": jnp.ones((5, 4))}, ValueError, r"needs hidden \[..., dim\].*Transpose"),
        ({"kernel": jnp.ones((4, 0))}, ValueError, r"kernel=...\) needs at least one class"),
        ({"labels": jnp.ones(2)}, TypeError, r"labels=...\) must be integer"),
        ({"labels": jnp.zeros(3, int)}, ValueError, r"labels=...\) must have shape \[2\]"),
        ({"bias": jnp.ones(4)}, ValueError, r"bias=...\) must have shape \[5\]"),
        ({"chunk_size": 0}, ValueError, r"chunk_size=...\) must be an integer >= 1, got 0"),
        ({"chunk_size": 2.5}, ValueError, r"chunk_size=...\) must be an integer, got 2.5"),
        ({"where": jnp.ones(2)}, TypeError, r"where=...\) must be boolean"),
    ],
)
def test_bad_input_is_named(change, error, message):
    good = {"hidden": jnp.ones((2, 4)), "kernel": jnp.ones((4, 5)), "labels": jnp.zeros(2, int)}
    with pytest.raises(error, match=message):
        chunked(**(good | change))
