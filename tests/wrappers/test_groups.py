"""Groups, masks and freezing do what they say."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from parity import MASK, assert_same, falling

import gdjax

PARAMS = {
    "embed": jnp.arange(6.0).reshape(3, 2),
    "layers": [{"bias": jnp.ones(2), "kernel": jnp.full((2, 2), 0.5)}, None],
    "head": {"bias": jnp.array([1.0]), "kernel": jnp.array([3.0, -1.0])},
}
RULES = {r"embed": None, r".*bias": gdjax.sgd(1.0), r".*": gdjax.adam(0.1)}


def leaves_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def nbytes(tree):
    return sum(x.nbytes for x in jax.tree.leaves(tree))


# --- rules ---------------------------------------------------------------------------------------


def test_each_group_is_what_its_optimizer_alone_does():
    opt = gdjax.groups(RULES)
    updates, state = opt.update(PARAMS, opt.init(PARAMS), PARAMS)
    adam = gdjax.adam(0.1)
    kernels = [PARAMS["head"]["kernel"], PARAMS["layers"][0]["kernel"]]
    alone, alone_state = adam.update(kernels, adam.init(kernels))
    leaves_equal([updates["head"]["kernel"], updates["layers"][0]["kernel"]], alone)
    leaves_equal(jax.tree.leaves(state.inner_states[".*"]), jax.tree.leaves(alone_state))
    np.testing.assert_array_equal(updates["head"]["bias"], [-1.0])
    np.testing.assert_array_equal(updates["embed"], jnp.zeros((3, 2)))
    assert updates["layers"][1] is None


def test_frozen_leaves_cost_nothing_and_stay_bit_for_bit():
    params = PARAMS | {"embed": jnp.full((100, 100), jnp.pi)}
    embed = gdjax.by_path({r"embed": True, r".*": False})
    for opt in (
        gdjax.groups({r"embed": None, r".*": gdjax.adam(0.1)}),
        gdjax.selective_transform(gdjax.adam(0.1), freeze_mask=embed),
    ):
        state = opt.init(params)
        rest = {k: v for k, v in params.items() if k != "embed"}
        assert nbytes(state) == nbytes(gdjax.adam(0.1).init(rest))
        grads = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), params)
        updates, _ = opt.update(grads, state, params)  # NaN times 0 would be NaN
        assert not np.any(np.asarray(updates["embed"]))
        leaves_equal(gdjax.apply_updates(params, updates)["embed"], params["embed"])
    assert jax.tree.leaves(gdjax.freeze(True).init(params)) == []


def test_a_leaf_without_a_rule_is_named():
    with pytest.raises(ValueError, match=r"matches the parameter 'layers/0/bias'"):
        gdjax.groups({r"embed": None, r"head/.*": gdjax.sgd(0.1)}).init(PARAMS)
    with pytest.raises(ValueError, match=r"'head/kernel' has the label 'haed', which is none of"):
        gdjax.groups(
            {"rest": None, "head": gdjax.sgd(0.1)},
            gdjax.by_path({r"head/kernel": "haed", r".*": "rest"}),
        ).init(PARAMS)
    with pytest.raises(ValueError, match="no prefix of the parameters"):
        gdjax.partition({"a": gdjax.sgd(0.1)}, {"embed": "a"}).init(PARAMS)
    with pytest.raises(ValueError, match="is not a regular expression"):
        gdjax.groups({"(": gdjax.sgd(0.1)})
    with pytest.raises(ValueError, match="must have at least one group"):
        gdjax.groups({})
    with pytest.raises(
        TypeError, match=r"^groups\(optimizers=...\)\['.\*'\] must be an .init, update. pair"
    ):
        gdjax.groups({".*": gdjax.sgd})
    with pytest.raises(TypeError, match="pair or None, got 'adam'"):
        gdjax.groups({".*": "adam"})


def test_labels_of_every_kind_are_the_same():
    tree = jax.tree.map(lambda x: "flat" if x.ndim == 1 else "square", PARAMS)
    optimizers = {"flat": gdjax.sgd(1.0), "square": gdjax.adam(0.1), "unused": gdjax.lion(0.1)}
    path = gdjax.by_path({r"embed|layers/.*/kernel": "square", r".*": "flat"})
    kinds = (tree, path, lambda params: tree, lambda params: path)
    states = [gdjax.groups(optimizers, labels, allow_unused=True).init(PARAMS) for labels in kinds]
    for state in states[1:]:
        leaves_equal(state, states[0])  # the labels are part of the structure
    with pytest.raises(ValueError, match="has 1 leaves|have 1 leaves"):
        gdjax.groups(optimizers, tree).update(jnp.ones(2), states[0])


def test_one_update_for_all_numbers_and_one_trace():
    make = [
        lambda rate: gdjax.groups({r"embed": None, r".*": gdjax.adam(rate)}),
        lambda rate: gdjax.partition({"a": gdjax.adam(rate)}, lambda params: "a"),
        lambda rate: gdjax.masked(gdjax.adam(rate), gdjax.by_path({r"embed": True, r".*": False})),
        lambda rate: gdjax.selective_transform(gdjax.adam(rate), freeze_mask=lambda params: False),
    ]
    for opt in make:
        assert opt(0.1).update is opt(0.2).update
        traces = []

        @jax.jit
        def step(grads, state, opt=opt, traces=traces):
            traces.append(1)
            return opt(0.1).update(grads, state)

        for rate in (0.1, 0.2):
            step(PARAMS, opt(rate).init(PARAMS))
        assert len(traces) == 1


def test_hyperparameters_have_the_groups_names():
    opt = gdjax.partition(
        {"body": gdjax.adam(1e-3), "head": gdjax.sgd(falling)},
        {"embed": "body", "layers": "body", "head": "head"},
    )
    state = opt.init(PARAMS)
    numbers = gdjax.hyperparams(state)
    assert set(numbers) >= {"body.learning_rate", "head.learning_rate", "b1"}
    np.testing.assert_allclose(numbers["head.learning_rate"], 0.1)
    state = gdjax.with_hyperparams(state, **{"body.learning_rate": 0.0})
    updates, state = opt.update(PARAMS, state)
    np.testing.assert_array_equal(updates["embed"], 0.0 * PARAMS["embed"])
    np.testing.assert_allclose(gdjax.hyperparams(state)["head.learning_rate"], 0.05)


def test_prefix_trees_and_paths_mean_in_a_group_what_they_mean_outside():
    by_part = {"embed": 1.0, "layers": 2.0, "head": 3.0}
    path = gdjax.by_path({r"head/kernel": 0.5, r".*": 0.25})
    opt = gdjax.groups({r".*bias": gdjax.sgd(by_part), r".*": gdjax.sgd(path)})
    updates, _ = opt.update(jax.tree.map(jnp.ones_like, PARAMS), opt.init(PARAMS))
    assert float(updates["layers"][0]["bias"][0]) == -2.0
    assert float(updates["head"]["bias"][0]) == -3.0
    assert float(updates["head"]["kernel"][0]) == -0.5
    assert float(updates["embed"][0, 0]) == -0.25


# --- edge cases ----------------------------------------------------------------------------------


def test_a_group_can_be_started_anew():
    """optax #1371."""
    opt = gdjax.groups({r"head/.*": gdjax.adam(0.1), r".*": gdjax.adam(0.2)})
    state = opt.init(PARAMS)
    step = jax.jit(opt.update)
    for _ in range(3):
        _, state = step(PARAMS, state)
    fresh = opt.init(PARAMS).inner_states["head/.*"]
    reset = state._replace(inner_states=state.inner_states | {"head/.*": fresh})
    _, after = step(PARAMS, reset)
    assert (int(after.inner_states["head/.*"].count), int(after.inner_states[".*"].count)) == (1, 4)
    others = jax.tree.map(lambda x: None, PARAMS)
    leaves_equal(fresh, gdjax.adam(0.1).init(others | {"head": PARAMS["head"]}))
    assert step._cache_size() == 1


