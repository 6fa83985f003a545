"""What the Adam and RMSProp families refuse, and numbers worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gdjax.nadam(0.1, formula="dozat"), "nadam(formula=...) must be one of"),
        (lambda: gdjax.nadamw(0.1, momentum_decay=0.1), "belongs to formula='torch'"),
        (lambda: gdjax.nadam(0.1, formula="torch", power=0.4), "belongs to formula='algoperf'"),
        (lambda: gdjax.nadam(0.1, formula="algoperf", power=2.0), "nadam(power=...) must be in"),
        (lambda: gdjax.rmsprop(0.1, nesterov=True), "needs momentum"),
        (lambda: gdjax.rmsprop(0.1, initial_scale=-1.0), "rmsprop(initial_scale=...) must be"),
        (lambda: gdjax.scale_by_lion(mode="typo"), "scale_by_lion(mode=...) must be one of"),
        (lambda: gdjax.lion(0.1, mode="typo"), "lion(mode=...) must be one of"),
        (lambda: gdjax.lion(0.1, b2=0.0), "lion(b2=...) must be in (0, 1), got 0.0."),
        (lambda: gdjax.lion(-1.0), "lion(learning_rate=...) must be finite and >= 0"),
    ],
)
def test_refused(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert message in str(error.value)


def test_torchs_momentum_decay_is_4e_3_unless_given():
    state = gdjax.nadam(0.1, formula="torch").init(jnp.ones(2))
    assert float(gdjax.hyperparams(state)["momentum_decay"]) == pytest.approx(4e-3)
    assert "momentum_decay" not in gdjax.hyperparams(gdjax.nadam(0.1).init(jnp.ones(2)))


@pytest.mark.parametrize("name", ["adagrad", "rmsprop"])
def test_the_initial_accumulator_is_a_number_like_others(name):
    """A prefix tree, a grid; read by the first update only."""
    key = {"adagrad": "initial_accumulator_value", "rmsprop": "initial_scale"}[name]
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}

    def first_two(value):
        opt = getattr(gdjax, name)(0.1, **{key: value})
        one, state = opt.update(params, opt.init(params))
        two, _ = opt.update(params, gdjax.with_hyperparams(state, **{key: 77.0}))
        return one, two

    low, high = first_two(0.0), first_two(3.0)
    mixed = first_two({"a": 0.0, "b": 3.0})[0]
    np.testing.assert_array_equal(mixed["a"], low[0]["a"])
    np.testing.assert_array_equal(mixed["b"], high[0]["b"])
    assert abs(float(high[0]["a"][0])) < 0.6 * abs(float(low[0]["a"][0]))
    grid = jax.vmap(first_two)(jnp.array([0.0, 3.0]))
    np.testing.assert_allclose(grid[1]["a"][1], high[1]["a"], rtol=1e-6)


def test_the_trace_of_rmsprop_keeps_the_rate_each_step_was_made_with():
    opt = gdjax.rmsprop(lambda count: jnp.where(count == 0, 1.0, 0.0), momentum=0.5, eps=0.0)
    state = opt.init(jnp.ones(1))
    updates = []
    for _ in range(3):
        update, state = opt.update(jnp.ones(1), state)
        updates.append(float(update[0]))
    np.testing.assert_allclose(updates, np.array([1, 0.5, 0.25]) * -(10**0.5), rtol=1e-6)


def test_lion_keeps_the_phase_of_complex_elements():
    grad = jnp.array([3.0 + 4.0j])
    for mode, length in (("hard", 1.0), ("smooth", np.tanh(0.5)), ("refined", 0.5)):
        opt = gdjax.scale_by_lion(mode=mode)
        direction, _ = opt.update(grad, opt.init(grad))
        np.testing.assert_allclose(direction, length * np.array([0.6 + 0.8j]), rtol=1e-5)


@pytest.mark.parametrize(
    "decay", [gdjax.by_path({"a": 0.1, ".*": 0.2}), {"a": 0.1, "b": 0.2, "c": 0.2}]
)
def test_a_mask_over_a_decay_that_differs_by_leaf(decay):
    params = {"a": jnp.ones(1), "b": jnp.ones(1), "c": jnp.ones(1)}
    opt = gdjax.adamw(1.0, weight_decay=decay, mask={"a": True, "b": False, "c": True})
    updates, _ = opt.update(jax.tree.map(jnp.zeros_like, params), opt.init(params), params)
    np.testing.assert_allclose([updates[k][0] for k in "abc"], [-0.1, 0.0, -0.2], rtol=1e-6)
