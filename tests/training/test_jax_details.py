"""What breaks when JAX changes something that its documentation does not promise."""

import jax
import jax.numpy as jnp
import pytest

from gdjax.training.jax_details import calls_lapack, has_convolution, is_unchanged


def convolve(x):
    return jnp.convolve(x, jnp.ones(3), mode="same")


@pytest.mark.parametrize("wrap", [jax.jit, jax.checkpoint, jax.vmap, jax.grad, None])
def test_has_convolution(wrap):
    """Breaks if the convolution's primitive, or the way that jaxprs hold others, changes."""
    call = {
        jax.vmap: jax.vmap(convolve),
        jax.grad: lambda x: jax.grad(lambda x: convolve(x[0]).sum())(x),
        None: lambda x: jax.vmap(convolve)(x),
    }.get(wrap) or wrap(lambda x: jax.vmap(convolve)(x))

    def in_a_scan(x):
        return jax.lax.scan(lambda c, x: (c, call(x)), 0, x)

    x = jnp.ones((2, 3, 4))
    assert has_convolution(jax.jit(in_a_scan).trace(x).jaxpr)
    assert has_convolution(jax.make_jaxpr(in_a_scan)(x).jaxpr)
    assert not has_convolution(jax.make_jaxpr(lambda x: jnp.sin(x) @ x.mT)(x).jaxpr)


@pytest.mark.parametrize(
    "call, does", [(jnp.linalg.eigh, True), (jnp.linalg.qr, True), (jnp.sin, False)]
)
def test_calls_lapack(call, does):
    """Breaks if the text of a program no longer names what it calls."""
    program = jax.jit(lambda x: jax.lax.map(call, x)).lower(jnp.ones((2, 3, 3))).compile()
    assert calls_lapack(program) == does


def test_is_unchanged():
    """Breaks if `scan` no longer forwards what no step changes."""
    found = []

    @jax.jit
    def run(fixed, moving):
        def step(carry, _):
            return (carry[0], carry[1] + 1), None

        out, _ = jax.lax.scan(step, (fixed, moving), length=3)
        found.extend(map(is_unchanged, out, (fixed, moving)))
        return out

    run(jnp.ones(()), jnp.ones(()))
    assert found == [True, False]
