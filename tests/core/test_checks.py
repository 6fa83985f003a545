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


def _scaled(grad, slots, param, count, *, power, decay):
    return power * grad / (1 - decay), slots


@gdjax.checked(power=gdjax.Range("in [1, 2]", lambda x: 1 <= x <= 2))
def scaled(learning_rate, power=1.0, decay=0.9):
    return gdjax.descend(_scaled, None, dict(power=power, decay=decay), learning_rate)


def test_ranges_of_a_factory_of_the_user():
    with pytest.raises(ValueError, match=r"^scaled\(power=...\) must be in \[1, 2\], got 3.0"):
        scaled(0.1, power=3)
    with pytest.raises(ValueError, match=r"^scaled\(learning_rate=...\) must be finite and >= 0"):
        scaled(-0.1)
    state = scaled(0.1).init(jnp.ones(1))
    with pytest.raises(ValueError, match=r"^with_hyperparams\(power=...\) must be in \[1, 2\]"):
        gdjax.with_hyperparams(state, power=0.5)
    with pytest.raises(ValueError, match=r"^scaled needs|^scaled: "):
        scaled(0.1).update(jnp.ones(1), gdjax.sgd(0.1).init(jnp.ones(1)))


def test_a_decay_of_a_factory_of_the_user_keeps_its_digits():
    optimizer = scaled(1e-7, decay=0.9999999)  # 1 - decay is 19 % larger in float32
    updates, _ = optimizer.update(jnp.ones(1), optimizer.init(jnp.ones(1)))
    np.testing.assert_allclose(updates, [-1.0], rtol=1e-5)


def test_what_is_no_range():
    with pytest.raises(TypeError, match=r"^checked\(power=...\) must be a gdjax.Range, got 3"):
        gdjax.checked(power=3)
