"""Code that optax users have written for `inject_hyperparams` works."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from parity import assert_same, falling

import gdjax
from gdjax.compat import optax as compat

PARAMS = {"w": jnp.array([1.0, -2.0]), "b": jnp.array(0.5)}


def of(lib):
    def make(rate, decay, clip=5.0):
        return lib.chain(lib.clip(clip), lib.adamw(rate, weight_decay=decay / 2), lib.scale(0.5))

    return make


@pytest.mark.parametrize("lib", [gdjax, optax], ids=["gdjax", "optax"])
def test_same_as_optax(lib):
    for numbers in (
        dict(rate=0.1, decay=0.2),
        dict(rate=falling, decay=lambda t: 0.1 * t, clip=1.0),
    ):
        ours = compat.inject_hyperparams(of(lib))(**numbers)
        theirs = optax.inject_hyperparams(of(optax))(**numbers)
        assert_same(ours, theirs, steps=4, keys=("vector", "tall"))


def test_numbers_are_written_and_read_as_in_optax():
    def run(lib, update):
        opt = lib.inject_hyperparams(lib.adam)(learning_rate=0.1, b1=lambda t: 0.9 - 0.1 * t)
        state, read = opt.init(PARAMS), []
        for t in range(4):
            state.hyperparams["learning_rate"] = 0.1 / (t + 1)  # a plain number
            updates, state = update(opt)(PARAMS, state, PARAMS)
            read.append([updates["w"][0], *(state.hyperparams[k] for k in ("learning_rate", "b1"))])
        return read

    expected = run(optax, lambda opt: opt.update)
    np.testing.assert_allclose(run(compat, lambda opt: opt.update), expected, rtol=2e-5)
    np.testing.assert_allclose(run(compat, lambda opt: jax.jit(opt.update)), expected, rtol=2e-5)


def test_plain_states_take_such_writes_too():
    opt = gdjax.adam(0.1)
    state = opt.init(PARAMS)
    state.hyperparams["learning_rate"] = 0.2
    updates, state = opt.update(PARAMS, state)
    np.testing.assert_allclose(updates["w"], [-0.2, 0.2], rtol=1e-5)
    np.testing.assert_allclose(state.hyperparams["learning_rate"], 0.2)


def test_one_program_for_all_numbers():
    opt, traces = compat.inject_hyperparams(compat.adam)(learning_rate=0.1), []

    @jax.jit
    def step(state):
        traces.append(1)
        return opt.update(PARAMS, state)

    state = opt.init(PARAMS)
    for rate in (0.1, 0.2, 0.3):
        state.hyperparams["learning_rate"] = jnp.asarray(rate)
        updates, state = step(state)
        np.testing.assert_allclose(updates["w"], [-rate, rate], rtol=1e-4)
        used = gdjax.hyperparams_in_use(state)
        np.testing.assert_allclose(used["learning_rate"], rate)
    assert len(traces) == 1
    assert isinstance(state, compat.InjectStatefulHyperparamsState) and state.count == 3


def test_masks_inside():
    masked = compat.inject_hyperparams(gdjax.adamw)(0.1, mask={"w": True, "b": False})
    _, state = masked.update(PARAMS, masked.init(PARAMS), PARAMS)
    assert jax.tree.structure(state) == jax.tree.structure(masked.init(PARAMS))


def test_low_precision_parameters_do_not_round_the_numbers():
    """optax #1414: there b2 becomes 1, and the first update NaN."""
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), PARAMS)
    for adam in (gdjax.adam, compat.adam):
        opt = compat.inject_hyperparams(adam)(1e-3)
        updates, state = opt.update(params, opt.init(params), params)
        assert state.hyperparams["b2"] == np.float32(0.999) and updates["w"].dtype == jnp.bfloat16
        np.testing.assert_allclose(updates["w"].astype(float), [-1e-3, 1e-3], rtol=1e-2)


def test_static_arguments_and_stateful_schedules():
    class Halve:
        """Halve the value each time that the loss was above 1."""

        def init(self):
            return jnp.float32(1.0)

        def update(self, state, *, value=0.0, **extra):
            return jnp.where(value > 1, state / 2, state)

        def __call__(self, state, **extra):
            return state

    def factory(rate, power, shape):
        return gdjax.sgd(rate * shape(2.0) ** power)

    make = compat.inject_hyperparams(factory, static_args=("power", "shape"))
    opt = make(Halve(), 1, shape=abs)
    state = opt.init(PARAMS)
    for value, expected in ((3.0, -2.0), (0.0, -1.0), (0.0, -1.0)):
        updates, state = opt.update(PARAMS, state, value=value)
        np.testing.assert_allclose(updates["w"][0], expected)
    assert list(state.hyperparams) == ["rate"]
    with pytest.raises(ValueError, match="names slope, but the factory's arguments are rate"):
        compat.inject_hyperparams(factory, static_args="slope")


@pytest.mark.parametrize("factory", [compat.adafactor, compat.contrib.muon])
def test_integers_with_integer_defaults_are_whole_also_under_jit(factory):
    params = {"w": jnp.ones((3, 2))}
    tx = compat.inject_hyperparams(factory)(learning_rate=0.1)
    eager, _ = tx.update(params, tx.init(params), params)
    jitted, _ = jax.jit(tx.update)(params, tx.init(params), params)
    np.testing.assert_allclose(eager["w"], jitted["w"], rtol=1e-5)
