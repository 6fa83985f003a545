"""Functions of whole trees: dtypes, blocks of like leaves, empty trees; resets of a state."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from x64 import enable_x64

import gdjax
from gdjax.core.every import is_due
from gdjax.core.trees import copied, inner_product, magnitude, map_leaves, sum_sq, total
from gdjax.wrappers.shared.reset import memory, reset


def _two(x, y, a, b):
    return a * x + y, jnp.sum(x) if b is None else jnp.sum(x) + b


def test_map_leaves_is_map_with_numbers():
    trees = {f"{i}": jnp.full((1 + i % 2, 3), float(i)) for i in range(70)}  # more than two blocks
    a, b = jnp.array(2.0), jnp.array(1.0)
    first, second = map_leaves(_two, 2, (trees, trees), a, b)
    for k, x in trees.items():
        np.testing.assert_array_equal(first[k], 3 * x)
        np.testing.assert_array_equal(second[k], jnp.sum(x) + 1)
    assert map_leaves(_two, 2, ({"n": None}, {"n": None}), a, None) == ({"n": None},) * 2


def test_map_leaves_calculates_in_the_leafs_own_precision():
    with enable_x64():
        trees = {"h": jnp.ones(2, jnp.bfloat16), "s": jnp.ones(2, jnp.float32), "d": jnp.ones(2)}
        trees["c"] = jnp.ones(2, jnp.complex64)
        first, second = map_leaves(_two, 2, (trees, trees), jnp.array(2.0), None)
        assert [first[k].dtype.name for k in "hsdc"] == [
            "float32", "float32", "float64", "complex64",
        ]  # fmt: skip
        assert second["d"].dtype == jnp.float64


@pytest.mark.parametrize("f", [sum_sq, lambda tree: total(jax.tree.map(jnp.sum, tree))])
def test_sums_of_mixed_precision(f):
    with enable_x64():
        tree = {"s": jnp.ones(2, jnp.float32), "d": jnp.ones(3, jnp.float64)}
        assert f(tree) == 5 and f(tree).dtype == jnp.float64
        assert f({"s": tree["s"]}).dtype == jnp.float32
        assert f({}) == 0


def test_complex_numbers_are_pairs_of_reals():
    a, b = jnp.array([1 + 2j, 0j]), jnp.array([3 - 1j, 5j])
    np.testing.assert_allclose(inner_product(a, b), 1.0)
    np.testing.assert_allclose(magnitude(a), [5**0.5, 0], rtol=1e-6)
    slope = jax.grad(lambda x: jnp.sum(magnitude(x)), holomorphic=False)(a)
    np.testing.assert_allclose(slope[1], 0)


def test_a_copy_shares_nothing():
    x = jnp.ones(3)
    assert copied(x).unsafe_buffer_pointer() != x.unsafe_buffer_pointer()
    assert copied(x.astype(jnp.bfloat16)).dtype == jnp.float32


def test_a_reset_goes_through_wrappers_and_keeps_the_numbers():
    opt = gdjax.average(gdjax.chain(gdjax.clip(9.0), gdjax.sgd(0.1, momentum=0.9)))
    params = jnp.ones(2)
    first = memory(opt.init(params))
    assert gdjax.hyperparams(first) == {}
    _, state = opt.update(params, opt.init(params), params)
    state = gdjax.with_hyperparams(state, learning_rate=0.3)
    fresh = gdjax.with_hyperparams(opt.init(params), learning_rate=0.3)
    for when, expected in ((True, fresh), (False, state)):
        result = reset(jnp.array(when), state, first)
        jax.tree.map(np.testing.assert_array_equal, result, expected)


def test_a_phase_delays_all_but_the_first_step():
    due = [bool(is_due(jnp.int32(t), jnp.float32(4), jnp.float32(0.5))) for t in range(1, 13)]
    assert [t for t, yes in enumerate(due, 1) if yes] == [1, 3, 7, 11]
    due = [bool(is_due(jnp.int32(t), jnp.float32(4))) for t in range(1, 13)]
    assert [t for t, yes in enumerate(due, 1) if yes] == [1, 5, 9]
