"""optax's wrappers in compat, around and inside those of gdjax; test_state_layouts has the rest."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from parity import falling

import gdjax
from gdjax.compat import optax as compat
from gdjax.core.protocols import took_step

# --- what is masked out ---------------------------------------------------------------------------

PARAMS = {"kernel": jnp.array([1.0, -2.0]), "bias": jnp.array([0.5])}
ON = {"kernel": True, "bias": False}


def test_masked_nodes_are_found():
    state = compat.masked(compat.adam(0.1), ON).init(PARAMS)

    def is_masked(x):
        return isinstance(x, compat.MaskedNode)

    assert isinstance(state, compat.MaskedState)
    found = jax.tree.leaves(state, is_leaf=is_masked)
    assert sum(map(is_masked, found)) == 2
    assert is_masked(state.inner_state[0].mu["bias"])
    assert compat.tree_utils.tree_get(state, "count") == 0
    assert compat.tree_utils.tree_get(state, "mu")["kernel"].shape == (2,)
    assert is_masked(optax.MaskedNode()) is False, "classes of their own"


def test_states_are_found_by_class_in_flattened_trees():
    """As big_vision reads the number of steps."""

    def find(state, kind):
        leaves = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, kind))
        return [x for x in leaves if isinstance(x, kind)]

    tx = compat.chain(
        compat.clip(1.0),
        compat.masked(compat.scale_by_adam(), ON),
        compat.partition(
            {"on": compat.trace(0.9), "off": compat.set_to_zero()}, {"kernel": "on", "bias": "off"}
        ),
        compat.scale_by_schedule(falling),
    )
    _, state = tx.update(PARAMS, tx.init(PARAMS), PARAMS)
    (counted,) = find(state, compat.ScaleByScheduleState)
    (adam,) = find(state, compat.ScaleByAdamState)
    (traced,) = find(state, compat.TraceState)
    assert counted.count == adam.count == 1 and traced.trace["kernel"].shape == (2,)
    assert sorted(state[2].inner_states) == ["off", "on"]


def test_optimizers_of_gdjax_inside_of_a_mask():
    decay = gdjax.by_path({".*bias": 0.0, ".*": 0.1})  # bias is masked out
    for inner in (gdjax.adam(0.1), gdjax.adamw(0.1, weight_decay=decay), gdjax.muon(0.1)):
        tx = compat.masked(inner, ON)
        for update in (tx.update, jax.jit(tx.update)):
            updates, state = update(PARAMS, tx.init(PARAMS), PARAMS)
            if inner.update is gdjax.adam(0.1).update:
                alone = inner.init({"kernel": PARAMS["kernel"]})
                expected = inner.update({"kernel": PARAMS["kernel"]}, alone)[0]["kernel"]
                np.testing.assert_allclose(updates["kernel"], expected, rtol=1e-6)
            np.testing.assert_array_equal(updates["bias"], PARAMS["bias"])
            assert jax.tree.structure(state) == jax.tree.structure(tx.init(PARAMS))
    new = gdjax.apply_updates(PARAMS, {"kernel": updates["kernel"], "bias": compat.MaskedNode()})
    np.testing.assert_array_equal(new["bias"], PARAMS["bias"])
    groups = gdjax.groups({".*kernel": gdjax.sgd(0.1), ".*bias": gdjax.sgd(0.2)})
    state = compat.masked(groups, ON).init(PARAMS)  # the group of the bias is not unused
    assert isinstance(state.inner_state.inner_states[".*bias"], gdjax.State)


def test_a_mask_or_a_label_that_does_not_fit_is_named():
    with pytest.raises(ValueError, match=r"masked\(mask=...\) must be a tree of booleans"):
        compat.masked(compat.adam(0.1), {"kernel": True}).init(PARAMS)
    with pytest.raises(ValueError, match="gives the labels 'b', but transforms has 'a'"):
        compat.partition({"a": compat.adam(0.1)}, lambda params: "b").init(PARAMS)


def test_extra_arguments_are_masked_if_asked_for():
    def update(updates, state, params=None, *, tags, **extra_args):
        return jax.tree.map(jnp.add, updates, tags), state

    inner = compat.GradientTransformationExtraArgs(compat.init_empty_state, update)
    tx = compat.masked(inner, ON, mask_compatible_extra_args=True)
    updates, _ = tx.update(PARAMS, tx.init(PARAMS), tags=PARAMS)
    np.testing.assert_array_equal(updates["kernel"], 2 * PARAMS["kernel"])
    np.testing.assert_array_equal(updates["bias"], PARAMS["bias"])


# --- in some steps only ---------------------------------------------------------------------------


@pytest.mark.parametrize("jit", [False, True])
def test_dtypes_stay_and_only_one_side_runs(jit):
    """In optax, a state or an update of another dtype is an error of `lax.cond`."""

    def update(updates, state, params=None):
        assert updates.dtype == jnp.bfloat16
        return updates.astype(jnp.float32), state.astype(jnp.float16)

    inner = compat.GradientTransformation(lambda params: jnp.zeros(()), update)
    params = jnp.ones(2, jnp.bfloat16)
    for tx in (
        compat.apply_if_finite(inner, 2),
        compat.conditionally_mask(inner, lambda step: step < 1),
        compat.conditionally_transform(inner, lambda step: step < 1),
    ):
        step = jax.jit(tx.update) if jit else tx.update
        updates, state = step(params, tx.init(params))
        assert updates.dtype == jnp.bfloat16 and state.inner_state.dtype == jnp.float32


def test_a_condition_must_be_one_boolean():
    tx = compat.conditionally_mask(compat.scale(1.0), lambda step: jnp.ones(2) > 0)
    with pytest.raises(ValueError, match=r"conditionally_mask\(should_transform_fn=...\)"):
        tx.update(PARAMS, tx.init(PARAMS))


def test_guards_are_read():
    tx = compat.apply_if_finite(gdjax.sgd(0.1), 3)
    _, state = tx.update(jnp.ones(1), tx.init(jnp.ones(1)))
    assert took_step(state)
    _, state = tx.update(jnp.full(1, jnp.nan), state)
    assert not took_step(state) and state.inner_state.count == 1
    averaged = gdjax.average(tx, 0.5)
    _, state = averaged.update(jnp.full(1, jnp.nan), averaged.init(jnp.ones(1)), jnp.ones(1))
    assert state.count == 0, "what the guard leaves out is no step of the average"


def test_no_updates_at_all_stay_none():
    for tx in (compat.add_decayed_weights(0.1), compat.clip(1.0), compat.scale(2.0)):
        assert tx.update(None, tx.init(PARAMS), PARAMS)[0] is None


# --- inside of gdjax's ----------------------------------------------------------------------------


def test_pairs_of_optax_inside_of_gdjax():
    plain, wrapped = gdjax.adam(0.1), compat.adam(0.1)
    for wrap in (
        lambda opt: gdjax.average(opt, 0.9),
        lambda opt: gdjax.groups({".*kernel": opt, ".*": None}),
        lambda opt: gdjax.accumulate(opt, 2),
        lambda opt: gdjax.chain(gdjax.clip(1.0), opt),
    ):
        updates = []
        for opt in (wrap(plain), wrap(wrapped)):
            state = opt.init(PARAMS)
            for _ in range(2):
                given, state = opt.update(PARAMS, state, PARAMS)
            updates.append(given)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5), *updates)


def test_fit_runs_them():
    def loss(params, batch):
        return jnp.mean((batch @ params) ** 2)

    data = jnp.eye(2)
    runs = [
        gdjax.fit(loss, jnp.ones(2), opt, data, steps=4, batch_size=2)
        for opt in (gdjax.adam(0.1), compat.masked(compat.adam(0.1), True))
    ]
    np.testing.assert_allclose(runs[0].params, runs[1].params, rtol=1e-5)


# --- measurements ---------------------------------------------------------------------------------


def test_measurements_keep_the_structure_of_the_state():
    """optax has none before the first update, which `scan` does not take."""
    tx = compat.monitor({"norm": gdjax.tree.norm, "mean": compat.measure_with_ema(jnp.sum, 0.5)})

    def step(state, grad):
        return tx.update(grad, state)[1], None

    state, _ = jax.lax.scan(step, tx.init(jnp.ones(2)), jnp.array([[3.0, 4.0], [6.0, 8.0]]))
    assert compat.tree_utils.tree_get(state, "norm") == 10.0
    np.testing.assert_allclose(state.measurements["mean"], (0.25 * 7 + 0.5 * 14) / 0.75)


def test_a_measure_may_need_an_extra_argument():
    def update(updates, state, params=None, *, value, **extra_args):
        return value, state

    pair = compat.GradientTransformationExtraArgs(compat.init_empty_state, update)
    tx = compat.monitor({"value": pair})
    _, state = tx.update(jnp.ones(1), tx.init(jnp.ones(1)), value=3.0)
    assert state.measurements["value"] == 3.0


def test_files_do_not_hide_functions():
    import gdjax.compat.optax.flatten  # noqa: F401

    assert callable(compat.flatten)
