"""The angle of `hyperball` over depth and width, by how far a step moves the outputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax

X = jax.random.normal(jax.random.key(0), (8, 24))
TARGET = jax.random.normal(jax.random.key(1), (8, 24))


def test_the_rule_in_numbers():
    np.testing.assert_allclose(gdjax.hyperball_transfer(), 1.0)
    np.testing.assert_allclose(
        gdjax.hyperball_transfer(depth=4, batch_size=9, tokens=2.0), 3 / 2 * 2**-0.32
    )
    np.testing.assert_allclose(gdjax.hyperball_transfer(tokens=2.0, tokens_exponent=-1), 0.5)
    slope = jax.grad(lambda depth: gdjax.hyperball_transfer(depth=depth))(4.0)
    np.testing.assert_allclose(slope, -1 / 16)
    with pytest.raises(ValueError, match=r"hyperball_transfer\(depth=...\) must be finite and > 0"):
        gdjax.hyperball_transfer(depth=0)


def residual(depth, key):
    """A residual network of so many layers, each multiplied by 1 / sqrt(2 depth)."""
    params = jax.random.normal(key, (depth, 24, 24)) / 24**0.5

    def loss_fn(params, batch):
        def layer(h, w):
            return h + jnp.tanh(h @ w) / (2 * depth) ** 0.5, None

        h, _ = jax.lax.scan(layer, X, params)
        return jnp.mean((h - TARGET) ** 2), {"out": h}

    angle = 1e-3 * gdjax.hyperball_transfer(depth=depth / 8)
    init, update = gdjax.hyperball(gdjax.muon(1.0), angle)  # of one layer
    return loss_fn, params, (jax.vmap(init), lambda g, s, p, **_: jax.vmap(update)(g, s, p))


def test_a_step_moves_the_outputs_of_a_deep_network_as_those_of_a_shallow_one():
    """With the same angle for both, the slope is 0.5 larger."""
    check = gdjax.coordinate_check(residual, [8, 64], None, steps=1, seeds=1)
    assert abs(check.slopes()["out"]) < 0.1


def wide(width, key):
    sizes = (width, 32, 64)  # of the model, of the base model, and one that says what is hidden
    models = [gdjax.models.mlp([24, n, n, 24], bias_scale=0.0) for n in sizes]
    model, (params, base, wider) = models[0], [model.init(key) for model in models]
    scaling = gdjax.width_scaling(params, base, wider)

    def loss_fn(params, batch):
        out = model.apply(params, X)
        return jnp.mean((out - TARGET) ** 2), {"out": out}

    muon = scaling.scaled(gdjax.muon)(1e-3)
    return loss_fn, scaling.init(params, base), gdjax.hyperball(muon, 1e-3, scaling.mask("hidden"))


@pytest.mark.slow
def test_one_angle_serves_all_widths():
    check = gdjax.coordinate_check(wide, [32, 128], None, steps=1, seeds=1)
    assert abs(check.slopes()["out"]) < 0.2
