"""What fits nothing is an error at `init`, with the paths there are; shapes and kinds agree."""

import enum

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from registry import CASES

import gdjax
from gdjax.core.kinds import kinds_of, shown

PARAMS = {"dense": {"bias": jnp.ones(2), "kernel": jnp.ones((2, 2))}, "scale": jnp.ones(2)}
SGD = gdjax.sgd(0.1)
TYPO = gdjax.by_path({r"bias": 0.0, r".*": 0.1})
FLAGS = gdjax.by_path({r"bias": False, r".*": True})

# --- patterns and labels --------------------------------------------------------------------------

UNUSED = {
    "groups(optimizers=...)": lambda: gdjax.groups({r"bias": None, r".*": SGD}),
    "groups(labels=...)": lambda: gdjax.groups(
        {"a": SGD, "b": None}, gdjax.by_path({"bias": "b", ".*": "a"})
    ),
    "partition(param_labels=...)": lambda: gdjax.partition(
        {"a": SGD, "b": None}, lambda params: gdjax.by_path({"bias": "b", ".*": "a"})
    ),
    "masked(mask=...)": lambda: gdjax.masked(SGD, FLAGS),
    "freeze(mask=...)": lambda: gdjax.freeze(FLAGS),
    "selective_transform(freeze_mask=...)": lambda: gdjax.selective_transform(
        SGD, freeze_mask=FLAGS
    ),
    "adamw(learning_rate=...)": lambda: gdjax.adamw(TYPO),
    "adamw(weight_decay=...)": lambda: gdjax.adamw(0.1, weight_decay=TYPO),
    "adamw(mask=...)": lambda: gdjax.adamw(0.1, mask=FLAGS),
    "muon(weight_decay=...)": lambda: gdjax.muon(0.1, weight_decay=TYPO),
    "muon(muon_weight_dimension_numbers=...)": lambda: gdjax.muon(
        0.1,
        muon_weight_dimension_numbers=gdjax.by_path({"bias": None, ".*": None}),
    ),
    "adam_mini(block_axes=...)": lambda: gdjax.adam_mini(
        0.1, block_axes=gdjax.by_path({"bias": None, ".*": -1})
    ),
    "add_decayed_weights(mask=...)": lambda: gdjax.add_decayed_weights(0.1, FLAGS),
    "with_weight_decay(mask=...)": lambda: gdjax.with_weight_decay(SGD, 0.1, mask=FLAGS),
    "hyperball(mask=...)": lambda: gdjax.hyperball(SGD, 0.1, mask=FLAGS),
    "lars(weight_decay_mask=...)": lambda: gdjax.lars(0.1, weight_decay_mask=FLAGS),
    "lars(trust_ratio_mask=...)": lambda: gdjax.lars(0.1, trust_ratio_mask=FLAGS),
    "adafactor(weight_decay_mask=...)": lambda: gdjax.adafactor(
        0.1, weight_decay_rate=0.1, weight_decay_mask=FLAGS
    ),
    "qk_clip(head_axis=...)": lambda: gdjax.qk_clip(SGD, gdjax.by_path({"bias": None, ".*": None})),
    "lbfgsb(lower=...)": lambda: gdjax.lbfgsb(TYPO, None),
}


@pytest.mark.parametrize("what", UNUSED)
def test_a_pattern_that_matches_nothing(what):
    with pytest.raises(ValueError) as error:
        jax.eval_shape(UNUSED[what]().init, PARAMS)
    text = str(error.value)
    assert text.startswith(f"{what}: the pattern 'bias' matches no parameter"), text
    # the nearest path first
    assert "the paths are 'dense/bias', " in text and "'dense/kernel'" in text, text
    assert "allow_unused=True" in text


def test_a_pattern_in_a_projection():
    tree = {"w": jnp.ones(2)}
    with pytest.raises(ValueError, match=r"projection_box\(lower=...\): the pattern 'v' matches"):
        gdjax.projections.projection_box(tree, gdjax.by_path({"v": 0.0, ".*": None}), 1.0)
    with pytest.raises(ValueError, match="the pattern 'v' matches no parameter.*'w'"):
        gdjax.proximal.prox_lasso(tree, gdjax.by_path({"v": 0.0, ".*": 1.0}))


