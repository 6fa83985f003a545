"""Slots on the host: the same steps bit for bit, and the state stays where it is."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax

PARAMS = {"w": jnp.linspace(-1.0, 1.0, 24).reshape(8, 3), "b": jnp.ones(2)}
SPACES = hasattr(jax, "memory")
HOST = "pinned_host" if SPACES else "unpinned_host"


def slope(params, t):
    return jax.tree.map(lambda x: x + jnp.cos(3.0 * x + t), params)


def walk(opt, steps=4):
    def step(carry, t):
        params, state = carry
        updates, state = opt.update(slope(params, t), state, params)
        return (gdjax.apply_updates(params, updates), state), None

    run = jax.jit(lambda carry: jax.lax.scan(step, carry, jnp.arange(steps))[0], donate_argnums=0)
    return run((jax.tree.map(jnp.array, PARAMS), opt.init(PARAMS)))


def offloaded(opt):
    return gdjax.offload_to_host(opt, min_size=3)


def memories(state):
    return {x.sharding.memory_kind for x in jax.tree.leaves(state) if x.size > 2}


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


OPTIMIZERS = {
    "adam": (gdjax.adam(0.1, mu_dtype=jnp.bfloat16), lambda opt: opt),
    "inside a guard": (gdjax.adam(0.1), lambda opt: gdjax.apply_if_finite(opt, 3)),
    "inside a reset": (gdjax.adam(0.1), lambda opt: gdjax.lookahead(opt, 2, reset_state=True)),
    "around others": (gdjax.average(gdjax.accumulate(gdjax.sgd(0.1, 0.9), 2)), lambda opt: opt),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_are_the_same_bit_for_bit(name):
    opt, around = OPTIMIZERS[name]
    params, state = walk(around(opt))
    mine, stored = walk(around(offloaded(opt)))
    same(params, mine)
    same(jax.tree.leaves(state), jax.tree.leaves(gdjax.decoded(stored)))
    same(gdjax.eval_params(state, params), gdjax.eval_params(stored, mine))
    if name != "inside a reset":  # whose own slow weights stay
        assert memories(stored) == {HOST}


def test_shardings_and_files_keep_the_memory(tmp_path):
    opt = offloaded(gdjax.adam(0.1))
    mesh = jax.make_mesh((1,), ("data",))
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    params = {"w": jax.device_put(PARAMS["w"], place)}
    shardings = gdjax.state_shardings(opt, params)
    state = jax.jit(opt.init, out_shardings=shardings)(params)
    _, state = jax.jit(opt.update)(params, state, params)
    codes = state.mu["w"].codes
    assert codes.sharding.is_equivalent_to(shardings.mu["w"].codes, 2)
    assert codes.sharding.memory_kind == HOST

    read = pickle.loads(pickle.dumps(state))  # on the device
    _, again = opt.update(params, read, params)
    same(again, opt.update(params, state, params)[1])
    back = jax.device_put(read, jax.tree.map(lambda x: x.sharding, opt.init(params)))
    assert memories(back) == {HOST}

    def loss(params, batch):
        return sum(jnp.sum((x - batch[0].mean()) ** 2) for x in jax.tree.leaves(params))

    run = dict(batch_size=2, report_every=2, directory=tmp_path)
    gdjax.fit(loss, PARAMS, opt, (jnp.ones(4),), steps=2, **run)
    result = gdjax.fit(loss, PARAMS, opt, (jnp.ones(4),), steps=4, **run)
    plain = gdjax.fit(loss, PARAMS, gdjax.adam(0.1), (jnp.ones(4),), batch_size=2, steps=4)
    same(result.params, plain.params)
    assert memories(result.state) == {HOST}


def test_small_arrays_numbers_and_codes_stay():
    opt = gdjax.offload_to_host(
        gdjax.with_slot_dtypes(gdjax.adam(0.1), mu="int8", min_size=0), min_size=3
    )
    state = opt.init(PARAMS)
    assert [repr(x) for x in state.mu.values()] == ["Encoded(int8[2])", "Encoded(int8[8, 3])"]
    assert repr(state.nu["w"]) == "Encoded(host[8, 3])"
    assert isinstance(state.nu["b"], jax.Array)
    assert gdjax.hyperparams(gdjax.with_hyperparams(state, b1=0.5))["b1"] == 0.5


@pytest.mark.parametrize("vectorize", [True, False])
def test_the_lanes_of_a_sweep_stay_on_the_device(vectorize):
    def loss_fn(params, batch):
        return jnp.sum((params - batch.mean(0)) ** 2)

    def run(search, factory, **options):
        space = {"learning_rate": [0.01, 0.1]}
        options |= dict(steps=4, vectorize=vectorize)
        return search(
            loss_fn, jnp.ones(4), factory, space, jnp.arange(8.0).reshape(2, 4), **options
        )

    def moved(learning_rate):
        return offloaded(gdjax.adam(learning_rate))

    for search in (gdjax.sweep, gdjax.successive_halving):
        plain, lanes = run(search, gdjax.adam), run(search, moved)
        same(plain.params, lanes.params)
