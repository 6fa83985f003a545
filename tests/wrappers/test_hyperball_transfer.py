"""The angle of `hyperball` over depth and width, by how far a step moves the outputs."""

import functools

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


def residual(rule, depth, key):
    """A residual network of so many layers, each multiplied by 1 / sqrt(2 depth)."""
    keys = jax.random.split(key, depth)
    params = {f"{i}": jax.random.normal(k, (24, 24)) / 24**0.5 for i, k in enumerate(keys)}

    def loss_fn(params, batch):
        h = X
        for i in range(depth):
            h = h + jax.nn.relu(h @ params[f"{i}"]) / (2 * depth) ** 0.5
        return jnp.mean((h - TARGET) ** 2), {"out": h}

    angle = 1e-3 * (gdjax.hyperball_transfer(depth=depth / 4) if rule else 1)
    return loss_fn, params, gdjax.hyperball(gdjax.muon(1.0), angle)


def test_a_step_moves_the_outputs_of_a_deep_network_as_those_of_a_shallow_one():
    slopes = [
        gdjax.coordinate_check(
            functools.partial(residual, rule), [3, 12], None, steps=1, seeds=1
        ).slopes()["out"]
        for rule in (True, False)
    ]
    assert abs(slopes[0]) < 0.2
    np.testing.assert_allclose(slopes[1] - slopes[0], 0.5, atol=0.02)


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


def test_one_angle_serves_all_widths():
    check = gdjax.coordinate_check(wide, [32, 128], None, steps=1, seeds=1)
    assert abs(check.slopes()["out"]) < 0.2
