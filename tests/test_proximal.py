"""Proximal operators minimize what defines them: no point around them is better."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from x64 import enable_x64

import gdjax
from gdjax import proximal as P
from gdjax.projections import projection_l2_ball

X = np.array([-3.0, -0.4, 0.0, 0.3, 0.9, 2.5])


def l1(y):
    return np.abs(y).sum(-1)


def half_sq(y):
    return 0.5 * (y**2).sum(-1)


def positive(penalty):
    return lambda y: np.where((y >= 0).all(-1), penalty(y), np.inf)


# the operator, its strengths, and what it penalizes
CASES = [
    (P.prox_none, (), lambda y: 0 * l1(y)),
    (P.prox_lasso, (0.6,), lambda y: 0.6 * l1(y)),
    (P.prox_non_negative_lasso, (0.6,), positive(lambda y: 0.6 * l1(y))),
    (P.prox_elastic_net, ((0.6, 2.0),), lambda y: 0.6 * (l1(y) + 2.0 * half_sq(y))),
    (
        P.prox_non_negative_elastic_net,
        ((0.6, 2.0),),
        positive(lambda y: 0.6 * (l1(y) + 2.0 * half_sq(y))),
    ),
    (P.prox_group_lasso, (1.3,), lambda y: 1.3 * np.linalg.norm(y, axis=-1)),
    (P.prox_group_lasso, (9.0,), lambda y: 9.0 * np.linalg.norm(y, axis=-1)),
    (P.prox_ridge, (0.6,), lambda y: 0.6 * half_sq(y)),
    (P.prox_non_negative_ridge, (0.6,), positive(lambda y: 0.6 * half_sq(y))),
    (
        P.make_prox_from_projection(projection_l2_ball, 2.0),
        (),
        lambda y: np.where(np.linalg.norm(y, axis=-1) <= 2 + 1e-12, 0.0, np.inf),
    ),
]


@pytest.mark.parametrize(("prox", "strength", "penalty"), CASES)
@pytest.mark.parametrize("scaling", [1.0, 0.25])
def test_minimizes_what_defines_it(prox, strength, penalty, scaling):
    with enable_x64():
        y = np.asarray(prox(jnp.asarray(X), *strength, scaling=scaling))

    def objective(y):
        return 0.5 * ((y - X) ** 2).sum(-1) + scaling * penalty(y)

    rng = np.random.default_rng(0)
    for size in (1e-4, 1e-2, 1.0):  # convex: who is best nearby is best
        steps = size * rng.normal(size=(400, len(X)))
        steps[::2] *= rng.random((200, len(X))) < 0.3  # along few axes too
        for others in (y + steps, np.maximum(y + steps, 0), y * (1 - np.abs(steps))):
            assert objective(y) <= objective(others).min() + 1e-14


def test_by_hand():
    x = jnp.asarray(X, jnp.float32)
    np.testing.assert_allclose(P.prox_lasso(x, 0.5), [-2.5, 0, 0, 0, 0.4, 2.0], rtol=1e-6)
    np.testing.assert_allclose(
        P.prox_elastic_net(x, (1.0, 3.0), 0.5), np.array([-2.5, 0, 0, 0, 0.4, 2.0]) / 2.5, rtol=1e-6
    )
    np.testing.assert_allclose(P.prox_group_lasso(jnp.array([3.0, 4.0]), 2.0, 0.5), [2.4, 3.2])


def test_strengths_per_leaf_and_per_element():
    x = {"w": jnp.array([2.0, -2.0]), "b": jnp.array(2.0)}
    y = P.prox_lasso(x, {"w": jnp.array([0.5, 1.0]), "b": None})
    np.testing.assert_allclose(y["w"], [1.5, -1.0])
    np.testing.assert_allclose(y["b"], 2.0)
    y = P.prox_ridge(x, gdjax.by_path({"w": 1.0, ".*": 0.0}), scaling={"w": 3.0, "b": 3.0})
    np.testing.assert_allclose(y["w"], [0.5, -0.5])
    np.testing.assert_allclose(y["b"], 2.0)
    y = P.prox_elastic_net(x, (1.0, {"w": 1.0, "b": 3.0}))
    np.testing.assert_allclose(y["w"], [0.5, -0.5])
    np.testing.assert_allclose(y["b"], 0.25)


def test_none_is_one_as_in_jaxopt():
    x = jnp.array([3.0, -3.0])
    for prox in (P.prox_lasso, P.prox_elastic_net, P.prox_group_lasso, P.prox_ridge):
        np.testing.assert_array_equal(prox(x, None), prox(x))


def test_complex_elements_shrink_in_magnitude():
    x = jnp.array([3 + 4j, 0.1j, 0])
    np.testing.assert_allclose(P.prox_lasso(x, 1.0), [2.4 + 3.2j, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(P.prox_group_lasso(x[:1], 1.0), [2.4 + 3.2j], rtol=1e-6)


@pytest.mark.parametrize("at", [0.0, 1.0])
def test_gradients_are_finite(at):
    operators = [c[0] for c in CASES]

    @jax.jit
    def grads(x, r):
        return [
            jax.grad(
                lambda x, r, f=f: jnp.sum(f(x, (r, r) if "elastic" in f.__name__ else r)), (0, 1)
            )(x, r)
            for f in operators[:-1]
        ]

    out = grads(jnp.full(4, at), jnp.float32(at))
    assert all(np.all(np.isfinite(g)) for g in jax.tree.leaves(out))


def test_halves_are_computed_in_float32_and_empty_trees_pass():
    x = jnp.array([1.0, 1.0078125], jnp.bfloat16)  # neighbours
    y = P.prox_lasso(x, 0.999)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype(jnp.float32), [0.001, 0.0088125], rtol=0.01)
    y = P.prox_group_lasso(jnp.ones(4096, jnp.bfloat16), 32.0)
    np.testing.assert_allclose(y.astype(jnp.float32), 0.5)
    for operator in (P.prox_lasso, P.prox_group_lasso, P.prox_ridge):
        assert operator({}) == {}
        assert operator(jnp.zeros((0, 2))).shape == (0, 2)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: P.prox_lasso(jnp.ones(2), -1.0), ValueError, r"prox_lasso\(l1reg=...\) must be"),
        (lambda: P.prox_ridge(jnp.ones(2), 1.0, -1.0), ValueError, r"\(scaling=...\) must be"),
        (lambda: P.prox_elastic_net(jnp.ones(2), (1.0, -1.0)), ValueError, r"\(hyperparams=...\)"),
        (lambda: P.prox_lasso(jnp.ones(2, int)), TypeError, r"prox_lasso\(x=...\) must be float"),
        (lambda: P.prox_non_negative_ridge(jnp.ones(2, complex)), TypeError, r"must be real"),
        (
            lambda: P.prox_lasso({"a": jnp.ones(2)}, {"b": 1.0}),
            ValueError,
            "prox_lasso: a number is a tree that is no prefix",
        ),
        (
            lambda: P.prox_elastic_net(jnp.ones(2), 1.0),
            TypeError,
            r"prox_elastic_net\(hyperparams=...\) must be a tuple .* got 1.0",
        ),
        (
            lambda: P.make_prox_from_projection(3),
            TypeError,
            r"make_prox_from_projection\(projection=...\) must be a function, got 3",
        ),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_proximal_step_solves_the_lasso():
    """Iterated with gradient steps it reaches the point where the optimality conditions hold."""
    rng = np.random.default_rng(0)
    a, b, reg = rng.normal(size=(8, 4)), rng.normal(size=8), 2.0
    with enable_x64():
        step = 1 / np.linalg.norm(a, 2) ** 2
        prox = functools.partial(P.prox_lasso, l1reg=reg, scaling=step)
        x = jax.lax.fori_loop(
            0, 500, lambda _, x: prox(x - step * a.T @ (a @ x - b)), jnp.zeros(4, jnp.float64)
        )
    x = np.asarray(x)
    g = a.T @ (a @ x - b)
    assert 0 < np.count_nonzero(x) < 4
    np.testing.assert_allclose(g[x != 0], -reg * np.sign(x[x != 0]), rtol=1e-9)
    assert np.all(np.abs(g[x == 0]) <= reg)
