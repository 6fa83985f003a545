"""Numbers are data: into the state, out of it, changed, scheduled, per leaf."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax


@gdjax.schedule
class Inverse(gdjax.Schedule):
    peak: float
    delay: float = 1.0

    def __call__(self, count):
        return self.peak * self.delay / (self.delay + count)


PARAMS = {"body": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}, "head": jnp.ones(2)}


def first_update(optimizer, params=PARAMS, grads=None):
    grads = jax.tree.map(jnp.ones_like, params) if grads is None else grads
    return optimizer.update(grads, optimizer.init(params), params)[0]


@pytest.mark.parametrize(
    "rate", [0.5, np.float32(0.5), np.float64(0.5), jnp.float32(0.5), jnp.bfloat16(0.5), 1]
)
def test_any_kind_of_number_becomes_a_strong_float32_leaf(rate):
    state = gdjax.adam(rate).init(PARAMS)
    value = state.hyperparams["learning_rate"]
    assert value.dtype == jnp.float32 and not value.weak_type and value.shape == ()
    assert float(value) == float(rate)


def test_numbers_are_never_rounded_to_the_parameters_dtype():
    state = gdjax.adam(1e-3).init(jnp.ones(3, jnp.bfloat16))
    assert float(gdjax.hyperparams(state)["b2"]) == np.float32(0.999)


def test_init_copies_a_users_array_so_that_the_state_can_be_donated():
    rate = jnp.float32(0.1)
    opt = gdjax.sgd(rate, momentum=rate)
    state = opt.init(jnp.ones(3))
    jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)(state)
    assert float(rate) == np.float32(0.1)


def test_one_trace_for_ten_values_and_two_optimizers():
    traced = []

    @jax.jit
    def step(grads, state, params):
        traced.append(1)
        return gdjax.adam(1.0).update(grads, state, params)

    params = jnp.ones(3)
    for rate in np.linspace(0.1, 1.0, 10):
        step(params, gdjax.adam(rate).init(params), params)
    state = gdjax.with_hyperparams(gdjax.adam(0.5).init(params), learning_rate=7.0, b1=0.5)
    step(params, state, params)
    assert len(traced) == 1


def test_the_same_function_serves_chains_and_every_kind_of_value():
    one = gdjax.chain(gdjax.clip_by_global_norm(1.0), gdjax.adamw(1e-3))
    two = gdjax.chain(gdjax.clip_by_global_norm(2.0), gdjax.adamw(lambda count: 0.1))
    assert one.update is two.update


def test_prefix_trees_set_one_number_for_a_subtree():
    updates = first_update(gdjax.sgd({"body": 0.1, "head": 1.0}))
    chex.assert_trees_all_close(
        updates, {"body": jax.tree.map(lambda x: -0.1 * x, PARAMS["body"]), "head": -jnp.ones(2)}
    )


def test_by_path_takes_the_first_pattern_that_matches_the_whole_path():
    rates = gdjax.by_path({r".*bias": 0.0, r"body/.*": 0.1, r".*": 1.0})
    updates = first_update(gdjax.sgd(rates))
    assert float(updates["body"]["bias"].max()) == 0.0
    np.testing.assert_allclose(updates["body"]["kernel"], -0.1)
    np.testing.assert_allclose(updates["head"], -1.0)
    names = gdjax.hyperparams(gdjax.sgd(rates).init(PARAMS))
    assert set(names) == {f"learning_rate.{p}" for p in (".*bias", "body/.*", ".*")}


def test_none_in_a_tree_of_values_switches_a_term_off():
    decay = gdjax.by_path({r".*bias": None, r".*": 0.5})
    updates = first_update(
        gdjax.adamw(0.1, weight_decay=decay), grads=jax.tree.map(jnp.zeros_like, PARAMS)
    )
    np.testing.assert_allclose(updates["body"]["bias"], 0.0)
    np.testing.assert_allclose(updates["head"], -0.05, rtol=1e-6)


@pytest.mark.parametrize("mask", ["tree", "function"])
def test_a_mask_keeps_one_number_for_all_that_decay(mask):
    tree = {"body": {"kernel": True, "bias": False}, "head": True}
    mask = tree if mask == "tree" else lambda p: tree
    opt = gdjax.adamw(0.1, weight_decay=0.5, mask=mask)
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    state = opt.init(PARAMS)
    assert float(gdjax.hyperparams(state)["weight_decay"]) == 0.5
    state = gdjax.with_hyperparams(state, weight_decay=0.25)
    updates, _ = opt.update(zeros, state, PARAMS)
    np.testing.assert_allclose(updates["body"]["kernel"], -0.025, rtol=1e-6)
    np.testing.assert_allclose(updates["body"]["bias"], 0.0)


def test_callable_parameters_are_data():
    @jax.tree_util.register_pytree_node_class
    class Layer:
        def __init__(self, w):
            self.w = w

        def __call__(self, x):
            raise AssertionError("a parameter tree was called")

        def tree_flatten(self):
            return (self.w,), None

        @classmethod
        def tree_unflatten(cls, _, children):
            return cls(*children)

    params = Layer(jnp.ones(2))
    opt = gdjax.adamw(Layer(0.1), mask=Layer(True))
    updates, _ = opt.update(params, opt.init(params), params)
    assert isinstance(updates, Layer)
    assert gdjax.apply_updates(params, updates).w.shape == (2,)


def test_first_update_uses_the_schedule_at_zero():
    opt = gdjax.sgd(Inverse(1.0))
    state, params, seen = opt.init(jnp.zeros(1)), jnp.zeros(1), []
    for _ in range(3):
        updates, state = opt.update(jnp.ones(1), state, params)
        seen.append(-float(updates[0]))
    np.testing.assert_allclose(seen, [1.0, 1 / 2, 1 / 3], rtol=1e-6)


def test_a_plain_function_is_a_schedule_without_leaves():
    state = gdjax.sgd(lambda count: 0.5 / (1 + count)).init(jnp.zeros(1))
    assert jax.tree.leaves(state.hyperparams) == []
    assert float(gdjax.hyperparams(state)["learning_rate"]) == 0.5


def test_a_schedules_numbers_can_be_vmapped_and_differentiated():
    params = jnp.ones(2)

    def second_step(peak, delay):
        opt = gdjax.sgd(Inverse(peak, delay))
        state = opt.init(params)
        _, state = opt.update(params, state, params)
        return -opt.update(params, state, params)[0][0]

    peaks = jnp.array([1.0, 2.0, 4.0])
    np.testing.assert_allclose(jax.vmap(second_step, (0, None))(peaks, 3.0), 0.75 * peaks)
    np.testing.assert_allclose(jax.grad(second_step, 1)(2.0, 3.0), 2 / 16, rtol=1e-6)


def test_hyperparams_names_are_the_shortest_unique_ones():
    opt = gdjax.named_chain(
        ("one", gdjax.sgd(Inverse(0.5))),
        ("two", gdjax.chain(gdjax.clip(3.0), gdjax.sgd({"body": 0.1, "head": 0.2}))),
    )
    names = gdjax.hyperparams(opt.init(PARAMS))
    assert {k: float(v) for k, v in names.items()} == {
        "learning_rate": pytest.approx(0.5),
        "max_delta": 3.0,
        "learning_rate.body": pytest.approx(0.1),
        "learning_rate.head": pytest.approx(0.2),
    }


def test_equal_names_are_told_apart_by_what_is_around_them():
    opt = gdjax.named_chain(("one", gdjax.sgd(0.1)), ("two", gdjax.sgd(0.2)))
    assert set(gdjax.hyperparams(opt.init(PARAMS))) == {"one.learning_rate", "two.learning_rate"}
    opt = gdjax.chain(gdjax.sgd(0.1), gdjax.sgd(0.2))
    state = opt.init(PARAMS)
    assert set(gdjax.hyperparams(state)) == {"0.learning_rate", "1.learning_rate"}
    state = gdjax.with_hyperparams(state, **{"1.learning_rate": 0.5})
    assert float(state[1].hyperparams["learning_rate"]) == 0.5


@pytest.mark.parametrize("name", ["lr", "learning_rate", "earning_rate"])
def test_unknown_and_ambiguous_names_raise_with_the_names_there_are(name):
    state = gdjax.chain(gdjax.sgd(0.1), gdjax.sgd(0.2)).init(PARAMS)
    with pytest.raises(ValueError, match=r"0\.learning_rate, 1\.learning_rate"):
        gdjax.with_hyperparams(state, **{name: 1.0})


def test_hyperparams_inside_jit_and_of_a_vmapped_state():
    states = jax.vmap(lambda peak: gdjax.sgd(Inverse(peak)).init(PARAMS))(jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(gdjax.hyperparams(states)["learning_rate"], [1.0, 2.0])
    one = gdjax.adam(0.25).init(PARAMS)
    assert float(jax.jit(lambda s: gdjax.hyperparams(s)["learning_rate"])(one)) == 0.25


def test_writing_into_and_over_a_schedule():
    opt = gdjax.sgd(Inverse(1.0))
    state = opt.init(PARAMS)
    inside = gdjax.with_hyperparams(state, **{"learning_rate.peak": 3.0})
    assert jax.tree.structure(inside) == jax.tree.structure(state)
    assert float(gdjax.hyperparams(inside)["learning_rate"]) == 3.0
    over = gdjax.with_hyperparams(state, learning_rate=0.125)
    np.testing.assert_allclose(opt.update(PARAMS, over, PARAMS)[0]["head"], -0.125)
    back = gdjax.with_hyperparams(over, learning_rate=Inverse(2.0))
    assert float(gdjax.hyperparams(back)["learning_rate"]) == 2.0


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Box:
    """An array in a box of its own, as Flax has them."""

    value: jax.Array


def test_arrays_in_boxes_are_read_and_written_under_the_same_names():
    box = lambda tree: jax.tree.map(Box, tree)  # noqa: E731
    rate = gdjax.by_path({"head": lambda count: 1.0, r".*": 0.1})
    params = {"head": jnp.ones(2), "body": jnp.ones(2)}
    opt = gdjax.sgd(rate, momentum=0.9)
    plain = opt.init(params)
    boxed = box(plain)._replace(count=plain.count)
    assert gdjax.hyperparams(boxed).keys() == gdjax.hyperparams(plain).keys()
    for values in ({"momentum": 0.5}, {"learning_rate..*": 0.2}):
        new = gdjax.with_hyperparams(boxed, **values)
        assert jax.tree.structure(new) == jax.tree.structure(boxed)
        leaves = jax.tree.leaves(gdjax.with_hyperparams(plain, **values))
        for x, y in zip(jax.tree.leaves(new), leaves, strict=True):
            np.testing.assert_array_equal(x, y)
    assert gdjax.by_path({r"head": 1.0, r".*": 2.0}).per_leaf(("head/value", "body/value")) == [
        1,
        2,
    ]


def test_with_hyperparams_keeps_the_avals_of_a_vmapped_state():
    states = jax.vmap(lambda lr: gdjax.sgd(lr).init(PARAMS))(jnp.array([0.1, 0.2]))
    new = gdjax.with_hyperparams(states, learning_rate=0.5)
    np.testing.assert_allclose(new.hyperparams["learning_rate"], [0.5, 0.5])
    with pytest.raises(ValueError, match="vmap"):
        gdjax.with_hyperparams(gdjax.sgd(0.1).init(PARAMS), learning_rate=jnp.ones(3))


def test_hyperparameters_follow_x64():
    from x64 import enable_x64

    with enable_x64():
        state = gdjax.adam(0.1).init(jnp.ones(2, jnp.float32))
        assert state.hyperparams["b1"].dtype == jnp.float64
        updates, new = gdjax.adam(0.1).update(jnp.ones(2, jnp.float32), state)
        assert updates.dtype == jnp.float32 and new.slots.mu.dtype == jnp.float32


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: gdjax.adam(-1.0), ValueError, r"adam\(learning_rate=\.\.\.\) must be .* got -1"),
        (lambda: gdjax.adam(0.1, b1=1.0), ValueError, r"adam\(b1=\.\.\.\) must be in \[0, 1\)"),
        (lambda: gdjax.adam(0.1, eps=-1e-8), ValueError, r"adam\(eps=\.\.\.\)"),
        (lambda: gdjax.adam(float("nan")), ValueError, "got nan"),
        (lambda: gdjax.adam({"body": -1.0, "head": 1.0}), ValueError, "got -1.0"),
        (lambda: gdjax.adam("fast"), TypeError, "got 'fast'"),
        (lambda: gdjax.adam(True), TypeError, "got True"),
        (lambda: gdjax.by_path({}), ValueError, "at least one rule"),
        (lambda: gdjax.by_path({"(": 1.0}), ValueError, "not a regular expression"),
        (lambda: gdjax.adam(jnp.ones(3)).init(PARAMS), ValueError, r"shape \(3,\).*vmap"),
        (lambda: gdjax.adam({"nose": 1.0}).init(PARAMS), ValueError, "no prefix of the parameters"),
        (lambda: gdjax.adam(gdjax.by_path({"head": 1.0})).init(PARAMS), ValueError, "body/bias"),
        (lambda: gdjax.clip_by_global_norm({"body": 1.0, "head": 1.0}), TypeError, "whole tree"),
        (lambda: gdjax.adam(0.1).init({"n": jnp.arange(3)}), TypeError, "int32 at 'n'"),
        (lambda: gdjax.adam(0.1).init({"a": {"s": "text"}}), TypeError, "str at 'a/s'"),
        (lambda: gdjax.chain(gdjax.adam), TypeError, "forget to call a factory"),
        (lambda: gdjax.sgd(0.1, nesterov=True), ValueError, "needs momentum"),
    ],
)  # fmt: skip
def test_bad_input_is_named(build, error, message):
    with pytest.raises(error, match=message):
        build()


@pytest.mark.parametrize(
    ("grads", "params", "error", "message"),
    [
        ({"body": PARAMS["body"]}, None, ValueError, "tree structure that the state was made for"),
        (PARAMS, {"head": jnp.ones(2)}, ValueError, "same tree structure"),
        (PARAMS, {**PARAMS, "head": jnp.ones(3)}, ValueError, r"float32\[3\].*at 'head'"),
        ({**PARAMS, "head": jnp.arange(2)}, None, TypeError, "gradients must be float .* 'head'"),
    ],
)
def test_gradients_that_do_not_fit_are_named(grads, params, error, message):
    opt = gdjax.adam(0.1)
    with pytest.raises(error, match=message):
        opt.update(grads, opt.init(PARAMS), params)


def test_traced_values_pass_the_checks():
    assert jax.jit(lambda b1: gdjax.hyperparams(gdjax.adam(-b1, b1).init(PARAMS))["b1"])(2.0) == 2.0
