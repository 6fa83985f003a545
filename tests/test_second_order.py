"""Curvature against the full Hessian and against optax."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from x64 import enable_x64

from gdjax import second_order as S


def loss(params, inputs, targets):
    hidden = jnp.tanh(inputs @ params["w"] + params["b"][None])
    return jnp.mean((hidden @ params["v"] - targets) ** 2 * jnp.exp(0.1 * params["s"]))


def problem():
    rng = np.random.default_rng(0)
    shapes = {"w": (3, 4), "b": (4,), "v": (4,), "s": ()}
    params = {k: jnp.asarray(rng.normal(size=s)) for k, s in shapes.items()}
    return params, jnp.asarray(rng.normal(size=(5, 3))), jnp.asarray(rng.normal(size=5))


def full_hessian(params, inputs, targets):
    flat, unravel = ravel_pytree(params)
    return jax.hessian(lambda p: loss(unravel(p), inputs, targets))(flat)


def test_equals_the_full_hessian_and_optax():
    import optax

    with enable_x64():
        args = problem()
        flat, unravel = ravel_pytree(args[0])
        v = jnp.cos(jnp.arange(flat.size) + 0.3)

        @jax.jit
        def run(v, *args):
            ours = S.hvp(loss, v, *args), S.hessian_diag(loss, *args), S.fisher_diag(loss, *args)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                theirs = optax.second_order
                theirs = (
                    theirs.hvp(loss, v, *args),
                    theirs.hessian_diag(loss, *args),
                    theirs.fisher_diag(loss, *args),
                )
            return ours, theirs, full_hessian(*args), jax.grad(loss)(*args)

        ours, theirs, hessian, grad = run(v, *args)
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)
        product, diagonal, fisher = ours
        np.testing.assert_allclose(ravel_pytree(product)[0], hessian @ v, rtol=1e-10, atol=1e-13)
        np.testing.assert_allclose(diagonal, np.diag(hessian), rtol=1e-10, atol=1e-13)
        np.testing.assert_allclose(fisher, ravel_pytree(grad)[0] ** 2, rtol=1e-10)
        as_tree = S.hvp(loss, unravel(v), *args)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), as_tree, product)


def test_more_parameters_than_columns_at_a_time():
    size = 2 * S.COLUMNS + 5
    scale = jnp.arange(1.0, size + 1)

    def bowl(w, inputs, targets):
        return 0.5 * jnp.sum(inputs * w * w) + w[0] * w[1]

    diagonal = jax.jit(lambda w: S.hessian_diag(bowl, w, scale, None))(jnp.ones(size))
    np.testing.assert_allclose(diagonal, scale)


def test_dtypes_mix_and_nothing_is_fine():
    def bowl(p, inputs, targets):
        return sum(jnp.sum(x.astype(jnp.float32) ** 2) for x in p.values())

    params = {"a": jnp.ones(2, jnp.bfloat16), "b": jnp.ones(1)}
    out = S.hvp(bowl, jnp.array([1.0, 2.0, 3.0]), params, None, None)
    assert out["a"].dtype == jnp.bfloat16 and out["b"].dtype == jnp.float32
    np.testing.assert_allclose(out["b"], 6.0)
    np.testing.assert_allclose(S.hessian_diag(bowl, params, None, None), 2.0)
    assert S.hessian_diag(lambda p, x, y: jnp.zeros(()), {}, None, None).shape == (0,)


@pytest.mark.parametrize(
    ("v", "params", "error", "message"),
    [
        (jnp.ones(3), {"a": jnp.ones(2)}, ValueError, r"hvp\(v=...\) must be a vector of 2 elem"),
        ({"b": jnp.ones(2)}, {"a": jnp.ones(2)}, ValueError, "same tree structure"),
        (jnp.ones(3), jnp.ones((2, 2)), ValueError, "must agree in shape"),
        (jnp.ones(2), jnp.ones(2, int), TypeError, r"hvp\(params=...\) must be float"),
        (jnp.ones(2), jnp.ones(2, complex), TypeError, r"hvp\(params=...\) must be real"),
    ],
)
def test_bad_input_is_named(v, params, error, message):
    with pytest.raises(error, match=message):
        S.hvp(lambda p, x, y: 0.0, v, params, None, None)
