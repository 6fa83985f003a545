"""States in the formats of other libraries."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from registry import CASES

import gdjax

PARAMS = {"w": jnp.linspace(-1.0, 1.0, 12).reshape(4, 3), "b": jnp.ones(3)}
GRADS = jax.tree.map(jnp.cos, PARAMS)
NESTED = {
    "schedule and mask": lambda: gdjax.adamw(
        gdjax.cosine_decay_schedule(0.1, 10), weight_decay=0.1, mask=gdjax.mask_by_ndim()
    ),
    "function": lambda: gdjax.sgd(rate),
    "by path": lambda: gdjax.adamw(0.1, weight_decay=gdjax.by_path({r"b": None, r".*": 0.1})),
    "tree": lambda: gdjax.sgd({"w": 0.1, "b": gdjax.linear_schedule(0.1, 0.0, 5)}),
    "groups": lambda: gdjax.groups({r"b": None, r".*": gdjax.adam(0.1)}),
    "wrappers": lambda: gdjax.apply_if_finite(
        gdjax.chain(gdjax.clip(1.0), gdjax.average(gdjax.noisy_sgd(0.1, key=3))), 3
    ),
    "residual": lambda: gdjax.schedule_free_adamw(0.1),
}


def rate(count):
    return 0.1 / (1 + count)


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(x, y)


def other(state):
    """Return a state of the same structure with other numbers."""

    def one(x):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.key(99) if not x.ndim else x
        return x + 1 if jnp.issubdtype(x.dtype, jnp.number) else x

    return jax.tree.map(one, state)


@pytest.mark.interop
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_flax_serializes_every_state(case):
    serialization = pytest.importorskip("flax.serialization", reason="Flax is not installed")
    optimizer = case.make(**case.numbers)
    state = optimizer.init(PARAMS)
    same(serialization.from_bytes(other(state), serialization.to_bytes(state)), state)


@pytest.mark.interop
@pytest.mark.parametrize("name", NESTED)
def test_flax_serializes_nodes_of_numbers_and_wrappers(name):
    serialization = pytest.importorskip("flax.serialization", reason="Flax is not installed")
    optimizer = NESTED[name]()
    params = PARAMS if name != "residual" else jax.tree.map(lambda x: x.astype("bfloat16"), PARAMS)
    state = optimizer.init(params)
    saved = serialization.to_bytes(state)
    back = serialization.from_bytes(other(state), saved)
    same(back, state)
    same(serialization.from_state_dict(other(state), serialization.to_state_dict(state)), state)
    grads = jax.tree.map(lambda g, p: g.astype(p.dtype), GRADS, params)
    same(optimizer.update(grads, back, params), optimizer.update(grads, state, params))


@pytest.mark.interop
def test_flax_refuses_the_state_of_another_optimizer():
    serialization = pytest.importorskip("flax.serialization", reason="Flax is not installed")
    cosine = gdjax.sgd(gdjax.cosine_decay_schedule(0.1, 10)).init(PARAMS)
    linear = gdjax.sgd(gdjax.linear_schedule(0.1, 0.0, 5)).init(PARAMS)
    with pytest.raises(ValueError, match="it is of another optimizer"):
        serialization.from_bytes(linear, serialization.to_bytes(cosine))


@pytest.mark.parametrize("name", NESTED)
def test_paths_and_pickles_of_states(name):
    state = NESTED[name]().init(PARAMS)
    same(pickle.loads(pickle.dumps(state)), state)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state)]
    assert len(set(paths)) == len(paths) and not [p for p in paths if "flat index" in p]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_leaf_has_a_readable_path(case):
    state = jax.eval_shape(case.make(**case.numbers).init, PARAMS)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state)]
    assert len(set(paths)) == len(paths) and not [p for p in paths if "flat index" in p]


@pytest.mark.interop
def test_orbax_restores_typed_keys_and_groups(tmp_path):
    ocp = pytest.importorskip("orbax.checkpoint", reason="Orbax is not installed")
    optimizer = gdjax.groups({r"b": None, r".*": gdjax.noisy_sgd(0.1, key=0)})
    state = optimizer.init(PARAMS)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "a", state)
    like = jax.eval_shape(optimizer.init, PARAMS)
    with ocp.StandardCheckpointer() as checkpointer:
        same(checkpointer.restore(tmp_path / "a", like), state)


@pytest.mark.interop
def test_safetensors_by_the_recipe_of_docs_checkpoints(tmp_path):
    numpy = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
    state = NESTED["schedule and mask"]().init(PARAMS)
    path = jax.tree_util.keystr
    saved = {path(p): np.asarray(x) for p, x in jax.tree_util.tree_leaves_with_path(state)}
    numpy.save_file(saved, tmp_path / "state")
    saved = numpy.load_file(tmp_path / "state")
    same(jax.tree_util.tree_map_with_path(lambda p, x: jnp.asarray(saved[path(p)]), state), state)
