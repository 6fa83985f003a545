"""Assignments cost what SciPy's cost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from x64 import enable_x64

from gdjax.assignment import base_hungarian_algorithm, hungarian_algorithm

solve = jax.jit(hungarian_algorithm)
SHAPES = [(1, 1), (1, 5), (5, 1), (4, 4), (7, 3), (3, 7), (12, 12), (20, 9)]


def check(cost, i, j):
    rows, columns = scipy.optimize.linear_sum_assignment(cost)
    assert i.shape == j.shape == rows.shape
    assert np.all(np.diff(i) > 0) and len(set(np.asarray(j).tolist())) == len(j)
    np.testing.assert_allclose(cost[i, j].sum(), cost[rows, columns].sum(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_costs_what_scipy_costs(shape):
    rng = np.random.default_rng(0)
    with enable_x64():
        for make in (
            rng.normal,
            lambda size: rng.integers(-3, 4, size),
            lambda size: np.zeros(size),
        ):
            for _ in range(5):
                cost = np.asarray(make(size=shape), float)
                check(cost, *map(np.asarray, solve(jnp.asarray(cost))))


def test_the_cheapest_pairs_are_unique_here():
    rng = np.random.default_rng(1)
    cost = rng.normal(size=(15, 11)).astype(np.float32)
    rows, columns = scipy.optimize.linear_sum_assignment(cost)
    i, j = base_hungarian_algorithm(cost)
    np.testing.assert_array_equal(i, rows)
    np.testing.assert_array_equal(j, columns)


@pytest.mark.parametrize("shape", [(6, 6), (5, 8), (8, 5)])
def test_infinity_forbids(shape):
    rng = np.random.default_rng(2)
    for _ in range(20):
        cost = rng.normal(size=shape)
        allowed = rng.random(shape) < 0.4
        order = rng.permutation(max(shape))[: min(shape)]
        allowed[
            (np.arange(len(order)), order)
            if shape[0] <= shape[1]
            else (order, np.arange(len(order)))
        ] = True
        cost = np.where(allowed, cost, np.inf)
        with enable_x64():
            check(cost, *map(np.asarray, solve(jnp.asarray(cost))))


def test_an_impossible_problem_still_ends_with_a_matching():
    cost = jnp.array([[1.0, 2.0, jnp.inf], [jnp.inf] * 3, [3.0, jnp.inf, jnp.inf]])
    i, j = solve(cost)
    assert sorted(j.tolist()) == [0, 1, 2] and i.tolist() == [0, 1, 2]
    nan = solve(jnp.full((3, 3), jnp.nan))
    assert sorted(nan[1].tolist()) == [0, 1, 2]


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0)])
def test_nothing_to_assign(shape):
    i, j = hungarian_algorithm(jnp.zeros(shape))
    assert i.shape == j.shape == (0,) and jnp.issubdtype(i.dtype, jnp.integer)


def test_batches_integers_and_gradients():
    costs = np.random.default_rng(3).integers(0, 50, (4, 6, 5))
    i, j = jax.jit(jax.vmap(hungarian_algorithm))(costs)
    for cost, rows, columns in zip(costs, np.asarray(i), np.asarray(j)):
        check(cost, rows, columns)

    def total(scale, cost):
        cost = scale * cost
        rows, columns = hungarian_algorithm(cost)
        return cost[rows, columns].sum()

    grad = jax.jit(jax.grad(total))(2.0, costs[0].astype(np.float32))
    assert grad == costs[0][i[0], j[0]].sum()


@pytest.mark.parametrize(
    ("cost", "error", "message"),
    [
        (np.zeros(3), ValueError, r"cost_matrix=...\) must be a matrix, got shape \[3\]"),
        (np.zeros((2, 2), complex), TypeError, "must be real, got dtype complex"),
        (np.array([[np.nan, 1.0]]), ValueError, "contains NaN or minus infinity"),
    ],
)
def test_bad_input_is_named(cost, error, message):
    with pytest.raises(error, match=message):
        hungarian_algorithm(cost)
