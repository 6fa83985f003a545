"""docs/guides/checkpoints.md: a run that was saved and read again goes on bit for bit."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax

OPTIMIZERS = {
    "adam": gdjax.adam(1e-3),
    "schedules, paths and masks": gdjax.chain(
        gdjax.clip_by_global_norm(1.0),
        gdjax.adamw(
            gdjax.warmup_cosine_decay_schedule(0.0, 1e-3, 2, 9),
            b1=gdjax.by_path({r"b": 0.8, r".*": 0.9}),
            mask=gdjax.mask_by_ndim(),
        ),
    ),
    "functions": gdjax.sgd(lambda count: 0.1 / (1 + count)),
    "groups": gdjax.groups({r"b": None, r".*": gdjax.adam(1e-3)}),
    "accumulate": gdjax.accumulate(gdjax.sgd(1e-3, momentum=0.9), 4),
    "a random key": gdjax.noisy_sgd(1e-3),
    "a solver": gdjax.lbfgs(),
}
every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)


def loss(params):
    return jnp.sum(jnp.sin(params["w"]) ** 2) + jnp.sum((params["b"] - 1.0) ** 2)


def go_on(optimizer, params, state, steps):
    for _ in range(steps):
        value, grad = jax.value_and_grad(loss)(params)
        extra = {"value": value, "grad": grad, "value_fn": loss}
        updates, state = optimizer.update(grad, state, params, **extra)
        params = gdjax.apply_updates(params, updates)
    return params, state


def fresh(optimizer):
    params = {"w": jnp.linspace(0.1, 1.0, 12).reshape(4, 3), "b": jnp.zeros(3)}
    return params, optimizer.init(params)


def is_key(x):
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def plain(x):
    return np.asarray(jax.random.key_data(x) if is_key(x) else x)


def by_pickle(optimizer, saved, where):
    return pickle.loads(pickle.dumps(saved))


def by_orbax(optimizer, saved, where):
    checkpoint = pytest.importorskip("orbax.checkpoint")
    with checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(where / "checkpoint", saved)
    like = jax.eval_shape(lambda: fresh(optimizer))
    with checkpoint.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(where / "checkpoint", like)


def by_leaf(optimizer, saved, where):
    """The arrays come back as NumPy's."""
    path = jax.tree_util.keystr
    arrays = {path(p): plain(x) for p, x in jax.tree_util.tree_leaves_with_path(saved)}
    np.savez(where / "arrays.npz", **arrays)
    with np.load(where / "arrays.npz") as file:
        read = dict(file)

    def fill(p, x):
        return jax.random.wrap_key_data(read[path(p)]) if is_key(x) else read[path(p)]

    return jax.tree_util.tree_map_with_path(fill, fresh(optimizer))


@pytest.mark.filterwarnings("ignore")  # Orbax's own
@pytest.mark.parametrize("way", [by_pickle, by_orbax, by_leaf])
@every_optimizer
def test_a_run_goes_on_bit_for_bit(optimizer, way, tmp_path):
    if optimizer is OPTIMIZERS["functions"] and way is by_pickle:
        with pytest.raises(pickle.PicklingError):
            way(optimizer, fresh(optimizer), tmp_path)
        return
    saved = go_on(optimizer, *fresh(optimizer), steps=2)
    through = go_on(optimizer, *saved, steps=1)
    read = go_on(optimizer, *way(optimizer, saved, tmp_path), steps=1)
    assert jax.tree.structure(read) == jax.tree.structure(through)
    for a, b in zip(jax.tree.leaves(through), jax.tree.leaves(read), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(plain(a), plain(b))
