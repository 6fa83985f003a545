"""Finding, replacing and mapping over what states hold."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax

PARAMS = {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}


def stepped(opt, steps=1):
    state = opt.init(PARAMS)
    for _ in range(steps):
        _, state = opt.update(PARAMS, state, PARAMS)
    return state


def names(found):
    return [jax.tree_util.keystr(path) for path, _ in found]


# --- optax's behaviour on trees that are none of ours ---------------------------------------------

FOREIGN = optax.chain(
    optax.add_noise(0.1, 0.5, key=0),
    optax.inject_hyperparams(optax.adam)(learning_rate=lambda count: 1 / (count + 1)),
    optax.trace(0.9),
)


@pytest.mark.parametrize(
    "key", ["mu", "count", "learning_rate", "ScaleByAdamState", "trace", "hyperparams", "none"]
)
def test_finds_what_optax_finds(key):
    state = FOREIGN.init(PARAMS)
    ours = gdjax.tree.get_all_with_path(state, key)
    theirs = optax.tree.get_all_with_path(state, key)
    assert sorted(names(ours)) == sorted(names(theirs))
    for name, (_, value) in zip(names(ours), ours, strict=True):
        (other,) = (v for (_, v), n in zip(theirs, names(theirs), strict=True) if n == name)
        assert value is other
    kept = [o.tree.get_all_with_path(state, key, _is_array) for o in (gdjax, optax)]
    assert sorted(names(kept[0])) == sorted(names(kept[1]))


def _is_array(path, value):
    return isinstance(value, jax.Array)


def test_parts_of_a_node_come_before_deeper_ones():
    tree = {"a": {"rate": 1, "b": {"rate": 2}}, "c": [{"rate": 3}], "rate": {"rate": 4}}
    expected = optax.tree.get_all_with_path(tree, "rate")
    assert gdjax.tree.get_all_with_path(tree, "rate") == expected
    assert [value for _, value in expected] == [{"rate": 4}, 1, 2, 3, 4]


def test_replaces_what_optax_replaces():
    state = optax.chain(optax.add_noise(0.1, 0.5, key=0), optax.adam(0.1), optax.trace(0.9)).init(
        PARAMS
    )
    new = {"count": jnp.asarray(5, jnp.int32), "mu": jax.tree.map(lambda x: 2 * x, PARAMS)}
    for filtering in (None, _in_adam):
        ours, theirs = (o.tree.set(state, filtering, **new) for o in (gdjax, optax))
        assert jax.tree.structure(ours) == jax.tree.structure(theirs)
        unwrapped = map(gdjax.tree.unwrap_random_key_data, (ours, theirs))
        jax.tree.map(np.testing.assert_array_equal, *unwrapped)
    assert gdjax.tree.set(state, TraceState=1)[2] == optax.tree.set(state, TraceState=1)[2] == 1


def _in_adam(path, value):
    return "ScaleByAdamState" in jax.tree_util.keystr(path)


def test_replaces_all_that_it_finds():
    """Optax leaves Adam's count in FOREIGN as it is: it is nested below another count."""
    state = gdjax.tree.set(FOREIGN.init(PARAMS), count=5)
    found = gdjax.tree.get_all_with_path(state, "count")
    assert len(found) >= 3 and all(count == 5 for _, count in found)


def test_keys_of_dicts_and_defaults():
    tree = {"a": {"b": 1}, "c": [{"b": 2}], 0: 3}
    assert names(gdjax.tree.get_all_with_path(tree, "b")) == ["['a']['b']", "['c'][0]['b']"]
    assert gdjax.tree.get(tree, 0) == 3
    assert gdjax.tree.get(tree, "z") is None and gdjax.tree.get(tree, "z", default=7) == 7
    assert gdjax.tree.set(tree, b=9) == {"a": {"b": 9}, "c": [{"b": 9}], 0: 3}
    with pytest.raises(
        KeyError, match=r"'b' is found 2 times: \['a'\]\['b'\], \['c'\]\[0\]\['b'\]"
    ):
        gdjax.tree.get(tree, "b")
    with pytest.raises(KeyError, match="nothing is named 'z'"):
        gdjax.tree.set(tree, z=1)
    with pytest.raises(KeyError, match="that the filter selects"):
        gdjax.tree.set(tree, lambda path, value: value > 5, b=1)


# --- states of gdjax ------------------------------------------------------------------------------


def test_moments_counts_and_rates_at_any_nesting():
    rate = gdjax.linear_schedule(0.1, 0.0, 10)
    inner = gdjax.chain(gdjax.clip_by_global_norm(1.0), gdjax.adamw(rate, weight_decay=0.1))
    for opt in (inner, gdjax.named_chain(("all", inner)), gdjax.average(inner, 0.9)):
        state = stepped(opt, 2)
        assert gdjax.tree.get(state, "mu")["w"].shape == (2, 3)
        np.testing.assert_allclose(gdjax.tree.get(state, "learning_rate"), 0.08, rtol=1e-6)
        assert gdjax.tree.get(state, "max_norm") == 1.0
        assert gdjax.tree.get(state, "AdamMoments")._fields == ("mu", "nu")
    assert gdjax.tree.get(stepped(inner, 2), "count") == 2
    assert gdjax.tree.get(stepped(gdjax.sgd(0.1), 3), "count") == 3  # the only one is found
    with pytest.raises(KeyError, match="'count' is found 2 times"):
        gdjax.tree.get(stepped(gdjax.chain(gdjax.trace(0.9), gdjax.adam(0.1))), "count")
    jitted = jax.jit(lambda s: gdjax.tree.get(s, "learning_rate"))(stepped(inner, 2))
    np.testing.assert_allclose(jitted, 0.08, rtol=1e-6)


