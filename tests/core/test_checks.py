"""None means "off" where a factory or a tree of values says so."""

import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.core.checks import check_integer


def test_none_that_is_the_default_may_be_written_out():
    assert gdjax.sgd(0.1, momentum=None).update is gdjax.sgd(0.1).update


def test_none_in_a_tree_switches_the_term_off_there():
    params = {"w": jnp.ones(1), "b": jnp.ones(1)}
    opt = gdjax.adamw(1.0, weight_decay=gdjax.by_path({"b": None, ".*": 0.5}))
    updates, _ = opt.update({"w": jnp.zeros(1), "b": jnp.zeros(1)}, opt.init(params), params)
    np.testing.assert_allclose([updates["w"][0], updates["b"][0]], [-0.5, 0.0])


def test_none_for_a_number_that_must_be_given():
    with pytest.raises(TypeError, match=r"sgd\(learning_rate=...\) must be a number.*got None"):
        gdjax.sgd(None)


def test_none_for_a_number_that_is_optional():
    opt = gdjax.adamw(1.0, weight_decay=None)
    updates, _ = opt.update(jnp.zeros(1), opt.init(jnp.ones(1)))  # and needs no parameters
    np.testing.assert_array_equal(updates, [0.0])


def test_a_mask_for_no_number():
    with pytest.raises(
        ValueError, match=r"^adamw\(mask=\.\.\.\) says which leaves weight_decay is for"
    ):
        gdjax.adamw(1.0, weight_decay=None, mask=True).init(jnp.ones(1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gdjax.adam(lr=1e-3), r"adam\(\) got .*'lr'; did you mean 'learning_rate'\?"),
        (lambda: gdjax.adamw(0.1, wd=1e-3), r"adamw\(\) got .*'wd'; did you mean 'weight_decay'\?"),
        (lambda: gdjax.adam(0.1, nesterof=True), r"did you mean 'nesterov'\?"),
        (lambda: gdjax.adam(0.1, zzz=True), r"adam\(\) .*'zzz'; It takes learning_rate, b1, b2"),
        (lambda: gdjax.adam(), r"adam\(\) missing a required argument: 'learning_rate'"),
    ],
)
def test_a_wrong_call_names_the_function_and_the_argument_that_was_meant(call, message):
    with pytest.raises(TypeError, match=message):
        call()


@pytest.mark.parametrize("value", [0, -1, 2.0, True, "3", None, np.float64(2), 1e400])
def test_static_integers_are_integers(value):
    with pytest.raises(ValueError, match=r"f\(n=\.\.\.\) must be an integer >= 1, got"):
        check_integer("f(n=...)", value)


def test_static_integers_may_come_from_numpy():
    assert check_integer("f(n=...)", np.int64(3)) == 3
    assert check_integer("f(n=...)", 0, least=0) == 0