def test_a_pattern_after_one_that_matches_all():
    rules = gdjax.by_path({r".*": 0.1, r".*bias": 0.0})
    with pytest.raises(ValueError, match=r"'.\*bias' is never used.*'dense/bias' matches '.\*'"):
        gdjax.sgd(rules).init(PARAMS)


def test_the_last_rule_may_be_left_with_nothing():
    whole = {r"dense/.*": 0.1, r"scale": 0.2, r".*": 0.3}
    gdjax.sgd(gdjax.by_path(whole)).init(PARAMS)
    gdjax.groups({k: gdjax.sgd(v) for k, v in whole.items()}).init(PARAMS)
    with pytest.raises(ValueError, match="'none' matches no parameter"):
        gdjax.sgd(gdjax.by_path({"none": 0.4} | whole)).init(PARAMS)


def test_recipes_for_several_models_may_have_unused_rules():
    rules = gdjax.by_path({r".*bias": 0.0, r"nowhere": 0.2, r".*": 0.1}, allow_unused=True)
    state = gdjax.sgd(rules).init(PARAMS)
    assert gdjax.with_hyperparams(state, learning_rate=rules)  # is still a recipe in a state
    optimizers = {r"nowhere": None, r".*": SGD}
    gdjax.groups(optimizers, allow_unused=True).init(PARAMS)
    labels = {"dense": "a", "scale": "a"}
    gdjax.partition({"a": SGD, "b": None}, labels, allow_unused=True).init(PARAMS)


def test_a_group_without_parameters():
    with pytest.raises(
        ValueError,
        match=r"^partition\(param_labels=...\): no parameter is in the group 'head'.*'body'",
    ):
        gdjax.partition({"body": SGD, "head": None}, lambda params: "body").init(PARAMS)


def test_the_nearest_group_is_named_first():
    with pytest.raises(ValueError, match="'haed', which is none of the groups 'head', 'body'"):
        gdjax.partition({"body": SGD, "head": SGD}, lambda params: "haed").init(PARAMS)


def test_rules_inside_of_a_group_may_be_for_all_parameters():
    decay = gdjax.by_path({r".*bias": 0.0, r".*": 0.1})
    rest = gdjax.adamw(0.1, weight_decay=decay)
    gdjax.groups({r".*kernel": gdjax.adamw(0.2, weight_decay=decay), r".*": rest}).init(PARAMS)
    inner = gdjax.groups({r".*bias": None, r".*": SGD})
    gdjax.masked(inner, gdjax.by_path({r".*bias": False, r".*": True})).init(PARAMS)
    with pytest.raises(ValueError, match="'typo' matches no parameter"):
        wrong = gdjax.adamw(0.1, weight_decay=gdjax.by_path({"typo": 0.0, ".*": 0.1}))
        gdjax.groups({r".*kernel": wrong, r".*": SGD}).init(PARAMS)


def test_trees_without_leaves_have_no_unused_rules():
    for empty in ({}, {"a": None}):
        gdjax.sgd(TYPO).init(empty)
        gdjax.groups({r"bias": None, r".*": SGD}).init(empty)


# --- masks and booleans ---------------------------------------------------------------------------

NO_BOOLEANS = ["no", 1, 0, 1.0, float("nan"), object(), jnp.ones(()), np.array([True, False])]


@pytest.mark.parametrize("value", NO_BOOLEANS, ids=shown)
def test_masks_are_booleans(value):
    mask = {"dense": value, "scale": True}
    for make in (
        lambda m: gdjax.adamw(0.1, mask=m),
        lambda m: gdjax.masked(SGD, m),
        lambda m: gdjax.freeze(m),
        lambda m: gdjax.sophia(0.1, weight_decay_mask=m),
    ):
        with pytest.raises(TypeError, match=r"mask=...\) must be True or False, a tree of those"):
            make(mask)
        with pytest.raises(TypeError, match=r"mask=...\) must give True or False .* 'dense/bias'"):
            jax.eval_shape(make(lambda params: mask).init, PARAMS)
    with pytest.raises(TypeError, match=r"nesterov=...\) must be True or False"):
        gdjax.adam(0.1, nesterov=value)