def test_groups_in_groups_in_chains_in_masks():
    """optax #271."""
    innermost = gdjax.groups({r"head/.*": None, r".*": gdjax.sgd(0.1)})
    inner = gdjax.groups({r".*bias": gdjax.sgd(1.0), r".*": innermost})
    opt = gdjax.chain(
        gdjax.clip(10.0),
        gdjax.masked(inner, lambda p: {"embed": False, "layers": True, "head": True}),
        gdjax.masked(gdjax.scale(2.0), jax.tree.map(lambda x: x.ndim == 2, PARAMS)),
    )
    ones = jax.tree.map(jnp.ones_like, PARAMS)
    updates, state = jax.jit(opt.update)(ones, opt.init(PARAMS), PARAMS)
    value = jax.tree.map(lambda u: float(u.ravel()[0]), updates)
    assert value == {
        "embed": 2.0,
        "layers": [{"bias": -1.0, "kernel": pytest.approx(-0.2)}, None],
        "head": {"bias": -1.0, "kernel": 0.0},
    }
    updates, again = opt.update(ones, state, PARAMS)
    assert jax.tree.structure(again) == jax.tree.structure(opt.init(PARAMS))


def test_masked_out_leaves_get_the_raw_gradient():
    """optax #159: documented, and the same here."""
    ours = gdjax.masked(gdjax.adam(0.1), {"a": True, "b": False})
    theirs = optax.masked(optax.adam(0.1), {"a": True, "b": False})
    params = {"a": jnp.array([1.0]), "b": jnp.array([0.1 + 0.2])}
    mine, _ = ours.update(params, ours.init(params))
    yours, _ = theirs.update(params, theirs.init(params))
    leaves_equal(mine["b"], params["b"])
    leaves_equal(mine["b"], yours["b"])
    np.testing.assert_allclose(mine["a"], yours["a"], rtol=1e-5)  # optax rounds more


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Model:
    """A callable pytree, as Equinox has them."""

    weight: jax.Array
    bias: jax.Array

    def __call__(self, x):
        raise AssertionError("a pytree of parameters is data; nobody should call it")


