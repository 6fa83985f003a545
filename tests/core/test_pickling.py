"""Optimizers are pickled as the call that made them."""

import copy
import inspect
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax

PARAMS = {"w": jnp.ones((4, 3)), "b": jnp.ones(3)}
DECAY = gdjax.by_path({r"b": None, r".*": 0.1})


def rate(count):
    return 0.1 / (1 + count)


def matrices(params):
    return jax.tree.map(lambda x: x.ndim > 1, params)


MAKE = {
    "plain": lambda: gdjax.adam(0.25, b1=0.5),
    "chain": lambda: gdjax.chain(
        gdjax.clip(1.0), gdjax.adamw(gdjax.cosine_decay_schedule(0.1, 10), mask=matrices)
    ),
    "function": lambda: gdjax.sgd(rate, momentum=0.9),
    "by path": lambda: gdjax.adamw(0.1, weight_decay=DECAY),
    "groups": lambda: gdjax.groups({r"b": None, r".*": gdjax.adam(0.1)}),
    "wrappers": lambda: gdjax.apply_if_finite(gdjax.average(gdjax.noisy_sgd(0.1, key=0)), 3),
    "foreign": lambda: gdjax.chain(gdjax.Optimizer(_init, _update), gdjax.sgd(0.1)),
}


def _init(params):
    return ()


def _update(updates, state, params=None):
    return updates, state


@pytest.mark.parametrize("name", MAKE)
def test_an_optimizer_is_rebuilt_with_its_update_function(name):
    optimizer = MAKE[name]()
    twin = pickle.loads(pickle.dumps(optimizer))
    assert type(twin) is gdjax.Optimizer and twin.update == optimizer.update
    a, b = optimizer.init(PARAMS), twin.init(PARAMS)
    assert jax.tree.structure(a) == jax.tree.structure(b)
    numbers = [x for x in jax.tree.leaves(a) if jnp.issubdtype(x.dtype, jnp.number)]
    others = [x for x in jax.tree.leaves(b) if jnp.issubdtype(x.dtype, jnp.number)]
    jax.tree.map(np.testing.assert_array_equal, numbers, others)
    assert copy.copy(optimizer) is optimizer and copy.deepcopy([optimizer])[0] is optimizer


def test_the_update_of_a_pickled_optimizer_is_the_same_object():
    optimizer = gdjax.chain(gdjax.clip(1.0), gdjax.adam(0.1))
    assert pickle.loads(pickle.dumps(optimizer)).update is optimizer.update


def test_a_lambda_is_an_error_that_names_it_and_cloudpickle_saves_it():
    masked = gdjax.adamw(0.1, mask=lambda params: {"w": True, "b": False})
    for optimizer in (masked, gdjax.chain(gdjax.clip(1.0), masked)):
        with pytest.raises(
            pickle.PicklingError, match=r"adamw\(mask=...\) has a lambda of .*test_"
        ):
            pickle.dumps(optimizer)
        assert copy.deepcopy(optimizer) is optimizer
    with pytest.raises(pickle.PicklingError, match=r"sgd\(learning_rate=...\) has a lambda"):
        pickle.dumps(gdjax.sgd(lambda count: 0.1))
    with pytest.raises(pickle.PicklingError, match=r"Optimizer\(init=...\) has a lambda"):
        pickle.dumps(gdjax.Optimizer(lambda params: (), _update))
    cloudpickle = pytest.importorskip("cloudpickle", reason="cloudpickle is not installed")
    twin = pickle.loads(cloudpickle.dumps(gdjax.chain(gdjax.clip(1.0), masked)))
    assert twin.init(PARAMS)[1].weight_decay.mask == (False, True)


def test_an_outer_factory_that_returns_its_argument_is_no_endless_call():
    inner = gdjax.adam(0.1)
    same = gdjax.with_extra_args_support(gdjax.with_extra_args_support(inner))
    assert pickle.loads(pickle.dumps(same)).update is inner.update


def test_an_optimizer_never_changes():
    with pytest.raises(AttributeError, match="with_hyperparams"):
        gdjax.adam(0.1).learning_rate = 0.2


def test_factories_are_found_by_name_and_show_their_arguments():
    for factory in (gdjax.adam, gdjax.scale_by_adam, gdjax.chain, gdjax.groups):
        assert pickle.loads(pickle.dumps(factory)) is factory
        assert inspect.signature(factory).parameters
    assert next(iter(inspect.signature(gdjax.adam).parameters)) == "learning_rate"


def test_pickles_where_optax_is_imported():
    optax = pytest.importorskip("optax", reason="optax is not installed")
    optimizer = gdjax.adam(0.1)
    assert isinstance(optimizer, optax.GradientTransformation)
    assert pickle.loads(pickle.dumps(optimizer)).update is optimizer.update
    assert copy.deepcopy(optimizer) is optimizer and type(optimizer) is gdjax.Optimizer


def test_fiddle_configures_factories():
    fiddle = pytest.importorskip("fiddle", reason="Fiddle is not installed")
    config = fiddle.Config(gdjax.adam, learning_rate=1e-3)
    config.b1 = 0.5
    assert float(fiddle.build(config).init(PARAMS).b1) == 0.5