def test_masks_of_numpy_booleans_and_over_none():
    params = {"a": jnp.ones(2), "b": None}
    mask = {"a": np.bool_(True), "b": None}
    for opt in (gdjax.adamw(0.1, mask=mask), gdjax.masked(SGD, mask)):
        opt.update(params, opt.init(params), params)
    with pytest.raises(TypeError, match="must give True or False .* got None at 'b'"):
        gdjax.masked(SGD, mask).init({"a": jnp.ones(2), "b": jnp.ones(2)})


# --- gradients that do not fit the state ----------------------------------------------------------

MATRICES = {"b": jnp.ones(2), "w": jnp.ones((3, 2))}
WRONG = {
    "other shape": {"b": jnp.ones(3), "w": jnp.ones((3, 2))},
    "broadcasts": {"b": jnp.ones((4, 2)), "w": jnp.ones((3, 2))},
    "complex": {"b": jnp.ones(2, complex), "w": jnp.ones((3, 2))},
    "integers": {"b": jnp.ones(2, int), "w": jnp.ones((3, 2))},
    "other tree": [jnp.ones(2), jnp.ones((3, 2))],
    "a leaf missing": {"w": jnp.ones((3, 2))},
}


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_gradients_of_another_kind_than_the_state(case):
    opt = case.make(**case.numbers)
    state = jax.eval_shape(opt.init, MATRICES)
    flat = {k: np.asarray(x) for k, x in MATRICES.items()}
    extras = case.extras(flat, flat, 1)
    for what, grads in WRONG.items():
        with pytest.raises((ValueError, TypeError)) as error:
            jax.eval_shape(lambda s, g: opt.update(g, s, MATRICES, **extras), state, grads)
        last = error.traceback[-1].path
        assert "gdjax" in str(last), f"{what}: {last}: {error.value}"


def test_without_parameters_the_state_says_what_fits():
    opt = gdjax.adam(0.1)
    state = opt.init(MATRICES)
    for what, message in {
        "other shape": r"adam: the gradient at 'b' is float32\[3\].*float32\[2\].*Call init",
        "broadcasts": r"adam: .*float32\[4, 2\].*does not fit.*state",
        "complex": r"adam: a gradient complex64\[2\] does not fit the state",
        "integers": r"adam: the gradients must be float",
        "other tree": r"adam: .*tree structure",
    }.items():
        with pytest.raises((ValueError, TypeError), match=message):
            opt.update(WRONG[what], state)
    one = opt.init(jnp.ones(1))
    with pytest.raises(ValueError, match=r"adam: .*does not fit the state, whose slot"):
        opt.update(jnp.ones(3), one)


# --- leaves of other kinds ------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_numbers_of_python_are_parameters(case):
    numbers = {"a": 1.5, "b": 2.0}
    flat = {k: np.float32(x) for k, x in numbers.items()}
    extras = case.extras(flat, flat, 1)
    opt = case.make(**case.numbers)

    def step(params):
        updates, _ = opt.update({"a": 0.1, "b": 0.1}, opt.init(params), params, **extras)
        return gdjax.apply_updates(params, updates)

    new = jax.eval_shape(lambda: step(numbers))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), new) == dict.fromkeys(
        numbers, ((), jnp.float32)
    )


class Group(enum.Enum):
    BODY = 1
    HEAD = 2


