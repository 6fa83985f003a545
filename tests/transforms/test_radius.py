"""Floors below updates, radial brake, pinned radius: what their oracle does not test."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

import gdjax

PARAMS = {
    "w": jnp.array([[3.0, 0.3], [4.0, 0.4]]),
    "zero": jnp.zeros((2, 2)),
    "b": jnp.array([3.0, 4.0]),
}
UPDATES = {"w": jnp.full((2, 2), -0.01), "zero": jnp.ones((2, 2)), "b": jnp.ones(2)}


def once(opt, updates=UPDATES):
    return opt.update(updates, opt.init(PARAMS), PARAMS)[0]


def test_the_floor_of_whole_arrays_and_of_units():
    whole = once(gdjax.update_floor(0.1, per_unit=False))["w"]
    np.testing.assert_allclose(jnp.linalg.norm(whole), 0.1 * np.sqrt(25.25), rtol=1e-6)
    rows = once(gdjax.update_floor(0.1, axis=1))["w"]
    np.testing.assert_allclose(
        jnp.linalg.norm(rows, axis=1), 0.1 * np.hypot([3.0, 4.0], [0.3, 0.4]), rtol=1e-6
    )
    columns = once(gdjax.update_floor(0.1))["w"]
    np.testing.assert_allclose(jnp.linalg.norm(columns, axis=0), [0.5, 0.05], rtol=1e-6)
    large = {**UPDATES, "w": jnp.full((2, 2), 9.0)}
    np.testing.assert_array_equal(once(gdjax.update_floor(0.1), large)["w"], 9.0)


def test_vectors_and_zeros_are_left_as_they_are():
    for opt in (gdjax.update_floor(0.1), gdjax.radial_brake(0.0, 0.0), gdjax.pin_radius()):
        out = once(opt)
        np.testing.assert_array_equal(out["b"], 1.0)
        np.testing.assert_array_equal(out["zero"], 1.0)
        still = once(opt, {k: jnp.zeros_like(x) for k, x in UPDATES.items()})
        np.testing.assert_allclose(still["w"], 0.0, atol=1e-6)
    lifted = once(gdjax.update_floor(0.5, min_norm=8.0))["zero"]
    np.testing.assert_allclose(jnp.linalg.norm(lifted, axis=0), 4.0, rtol=1e-6)


def test_the_brake_tells_outward_from_inward():
    W = PARAMS["w"]
    for sign, kept in ((1.0, 0.25), (-1.0, 0.75)):
        out = once(gdjax.radial_brake(0.25, 0.75), {**UPDATES, "w": sign * 0.1 * W})["w"]
        np.testing.assert_allclose(out, sign * 0.1 * kept * W, rtol=1e-5)
    across = {**UPDATES, "w": jnp.array([[-4.0, 0.0], [3.0, 0.0]])}
    np.testing.assert_allclose(once(gdjax.radial_brake(0.0, 0.0), across)["w"], across["w"])
    free = gdjax.chain(gdjax.radial_brake(0.0, 0.0), gdjax.pin_radius())
    after = W + once(free, {**UPDATES, "w": jnp.array([[5.0, -2.0], [1.0, 3.0]])})["w"]
    np.testing.assert_allclose(jnp.linalg.norm(after), jnp.linalg.norm(W), rtol=1e-6)


def test_a_step_beyond_zero_keeps_the_length_of_its_part_along_the_weights():
    params, update = jnp.array([[2.0, 0.0]]), jnp.array([[-3.0, 1.0]])
    opt = gdjax.pin_radius()
    after = params + opt.update(update, opt.init(params), params)[0]
    np.testing.assert_allclose(after, jnp.array([[-1.0, 1.0]]) / math.sqrt(2), rtol=1e-6)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"update_floor\(ratio=...\) must be .*>= 0, got -1.0"):
        gdjax.update_floor(-1.0)
    with pytest.raises(ValueError, match="needs per_unit=True"):
        gdjax.update_floor(0.1, per_unit=False, axis=1)
    opt = gdjax.pin_radius()
    with pytest.raises(ValueError, match="pin_radius needs the parameters"):
        opt.update(PARAMS, opt.init(PARAMS))


def test_weights_stay_where_a_norm_overflows():
    params = jnp.ones((2, 2))
    update = jnp.array([[1e20, 0.0], [0.0, 0.0]])
    optimizer = gdjax.pin_radius()
    np.testing.assert_array_equal(
        optimizer.update(update, optimizer.init(params), params)[0], update
    )


@pytest.mark.parametrize("axis", [5, (0, 0), (0, -2), -3])
@pytest.mark.parametrize(
    "make",
    [
        lambda axis: gdjax.update_floor(0.1, axis=axis),
        lambda axis: gdjax.adaptive_grad_clip(0.1, axis=axis),
    ],
)
def test_axes_that_an_array_does_not_have(make, axis):
    optimizer, params = make(axis), jnp.ones((2, 3))
    with pytest.raises(ValueError, match=r"distinct axes of the array, of shape \[2, 3\], got"):
        optimizer.update(params, optimizer.init(params), params)
