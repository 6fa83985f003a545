"""Perturbed functions: the same estimates as optax, with unbiased derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from x64 import enable_x64

from gdjax.perturbations import Gumbel, Normal, make_perturbed_fun


def rough(x):
    """Return a tree of piecewise constant functions of a tree."""
    ranks = jnp.argsort(jnp.argsort(x["a"]))
    return {"ranks": ranks, "sign": jnp.sign(x["b"]) * x["a"].max()}


@pytest.mark.parametrize(("noise", "baseline"), [("Gumbel", True), ("Normal", False)])
def test_equals_optax_for_the_same_key(noise, baseline):
    x = {"a": jnp.array([0.3, -0.2, 0.9]), "b": jnp.array([[0.1], [-0.4]])}
    theirs = optax.perturbations.make_perturbed_fun(
        rough, 50, 0.3, getattr(optax.perturbations, noise)(), baseline
    )
    own = {"Gumbel": Gumbel, "Normal": Normal}[noise]()
    ours = make_perturbed_fun(rough, 50, 0.3, own, baseline)

    def measured(f, x):
        return jax.value_and_grad(lambda x: sum(map(jnp.sum, f(key, x).values())))(x)

    key = jax.random.key(1)
    with enable_x64():
        x = jax.tree.map(lambda v: v.astype(jnp.float64), x)
        a, b = jax.jit(lambda x: (measured(ours, x), measured(theirs, x)))(x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), a, b)


def test_a_perturbed_maximum_has_the_gradient_of_logsumexp():
    x, sigma = jnp.array([0.0, 0.4, 1.0]), 0.5
    soft = make_perturbed_fun(jnp.max, 40_000, sigma)
    value, grad = jax.jit(jax.value_and_grad(soft, argnums=1))(jax.random.key(0), x)
    expected = sigma * (jax.nn.logsumexp(x / sigma) + np.euler_gamma)
    np.testing.assert_allclose(value, expected, atol=5 * sigma * 1.3 / 200)
    np.testing.assert_allclose(grad, jax.nn.softmax(x / sigma), atol=0.03)


def test_derivatives_of_any_order_and_by_sigma_are_unbiased():
    """E|x + sigma z|^2 = |x|^2 + sigma^2 d: gradient 2x, Hessian 2, and 2 sigma d by sigma."""
    x, sigma = jnp.array([0.7, -0.3]), 0.8

    def smooth(x, sigma):
        f = make_perturbed_fun(lambda x: jnp.sum(x * x), 200_000, sigma, Normal())
        return f(jax.random.key(0), x)

    @jax.jit
    def derivatives(x, sigma):
        grad, by_sigma = jax.grad(smooth, (0, 1))(x, sigma)
        return smooth(x, sigma), grad, by_sigma, jax.hessian(smooth)(x, sigma)

    value, grad, by_sigma, hessian = derivatives(x, sigma)
    np.testing.assert_allclose(value, 0.58 + 2 * 0.64, atol=0.02)
    np.testing.assert_allclose(grad, 2 * x, atol=0.03)
    np.testing.assert_allclose(by_sigma, 2 * 0.8 * 2, atol=0.06)
    np.testing.assert_allclose(hessian, 2 * np.eye(2), atol=0.1)


def test_a_small_sigma_at_a_large_input_keeps_its_gradient():
    """The score uses the noise itself, not what is left of it in x + sigma z."""
    f = make_perturbed_fun(lambda x: x, 20_000, 0.01, Normal())
    grad = jax.jit(jax.grad(f, argnums=1))(jax.random.key(0), jnp.float32(1e4))
    np.testing.assert_allclose(grad, 1.0, atol=0.1)


def test_halves_in_and_out():
    f = make_perturbed_fun(lambda x: (x > 0).astype(jnp.bfloat16), 1000, 1.0, Normal())
    x = jnp.zeros(2, jnp.bfloat16)
    out, grad = jax.jit(lambda k, x: (f(k, x), jax.grad(lambda x: f(k, x).sum())(x)))(
        jax.random.key(0), x
    )
    assert out.dtype == jnp.float32 and grad.dtype == jnp.bfloat16
    np.testing.assert_allclose(out, 0.5, atol=0.08)
    np.testing.assert_allclose(grad.astype(jnp.float32), (2 * np.pi) ** -0.5, atol=0.08)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_samples": 0}, r"num_samples=...\) must be an integer >= 1, got 0"),
        ({"num_samples": 1.5}, r"num_samples=...\) must be an integer, got 1.5"),
        ({"sigma": 0.0}, r"make_perturbed_fun\(sigma=...\) must be finite and > 0"),
    ],
)
def test_bad_numbers_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        make_perturbed_fun(jnp.sum, **change)


def test_integer_input_is_named():
    with pytest.raises(TypeError, match="input of a perturbed function must be float"):
        make_perturbed_fun(jnp.sum)(jax.random.key(0), jnp.arange(3))


def test_an_excluded_score_keeps_value_and_gradient_finite():
    """A score of -inf is never the largest; the others are as without it."""

    def best(x):
        return jax.nn.one_hot(jnp.argmax(x), 3)

    soft = make_perturbed_fun(best, 4000, 1.0)

    @jax.jit
    def measured(x):
        return soft(jax.random.key(0), x), jax.grad(lambda x: soft(jax.random.key(0), x)[1])(x)

    value, grad = measured(jnp.array([-jnp.inf, 0.0, 1.0]))
    p = np.exp(1) / (1 + np.exp(1))
    np.testing.assert_allclose(value, [0, 1 - p, p], atol=0.03)
    np.testing.assert_allclose(grad[1:], np.array([1, -1]) * p * (1 - p), atol=0.05)
    assert np.isfinite(grad[0])
