"""What is compared with optax nowhere else: assignment, inverse roots, plain scaling, curvature."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from parity import assert_same, falling

import gdjax
from gdjax.compat import optax as compat

SAME = {
    "scale_by_adam": [dict(), dict(b1=0.8, b2=0.9, eps=1e-3, eps_root=1e-6, nesterov=True)],
    "scale_by_learning_rate": [
        dict(learning_rate=0.1), dict(learning_rate=falling, flip_sign=False),
    ],
    "scale_by_schedule": [dict(step_size_fn=falling)],
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_same_as_optax(name):
    for arguments in SAME[name]:
        assert_same(getattr(gdjax, name)(**arguments), getattr(optax, name)(**arguments))


@pytest.mark.parametrize("shape", [(5, 5), (3, 6), (6, 3), (1, 4)])
def test_assignments_cost_the_same(shape):
    cost = jnp.asarray(np.random.default_rng(sum(shape)).normal(size=shape), jnp.float32)
    (i, j), (k, m) = (o.assignment.hungarian_algorithm(cost) for o in (gdjax, optax))
    assert i.shape == k.shape and i.dtype == k.dtype
    order = np.argsort(k)
    np.testing.assert_array_equal(i, k[order])
    np.testing.assert_array_equal(j, m[order])
    b, c = (o.assignment.base_hungarian_algorithm(cost) for o in (gdjax, optax))
    assert {*map(tuple, np.transpose(b).tolist())} == {*map(tuple, np.transpose(c).tolist())}


@pytest.mark.parametrize("p", [2, 4])
def test_inverse_roots_are_the_same(p):
    x = np.random.default_rng(p).normal(size=(4, 6))
    matrix = jnp.asarray(x @ x.T, jnp.float32)
    ours, theirs = (o.matrix_inverse_pth_root(matrix, p) for o in (gdjax, optax))
    assert len(ours) == len(theirs) == 2
    np.testing.assert_allclose(ours[0], theirs[0], rtol=2e-4, atol=2e-5)  # both stop at 1e-6


def test_hutchinsons_estimate_is_optaxs_where_it_is_exact():
    params = {"a": jnp.array([1.0, 2.0]), "b": jnp.array(0.5)}

    def loss(p):
        return jnp.sum(jnp.sin(p["a"])) + p["b"] ** 3

    exact = {"a": -jnp.sin(params["a"]), "b": 6 * params["b"]}
    for o in (gdjax, optax.contrib):
        estimate = o.hutchinson_estimator_diag_hessian()
        out, _ = estimate.update(params, estimate.init(params), params, obj_fn=loss)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), out, exact)


def test_a_transformation_of_ones_own():
    def build(o):
        def update(updates, state, params=None):
            assert isinstance(state, o.EmptyState)
            return jax.tree.map(jnp.sign, updates), state

        return o.chain(o.GradientTransformation(o.init_empty_state, update), o.scale(-0.1))

    assert_same(build(compat), build(optax), steps=2)
