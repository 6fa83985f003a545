"""gdjax.tree gives what optax.tree gives on random trees; sums and norms at least in float32."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax


def tree(seed, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    leaves = {"a": rng.normal(size=(2, 3)), "b": (rng.normal(size=4), None), "c": rng.normal()}
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), leaves)


X, Y, Z = (tree(i) for i in range(3))
W = tree(4, jnp.complex64)
W = jax.tree.map(lambda x: x * (1 + 2j), W)
I = {"i": jnp.arange(5), "j": (jnp.ones((2, 2), jnp.int32),)}  # noqa: E741
MIXED = {"a": jnp.ones(2, jnp.bfloat16), "b": jnp.ones(2), "c": 1.0}

CALLS = {
    "add": [(X, Y), (X, Y, Z), (I, I)],
    "sub": [(X, Y), (I, I)],
    "mul": [(X, Y)],
    "div": [(X, Y)],
    "scale": [(0.3, X), (2, I), (1j, W)],
    "add_scale": [(X, 0.3, Y), (X, jnp.array(2.0), Y)],
    "where": [(True, X, Y), (jnp.array(False), X, Y)],
    "clip": [(X, -0.3, 0.4), (X, None, 0.1), (X, 0.2)],
    "conj": [(W,), (X,)],
    "real": [(W,), (X,)],
    "sum": [(X,), (W,), (I,), ({},), (X, True), ({}, True)],
    "max": [(X,), (I,), ({},)],
    "min": [(X,), ({"a": jnp.ones((0, 2)), "b": 3.0},), ({},)],
    "size": [(X,), (I,), ({},)],
    "norm": [(X,), (W,), (I,), ({},)]
    + [(t, ord, s) for t in (X, W) for ord in (1, 2, jnp.inf, "inf") for s in (False, True)],
    "vdot": [(X, Y), (W, W), (I, I), ({}, {})],
    "allclose": [(X, X), (X, Y), (X, Y, 10.0), ({}, {}), (X, Y, 0.0, 100.0, True)],
    "zeros_like": [(X,), (I, jnp.float32), (X, jnp.bfloat16)],
    "ones_like": [(X,), (X, jnp.int32)],
    "full_like": [(X, 3.0), (I, 2.5, jnp.float32)],
    "batch_shape": [(X, (2, 3)), (X,)],
    "cast": [(X, jnp.bfloat16), (X, None), (I, jnp.float32)],
    "cast_like": [(X, jax.tree.map(lambda x: x.astype(jnp.bfloat16), Y)), (X, Y)],
    "dtype": [(X,), ({},), (MIXED, "promote"), (MIXED, "lowest"), (MIXED, "highest"), (I,)],
    "update_moment": [(X, Y, 0.9, 1), (X, Y, 0.9, 2), (W, W, 0.5, 1)]
    + [({"n": None}, {"n": None}, 0.9, 2)],
    "update_moment_per_elem_norm": [(X, Y, 0.9, 2), (W, X, 0.9, 2), (W, X, 0.9, 3)],
    "update_infinity_moment": [(X, Y, 0.9, 1e-3), (W, X, 0.9, 1e-3)],
    "bias_correction": [(X, 0.9, jnp.asarray(3)), (X, jnp.asarray(0.5), jnp.asarray(1))],
    "split_key_like": [(jax.random.key(0), X)],
    "random_like": [
        (jax.random.key(1), X),
        (jax.random.key(1), X, jax.random.uniform, jnp.bfloat16),
        (jax.random.key(1), X, jax.random.rademacher, jnp.int32),
        (jax.random.key(1), X, lambda key, shape, dtype: jax.random.normal(key, shape, dtype)),
    ],
    "unwrap_random_key_data": [({"k": jax.random.key(3), "x": X},)],
}  # fmt: skip
SEARCH = {"get", "get_all_with_path", "set", "map_params"}  # test_tree_search.py


def test_all_of_optax_is_compared():
    public = {n for n in dir(optax.tree) if n[0] != "_" and callable(getattr(optax.tree, n))}
    assert public == set(CALLS) | SEARCH


@pytest.mark.parametrize("name", CALLS)
def test_same_as_optax(name):
    ours, theirs = getattr(gdjax.tree, name), getattr(optax.tree, name)
    mine, other = (inspect.signature(f).parameters.values() for f in (ours, theirs))
    assert [(p.name, p.kind) for p in mine] == [(p.name, p.kind) for p in other]
    for arguments in CALLS[name]:
        actual, expected = ours(*arguments), theirs(*arguments)
        assert jax.tree.structure(actual) == jax.tree.structure(expected)
        for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
            if hasattr(b, "dtype") and jnp.issubdtype(b.dtype, jax.dtypes.prng_key):
                a, b = jax.random.key_data(a), jax.random.key_data(b)
            if isinstance(b, (np.dtype, type)):
                assert a == b
                continue
            assert jnp.shape(a) == jnp.shape(b)
            assert jnp.asarray(a).dtype == jnp.asarray(b).dtype, (name, arguments)
            np.testing.assert_allclose(
                np.asarray(a, complex), np.asarray(b, complex), rtol=2e-6, atol=1e-6
            )  # sums in another order


@pytest.mark.parametrize("name", ["norm", "sum", "vdot", "update_moment", "bias_correction"])
def test_jit_and_vmap(name):
    stacked = gdjax.tree.batch_shape(X, (3,))
    more = {"vdot": (X,), "update_moment": (Y, 0.9, 2), "bias_correction": (0.9, 2)}.get(name, ())
    function = getattr(gdjax.tree, name)
    one = function(X, *more)
    all_ = jax.jit(jax.vmap(lambda x: function(x, *more)))(stacked)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1], b, rtol=1e-5), all_, one)


def test_reductions_of_low_precision_are_float32():
    many = {str(i): jnp.ones(1, jnp.bfloat16) for i in range(1000)}
    assert abs(float(gdjax.tree.norm(many)) - 31.62) < 0.01  # optax: 16
    assert gdjax.tree.sum(many) == gdjax.tree.vdot(many, many) == 1000  # optax: 256
    assert gdjax.tree.norm(many, 1) == 1000 and gdjax.tree.sum(many, True) == 1000
    large = {str(i): jnp.full(1, 300.0, jnp.float16) for i in range(10)}
    np.testing.assert_allclose(gdjax.tree.norm(large), 948.7, rtol=1e-4)  # optax: inf
    small = {"a": jnp.full(10**4, 1e-4, jnp.float16)}
    np.testing.assert_allclose(gdjax.tree.norm(small), 0.01, rtol=1e-2)  # 1e-4 in float16; optax: 0
    assert gdjax.tree.norm({"a": jnp.array([30000, 40000])}, squared=True) == 2.5e9  # not int32
    halves = gdjax.tree.update_moment(large, large, 0.9, 2)  # 9e4 is inf in float16
    assert halves["0"].dtype == jnp.float16
    correct = gdjax.tree.bias_correction({"a": jnp.ones(1, jnp.bfloat16)}, 0.999, 1)["a"]
    np.testing.assert_allclose(correct, 1000, rtol=4e-3)  # bfloat16; 0.999 rounds to 1 there


def test_norms_have_a_derivative_at_zero():
    zeros = {"a": jnp.zeros(3), "b": jnp.zeros(2, complex)}
    for ord in (1, 2, jnp.inf):
        slope = jax.grad(lambda x, ord=ord: gdjax.tree.norm(x, ord))(zeros)
        assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(slope)), ord
    slope = jax.grad(gdjax.tree.norm)(zeros)
    assert all(bool((x == 0).all()) for x in jax.tree.leaves(slope))


def test_errors_say_what_to_do():
    with pytest.raises(ValueError, match="float32 at 'a' and bfloat16 at 'b'.*mixed_dtype_handler"):
        gdjax.tree.dtype({"a": jnp.ones(1), "b": jnp.ones(1, jnp.bfloat16)})
    with pytest.raises(ValueError, match="neither of bfloat16 and float16"):
        gdjax.tree.dtype([jnp.ones(1, jnp.bfloat16), jnp.ones(1, jnp.float16)], "highest")
    with pytest.raises(
        ValueError, match="must be one of 'promote', 'highest', 'lowest' or None, got 'typo'"
    ):
        gdjax.tree.dtype(X, "typo")
    with pytest.raises(ValueError, match="must be None, 1, 2 or inf, got 3"):
        gdjax.tree.norm(X, 3)
    with pytest.raises(ValueError, match="one shape"):
        gdjax.tree.vdot([jnp.ones(2)], [jnp.ones(1)])
