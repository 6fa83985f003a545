"""Proximal steps lead to the solutions, also in the metric of Adam and its kin."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import ElasticNet, Lasso
from x64 import enable_x64

import gdjax
from gdjax import projections as project
from gdjax import proximal

RNG = np.random.default_rng(0)
A = RNG.normal(size=(60, 12)) * np.linspace(0.3, 3.0, 12)
B = A @ np.where(np.arange(12) % 3 == 0, 1.0, 0.0) + 0.3 * RNG.normal(size=60)
L1 = 0.4

OPTIMIZERS = {
    "gradient descent": lambda: gdjax.sgd(0.05),
    "momentum": lambda: gdjax.chain(gdjax.clip(1e6), gdjax.sgd(0.01, momentum=0.9, nesterov=True)),
    "adam": lambda: gdjax.adam(0.01),
    "nadam in a guard and an average": lambda: gdjax.average(
        gdjax.apply_if_finite(gdjax.nadam(gdjax.exponential_decay(0.02, 1000, 0.5)), 1)
    ),
    "adam in a chain": lambda: gdjax.chain(
        gdjax.scale_by_adam(b2=0.99, eps=1e-3), gdjax.scale_by_learning_rate(0.01)
    ),
    "adabelief": lambda: gdjax.adabelief(0.01, eps=1e-2),
    "adagrad": lambda: gdjax.adagrad(0.5),
    "adagrad, as torch": lambda: gdjax.adagrad(0.5, 0.0, 1e-10, eps_in_sqrt=False),
}


def residual_loss(x):
    return jnp.sum((A @ x["w"] - B) ** 2) / (2 * len(B))


def solve(opt, loss=residual_loss, steps=6000):
    with enable_x64():
        params = {"w": jnp.zeros(12), "n": None}

        def step(carry, _):
            params, state = carry
            grads = jax.grad(loss)(params)
            updates, state = opt.update(grads, state, params)
            return (gdjax.apply_updates(params, updates), state), None

        start = params, opt.init(params)
        (params, _), _ = jax.jit(lambda c: jax.lax.scan(step, c, length=steps))(start)
        return np.asarray(params["w"]), np.asarray(jax.grad(loss)(params)["w"])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_lasso(name):
    """Its optimality conditions, and the solution of scikit-learn's coordinate descent."""
    x, grad = solve(gdjax.with_prox(OPTIMIZERS[name](), proximal.prox_lasso, L1))
    active = x != 0
    assert 0 < active.sum() < 12
    np.testing.assert_allclose(grad[active], -L1 * np.sign(x[active]), atol=1e-6)
    assert np.abs(grad[~active]).max() <= L1
    exact = Lasso(alpha=L1, fit_intercept=False, tol=1e-14, max_iter=100000).fit(A, B).coef_
    np.testing.assert_allclose(x, exact, atol=1e-6)


def test_without_the_metric_the_fixed_point_is_another():
    opt = gdjax.with_prox(gdjax.adam(0.01), proximal.prox_lasso, L1, metric=None)
    x, grad = solve(opt)
    assert np.abs(np.abs(grad[x != 0]) - L1).max() > 0.1


def test_a_group_lasso_with_momentum():
    opt = gdjax.with_prox(gdjax.sgd(0.01, momentum=0.8), proximal.prox_group_lasso, 1.5)
    x, grad = solve(opt)
    np.testing.assert_allclose(grad, -1.5 * x / np.linalg.norm(x), atol=1e-6)


def test_an_operator_of_two_numbers():
    opt = gdjax.with_prox(gdjax.adam(0.01), proximal.prox_elastic_net, (0.3, 0.5))
    x, _ = solve(opt)
    alpha, ratio = 0.3 * 1.5, 1 / 1.5
    exact = ElasticNet(alpha=alpha, l1_ratio=ratio, fit_intercept=False, tol=1e-14).fit(A, B).coef_
    np.testing.assert_allclose(x, exact, atol=1e-6)
    numbers = gdjax.hyperparams(opt.init({"w": jnp.zeros(12)}))
    assert [v.item() for k, v in numbers.items() if "prox" in k] == pytest.approx([0.3, 0.5])