@pytest.mark.parametrize("labels", [(Group.BODY, Group.HEAD), (0, "a"), (("x", 1), None)])
def test_frozen_integers_and_labels_of_any_hashable_kind(labels):
    moving, fixed = labels
    params = {"n": jnp.arange(3), "w": jnp.ones(2)}
    grads = jax.grad(lambda p: jnp.sum(p["w"] ** 2), allow_int=True)(params)
    kinds = {"n": fixed, "w": moving}
    mask = {"n": True, "w": False}
    for opt in (
        gdjax.partition({moving: gdjax.adam(0.1), fixed: None}, lambda params: kinds),
        gdjax.groups({moving: gdjax.adam(0.1), fixed: None}, lambda params: kinds),
        gdjax.selective_transform(gdjax.adam(0.1), freeze_mask=mask),
        gdjax.chain(gdjax.masked(gdjax.adam(0.1), {"n": False, "w": True}), gdjax.freeze(mask)),
    ):
        if fixed is None and opt.update.__name__ in ("partition", "groups"):
            continue  # None in a tree of labels is no label
        state = opt.init(params)
        updates, _ = jax.jit(opt.update)(grads, state, params)
        assert updates["n"].dtype == jax.dtypes.float0
        np.testing.assert_allclose(updates["w"], -0.1, rtol=1e-5)


def test_slow_copies_keep_integers_keys_and_none():
    old = {"f": 0.0, "i": jnp.zeros(3, int), "k": jax.random.key(0), "n": None}
    new = {"f": 1.0, "i": jnp.arange(3), "k": jax.random.key(1), "n": None}
    mixed = gdjax.incremental_update(new, old, 0.25)
    assert mixed["f"] == 0.25 and mixed["n"] is None
    for due, copy in ((3, old), (4, new)):
        copied = gdjax.periodic_update(new, old, due, 2)
        assert copied["f"] == copy["f"] and (copied["i"] == copy["i"]).all()
        assert (jax.random.key_data(copied["k"]) == jax.random.key_data(copy["k"])).all()
    for name in ("i", "k"):  # they have no mean
        assert mixed[name].dtype == old[name].dtype
    np.testing.assert_array_equal(mixed["i"], new["i"])
    for wrong in ({**new, "f": jnp.ones(2)}, {**new, "f": "a"}, {"f": 1.0}):
        for call in (
            lambda x: gdjax.incremental_update(x, old, 0.5),
            lambda x: gdjax.periodic_update(x, old, 2, 2),
        ):
            with pytest.raises((ValueError, TypeError), match=r"_update\(new_tensors=..."):
                call(wrong)


@pytest.mark.parametrize("name", ["bfloat16", "float16", "float32", "float8_e4m3fn", "float8_e5m2"])
def test_dtypes_of_slots_work_or_are_refused(name):
    if "8" in name:
        with pytest.raises(TypeError, match="real floating dtype of at least 16 bits"):
            gdjax.adam(0.1, mu_dtype=name)
        small = gdjax.with_slot_dtypes(gdjax.adam(0.1), mu=name, min_size=0)  # with scales
        assert small.init(jnp.ones(2)).mu.codes.dtype == name
        with pytest.raises(
            TypeError, match="adam: the parameters must be of at least 16 bits.*float8.* at 'w'"
        ):
            gdjax.adam(0.1).init({"w": jnp.ones(2, name)})
        return
    opt = gdjax.with_slot_dtypes(gdjax.adam(0.1), mu=name)
    updates, state = opt.update(jnp.ones(2), opt.init(jnp.ones(2)))
    assert state.slots.mu.dtype == name and jnp.isfinite(updates).all()


# --- annotations ----------------------------------------------------------------------------------


def test_kinds_are_read_from_annotations():
    def accepts(annotation, value):
        return any(kind.holds(value) for kind in kinds_of(annotation, globals()))

    assert accepts("tuple[float, float]", (1.0, 2)) and not accepts("tuple[float, float]", (1.0,))
    assert accepts("Sequence[int] | int", [1, 2]) and not accepts("Sequence[int] | int", [1, "a"])
    assert accepts("Literal['a', 'b'] | None", None) and not accepts("Literal['a', 'b']", "c")
    assert accepts("Callable[[int | str], bool]", len)
    assert accepts("Pair", optax.sgd(0.1)) and not accepts("Pair", gdjax.sgd)
    assert kinds_of("Unknown | int", globals()) == ()  # checked where it is used