def test_callable_pytrees_are_data():
    """optax #1373: as parameters, masks and labels."""
    params = Model(jnp.ones(3), jnp.ones(2))
    mask, labels = Model(True, False), Model("w", "b")
    for opt in (
        gdjax.masked(gdjax.sgd(0.5), mask),
        gdjax.selective_transform(gdjax.sgd(0.5), freeze_mask=mask),
        gdjax.partition({"w": gdjax.sgd(0.5), "b": None}, labels),
        gdjax.partition({"w": gdjax.sgd(0.5), "b": None}, lambda params: labels),
        gdjax.groups({"weight": gdjax.sgd(0.5), "bias": None}),
    ):
        updates, _ = jax.jit(opt.update)(params, opt.init(params), params)
        assert isinstance(updates, Model)
    np.testing.assert_array_equal(updates.weight, jnp.full(3, -0.5))
    np.testing.assert_array_equal(updates.bias, jnp.zeros(2))


def test_foreign_members_and_named_kinds_of_labels():
    opt = gdjax.partition({0: optax.adam(0.1), 1: optax.set_to_zero()}, {"a": 0, "b": {"c": 1}})
    params = {"a": jnp.ones(2), "b": {"c": jnp.ones(3)}}
    updates, state = opt.update(params, opt.init(params), params, value=1.0)
    np.testing.assert_allclose(updates["a"], -0.1, rtol=1e-5)
    assert not updates["b"]["c"].any()
    assert opt.update(params, state, params)[1].labels == state.labels


# --- extras --------------------------------------------------------------------------------------


def _shrink(grads, slots, params, count, *, scales, **extra):
    return jax.tree.map(jnp.multiply, grads, scales), slots


def test_trees_among_the_extras_are_cut_down_if_asked():
    params = {"a": jnp.ones(2), "b": jnp.ones(3)}
    scales = {"a": jnp.full(2, 3.0), "b": jnp.full(3, 5.0)}
    inner = gdjax.treewise(_shrink)
    opt = gdjax.masked(inner, {"a": True, "b": False}, mask_compatible_extra_args=True)
    updates, _ = opt.update(params, opt.init(params), scales=scales)
    leaves_equal(updates, {"a": jnp.full(2, 3.0), "b": jnp.ones(3)})
    opt = gdjax.masked(inner, {"a": True, "b": False})
    with pytest.raises(ValueError):
        opt.update(params, opt.init(params), scales=scales)


def test_functions_of_the_parameters_work_in_a_group():
    """SAM's `grad_fn` is called with its group's parameters and gets the whole tree."""
    params = {"a": jnp.array([1.0, 2.0]), "b": jnp.array([3.0])}

    def loss(p):
        return jnp.sum(p["a"] ** 2) * jnp.sum(p["b"])

    grads = jax.grad(loss)(params)
    sam = gdjax.sam(gdjax.sgd(1.0), gdjax.sam_adversary(0.1), opaque_mode=True)
    opt = gdjax.groups({"a": sam, "b": gdjax.sgd(1.0)})
    step = functools.partial(opt.update, grad_fn=lambda p, i: jax.grad(loss)(p))
    updates, _ = jax.jit(step)(grads, opt.init(params), params)
    climbed = params["a"] + 0.1 * grads["a"] / jnp.linalg.norm(grads["a"])
    np.testing.assert_allclose(updates["a"], -2 * 3 * climbed, rtol=1e-6)
    np.testing.assert_allclose(updates["b"], -5.0)


# --- parity --------------------------------------------------------------------------------------


def test_same_as_optax():
    labels = {k: "a" if on else "b" for k, on in MASK.items()}
    both = [
        lambda lib, only: lib.masked(lib.adam(0.1), MASK),
        lambda lib, only: lib.chain(lib.adam(0.1), only.freeze(MASK)),
        lambda lib, only: only.selective_transform(lib.adam(0.1), freeze_mask=MASK),
        lambda lib, only: lib.partition({"a": lib.adam(falling), "b": lib.sgd(0.1)}, labels),
    ]
    for make in both:
        assert_same(make(gdjax, gdjax), make(optax, optax.transforms), steps=4)


def test_many_leaves_trace_and_stay_cheap():
    """1000 leaves in two groups are as many equations as two optimizers of 500, and no more."""
    params = {f"{i:04}": {"bias": jnp.ones(3), "kernel": jnp.ones((2, 3))} for i in range(500)}
    opt = gdjax.groups({r".*bias": gdjax.sgd(0.1), r".*": gdjax.adam(0.1)})
    jaxpr = jax.make_jaxpr(opt.update)(params, opt.init(params), params)
    assert len(jaxpr.eqns) < 60  # 32 blocks and a few scalars