def test_filters_see_the_class():
    state = stepped(gdjax.chain(gdjax.trace(0.9), gdjax.adam(0.1)))

    def in_adam(path, value):
        return jax.tree_util.SequenceKey(1) in path

    assert gdjax.tree.get(state, "count", filtering=in_adam) == 1
    path, _ = gdjax.tree.get_all_with_path(state, "mu")[0]
    assert path[-1] == gdjax.tree.NamedTupleKey("AdamMoments", "mu")
    assert jax.tree_util.keystr(path) == "[1]State.slotsAdamMoments.mu"


def test_rates_per_parameter():
    rates = gdjax.by_path({".*b": 0.0, ".*": 0.1})
    state = gdjax.adamw(0.1, weight_decay=rates, mask={"w": True, "b": False}).init(PARAMS)
    decay = gdjax.tree.get(state, "weight_decay")
    assert [float(x) for x in jax.tree.leaves(decay)] == [0.0, float(jnp.float32(0.1))]


def test_setting_keeps_avals_and_compiles_nothing():
    opt = gdjax.chain(gdjax.clip(1.0), gdjax.adam(0.1))
    state, traces = opt.init(PARAMS), []

    @jax.jit
    def step(state):
        traces.append(1)
        return opt.update(PARAMS, state, PARAMS)[1]

    new = step(gdjax.tree.set(step(state), count=10, learning_rate=0.5, b1=np.float64(0.5)))
    assert len(traces) == 1
    assert gdjax.tree.get(new, "count") == 11
    assert gdjax.hyperparams(new)["learning_rate"] == 0.5
    rate = gdjax.constant_schedule(0.2)
    scheduled = gdjax.tree.set(state, learning_rate=rate)
    np.testing.assert_allclose(gdjax.tree.get(scheduled, "learning_rate"), 0.2)
    moments = gdjax.tree.set(state, mu=jax.tree.map(lambda x: 3 * x, PARAMS))
    np.testing.assert_array_equal(gdjax.tree.get(moments, "mu")["b"], jnp.full(3, 3.0))
    with pytest.raises(ValueError, match=r"tree.set\(learning_rate=...\) must have shape"):
        gdjax.tree.set(state, learning_rate=jnp.ones(3))


# --- map_params -----------------------------------------------------------------------------------

OPTIMIZERS = {
    "adam": gdjax.adam(0.1),
    "chain": gdjax.chain(gdjax.clip(1.0), gdjax.trace(0.9), gdjax.adafactor(0.1)),
    "average": gdjax.average(gdjax.sgd(0.1, momentum=0.9), 0.9),
    "lookahead": gdjax.lookahead(gdjax.adam(0.1)),
    "schedule_free": gdjax.schedule_free_adamw(0.1),
    "numbers": gdjax.adamw(
        {"w": 0.1, "b": gdjax.linear_schedule(0.1, 0.0, 9)},
        weight_decay=0.1,
        mask=lambda params: jax.tree.map(lambda x: x.ndim > 1, params),
    ),
    "by_path": gdjax.sgd(gdjax.by_path({".*b": 0.0, ".*": 0.1}), momentum=0.9),
    "monitor": gdjax.monitor(gdjax.chain(gdjax.ema(0.9), gdjax.sgd(0.1))),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_specs_for_what_is_shaped_like_the_parameters(name):
    opt = OPTIMIZERS[name]
    state = opt.init(PARAMS)
    specs = gdjax.tree.map_params(
        opt,
        lambda leaf, param, spec: (spec, leaf.shape == param.shape),
        state,
        PARAMS,
        {"w": "rows", "b": "all"},
        transform_non_params=lambda x: ("number", x.shape == ()),
    )
    pairs = jax.tree.leaves(
        specs, is_leaf=lambda x: isinstance(x, tuple) and len(x) == 2 and isinstance(x[0], str)
    )
    kinds = [kind for kind, _ in pairs]
    assert len(kinds) == len(jax.tree.leaves(state))
    if name != "chain":  # Adafactor's factors are not shaped like the parameters
        assert all(fits for _, fits in pairs)
        like = [x.shape for x in jax.tree.leaves(state) if x.shape]
        assert kinds.count("rows") == like.count((2, 3)) > 0
        assert kinds.count("all") == like.count((3,)) > 0


def test_mapping_from_init_and_without_a_transform():
    opt = gdjax.adam(0.1)
    state = opt.init(PARAMS)
    doubled = gdjax.tree.map_params(opt.init, lambda x: x + 1, state)
    np.testing.assert_array_equal(doubled.slots.mu["b"], jnp.ones(3))
    assert doubled.count is state.count and doubled.hyperparams["b1"] is state.hyperparams["b1"]
    foreign = optax.adam(0.1)
    theirs = optax.tree.map_params(foreign, lambda x: x + 1, foreign.init(PARAMS))
    ours = gdjax.tree.map_params(foreign, lambda x: x + 1, foreign.init(PARAMS))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
