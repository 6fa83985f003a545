"""Functions of trees find and replace parts of states of all three kinds, as those of optax do."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax
from gdjax.compat import optax as compat

PARAMS = {"w": jnp.ones((3, 2)), "b": jnp.zeros(2)}
SPECS = {"w": "rows", "b": "all"}


def some(library):
    """Return optimizers of a library with optax's names."""
    mask, labels = {"w": True, "b": False}, {"w": "x", "b": "y"}
    adam, zero = library.scale_by_adam(), library.set_to_zero()
    matrices = lambda p: jax.tree.map(lambda x: x.ndim > 1, p)  # noqa: E731
    return {
        "adam": library.adam(0.1),
        "chain": library.chain(library.clip(1.0), library.sgd(0.1, momentum=0.9)),
        "inject": library.inject_hyperparams(library.adam)(learning_rate=0.1),
        "schedule": library.adamw(library.linear_schedule(0.1, 0.0, 10)),
        "steps": library.MultiSteps(library.adam(0.1), 3),
        "finite": library.apply_if_finite(library.adam(0.1), 3),
        "named": library.named_chain(("a", adam), ("b", library.scale(-0.1))),
        "masked": library.masked(adam, mask),
        "partition": library.partition({"x": adam, "y": zero}, labels),
        "masked by a function": library.masked(adam, matrices),
    }


def strip(tree, library):
    """Return what can be compared: the leaves with their paths, None where there is none."""
    masked = lambda x: isinstance(x, library.MaskedNode)  # noqa: E731
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=masked)
    return [(jax.tree_util.keystr(p), "masked" if masked(x) else x) for p, x in leaves]


@pytest.mark.parametrize("name", some(optax))
def test_map_params_sees_through_every_pair(name):
    def mapped(library):
        optimizer = some(library)[name]
        masked = lambda x: isinstance(x, library.MaskedNode)  # noqa: E731
        state = library.tree_map_params(
            optimizer,
            lambda x, spec: x if masked(x) else spec,
            optimizer.init(PARAMS),
            SPECS,
            transform_non_params=lambda _: "number",
            is_leaf=masked,
        )
        return strip(state, library)

    assert mapped(compat) == mapped(optax)
    assert any(x in SPECS.values() for _, x in mapped(compat))


@pytest.mark.parametrize("library", [optax, compat, gdjax], ids=["optax", "compat", "gdjax"])
def test_pairs_of_all_kinds_in_any_chain(library):
    for chain in (compat.chain, gdjax.chain):
        optimizer = chain(library.clip(1.0), library.scale_by_adam())
        state = optimizer.init(PARAMS)
        for get in (compat.tree.get, compat.tree_utils.tree_get, gdjax.tree.get):
            np.testing.assert_array_equal(get(state, "mu")["w"], jnp.zeros((3, 2)))
            assert get(state, "no_such_name", default=7) == 7
        new = compat.tree_utils.tree_set(state, mu=PARAMS)
        assert compat.tree.get(new, "mu") is PARAMS
        assert jax.tree.structure(new) == jax.tree.structure(state)
        shapes = compat.tree_map_params(optimizer, lambda x: x.shape, state)
        assert compat.tree.get(shapes, "nu") == {"w": (3, 2), "b": (2,)}
        _, state = jax.jit(optimizer.update)(PARAMS, new, PARAMS)
        counts = compat.tree.get_all_with_path(state, "count")
        assert counts and all(count == 1 for _, count in counts)


@pytest.mark.parametrize("library", [optax, compat], ids=["optax", "compat"])
def test_names_of_fields_classes_and_keys(library):
    tx = compat.chain(some(library)["inject"], library.add_noise(0.1, 0.9, key=0))
    state = tx.init(PARAMS)
    assert compat.tree.get(state, "learning_rate") == jnp.float32(0.1)
    noise = compat.tree.get(state, "AddNoiseState")
    assert isinstance(noise, library.AddNoiseState)
    with pytest.raises(KeyError, match="'count' is found 3 times"):
        compat.tree.get(state, "count")
    key = compat.tree_utils.NamedTupleKey("ScaleByAdamState", "count")
    new = compat.tree.set(state, lambda path, _: path[-1] == key, count=5)
    assert [int(c) for _, c in compat.tree.get_all_with_path(new, "count")] == [
        0,
        0,
        5,
    ]  # outer first
    new = jax.jit(lambda s, x: compat.tree.set(s, learning_rate=x))(state, 0.5)
    assert new[0].hyperparams["learning_rate"] == 0.5
    new = compat.tree.set(state, AddNoiseState=noise._replace(count=jnp.int32(3)))
    assert new[1].count == 3
    with pytest.raises(KeyError, match="nothing is named 'ema'"):
        compat.tree.set(state, ema=2.0)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "complex64", "int32"])
def test_reductions_have_the_dtype_of_the_leaves(dtype):
    tree = {"a": jnp.arange(4).astype(dtype), "b": [jnp.ones((), dtype)]}
    for name in ("norm", "sum", "max", "min"):
        if not (dtype == "complex64" and name in ("max", "min")):
            ours, theirs = getattr(compat.tree, name)(tree), getattr(optax.tree, name)(tree)
            assert ours.dtype == theirs.dtype
            np.testing.assert_allclose(np.asarray(ours, complex), np.asarray(theirs, complex), 1e-2)
    ours, theirs = compat.tree.vdot(tree, tree), optax.tree.vdot(tree, tree)
    assert ours.dtype == theirs.dtype
    assert jax.jit(compat.tree.norm)(tree).dtype == compat.tree.norm(tree).dtype


def test_reductions_are_computed_in_float32():
    ones = [jnp.ones(1000, jnp.bfloat16)]
    assert compat.tree.sum(ones) == 1000
    assert compat.tree.norm([jnp.full(4, 300.0, jnp.float16)]) == 600
    assert compat.tree.sum({}) == compat.tree.vdot({}, {}) == 0


@pytest.mark.parametrize("library", [gdjax, compat], ids=["gdjax", "compat"])
def test_moments_of_integers_keep_their_fractions(library):
    grads, moments = [jnp.arange(3)], [jnp.array([1, 2, 3])]
    got = library.tree.update_moment(grads, moments, 0.5, 1)[0]
    np.testing.assert_allclose(got, [0.5, 1.5, 2.5])
    np.testing.assert_allclose(library.tree.bias_correction(grads, 0.5, 1)[0], [0, 2, 4])
    got = library.tree.update_infinity_moment(grads, moments, 0.5, 0.0)[0]
    np.testing.assert_allclose(got, [0.5, 1.0, 2.0])