def test_bounds_by_a_projection():
    """In any diagonal metric the nearest point of a box is the clipped one."""
    box = proximal.make_prox_from_projection(project.projection_box, 0.0, 0.6)
    for inner in (gdjax.adam(0.01), gdjax.sgd(0.05)):
        opt = gdjax.with_prox(inner, box)
        x, grad = solve(opt)
        inside = (x > 0) & (x < 0.6)
        assert 0 < inside.sum() < 12
        np.testing.assert_allclose(grad[inside], 0, atol=1e-6)
        assert (grad[x == 0] >= 0).all() and (grad[x == 0.6] <= 0).all()


def test_a_set_that_does_not_separate_needs_the_euclidean_metric():
    simplex = proximal.make_prox_from_projection(project.projection_simplex)
    x, grad = solve(gdjax.with_prox(gdjax.sgd(0.01, momentum=0.8), simplex))
    np.testing.assert_allclose(x.sum(), 1)
    np.testing.assert_allclose(grad[x > 0], grad[x > 0].mean(), atol=1e-6)
    assert (grad[x == 0] >= grad[x > 0].mean() - 1e-6).all()
    params = {"w": jnp.zeros(12)}
    with pytest.raises(ValueError, match="treats them together. Use gradient descent"):
        gdjax.with_prox(gdjax.adam(0.01), simplex).init(params)
    with pytest.raises(ValueError, match="prox_group_lasso treats them together"):
        gdjax.with_prox(gdjax.adam(0.01), proximal.prox_group_lasso).init(params)
    with pytest.raises(ValueError, match="pass separable=True if mine treats"):
        mine = lambda x, hyperparams, scaling: x  # noqa: E731
        mine.__name__ = "mine"
        gdjax.with_prox(gdjax.adam(0.01), mine).init(params)
    with pytest.raises(ValueError, match="not known what an optimizer with the slots Rms divides"):
        gdjax.with_prox(gdjax.rmsprop(0.01), proximal.prox_lasso).init(params)
    with pytest.raises(ValueError, match="not known what .* slots Trace"):
        gdjax.with_prox(gdjax.lars(0.01), proximal.prox_lasso).init(params)
    with pytest.raises(ValueError, match="exactly one learning_rate, got 0"):
        gdjax.with_prox(gdjax.scale_by_adam(), proximal.prox_lasso).init(params)


def test_numbers_of_each_leaf_and_of_each_group():
    target = {"a": jnp.array([3.0, 0.3]), "b": jnp.array([-3.0, 0.5])}
    rates, l1reg = {"a": 0.05, "b": 0.02}, gdjax.by_path({"a": 1.0, "b": None})
    by_leaf = gdjax.with_prox(gdjax.adam(rates), proximal.prox_lasso, l1reg)
    momenta = gdjax.sgd(rates, momentum=gdjax.by_path({"a": 0.5, "b": 0.9}))
    by_leaf_too = gdjax.with_prox(momenta, proximal.prox_lasso, l1reg)
    shrunk = gdjax.with_prox(gdjax.adam(0.05), proximal.prox_lasso, 1.0)
    by_group = gdjax.groups({"a": shrunk, "b": gdjax.adam(0.02)})
    for opt in (by_leaf, by_leaf_too, by_group):
        params = jax.tree.map(jnp.zeros_like, target)
        state, step = opt.init(params), jax.jit(opt.update)
        for _ in range(600):
            grads = jax.tree.map(jnp.subtract, params, target)
            updates, state = step(grads, state, params)
            params = gdjax.apply_updates(params, updates)
        np.testing.assert_allclose(params["a"], [2.0, 0.0], atol=1e-3)
        np.testing.assert_allclose(params["b"], [-3.0, 0.5], atol=1e-3)
        assert step._cache_size() == 1


def test_low_precision_parameters_have_exact_zeros():
    params = jnp.full(3, 0.3, jnp.bfloat16)
    opt = gdjax.with_prox(gdjax.adam(0.1), proximal.prox_lasso, 100.0)
    updates, _ = opt.update(jnp.ones(3, jnp.bfloat16), opt.init(params), params)
    np.testing.assert_array_equal(gdjax.apply_updates(params, updates), 0.0)
