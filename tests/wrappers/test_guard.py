"""Guards: a skipped step changes nothing but the guard's own counts."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax

PARAMS = {"a": jnp.array([1.0, -2.0]), "b": jnp.array(0.5, jnp.bfloat16)}
NAN = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), PARAMS)
HUGE = jax.tree.map(lambda x: jnp.full_like(x, 1e4), PARAMS)
LARGE = gdjax.skip_large_updates

GUARDS = {
    "apply_if_finite": lambda opt: gdjax.apply_if_finite(opt, 3),
    "skip_not_finite": lambda opt: gdjax.guard(opt, gdjax.skip_not_finite),
    "skip_large_updates": lambda opt: gdjax.guard(opt, LARGE, max_squared_norm=99.0),
    "skip_spikes": lambda opt: gdjax.skip_spikes(opt, min_history=2),
    "skip_spikes, both": lambda opt: gdjax.skip_spikes(opt, min_history=2, watch="both"),
}


def equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("name", GUARDS)
def test_a_skipped_step_leaves_the_state_bit_for_bit(name):
    inner = gdjax.chain(gdjax.clip(5.0), gdjax.average(gdjax.adamw(lambda t: 0.1 / (1 + t))))
    opt = GUARDS[name](inner)
    assert opt.update is GUARDS[name](inner).update
    step = jax.jit(opt.update)
    state, alone = opt.init(PARAMS), inner.init(PARAMS)
    bad = (NAN,) if "finite" in name else (NAN, HUGE)
    with jax.transfer_guard_device_to_host("disallow"):  # nothing waits for the device
        for _ in range(3):
            updates, state = step(PARAMS, state, PARAMS, value=jnp.float32(1.0))
            expected, alone = inner.update(PARAMS, alone, PARAMS)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), updates, expected)
    for grads in bad:
        before = state
        updates, state = step(grads, state, PARAMS, value=jnp.float32(1.0))
        equal(updates, jax.tree.map(jnp.zeros_like, PARAMS))
        equal(state.slots.inner, before.slots.inner)
    assert int(gdjax.skipped_steps({"nested": (state,)})) == len(bad)
    updates, state = step(PARAMS, state, PARAMS, value=jnp.float32(1.0))
    assert updates["a"].all() and int(gdjax.skipped_steps(state)) == len(bad)
    assert step._cache_size() == 1


def test_the_inner_optimizer_does_not_run_on_what_is_skipped():
    calls = []

    def _count(grads, slots, params, count, *, seen):
        jax.debug.callback(seen, count)
        return grads, slots

    opt = gdjax.apply_if_finite(gdjax.treewise(_count, seen=calls.append), 3)
    state = opt.init(PARAMS)
    for grads in (PARAMS, NAN, NAN, PARAMS):
        _, state = opt.update(grads, state)
    jax.effects_barrier()
    assert [int(c) for c in calls] == [1, 2]


# --- not finite ----------------------------------------------------------------------------------


def test_apply_if_finite_never_emits_what_is_not_finite():
    """optax #1746: after the limit optax lets it through, and the parameters are lost."""
    opt, theirs = (
        gdjax.apply_if_finite(gdjax.adam(0.1), 2),
        optax.apply_if_finite(optax.adam(0.1), 2),
    )
    params = {"a": jnp.ones(2), "b": jnp.ones(3)}
    nan = {"a": jnp.array([jnp.inf, 1.0]), "b": jnp.ones(3)}
    state, their_state = opt.init(params), theirs.init(params)
    after = state
    for t, grads in enumerate((params, nan, nan, nan, nan, params)):
        updates, after = opt.update(grads, after)
        their_updates, their_state = theirs.update(grads, their_state)
        assert np.isfinite(jnp.concatenate([*updates.values()])).all()
        slots = after.slots
        assert int(slots.total_notfinite) == int(their_state.total_notfinite)
        assert bool(slots.last_finite) == bool(their_state.last_finite)
        assert int(slots.notfinite_count) == int(their_state.notfinite_count)
        assert bool(slots.gave_up) == (t >= 3)
        if t < 3:
            np.testing.assert_allclose(updates["b"], their_updates["b"], rtol=1e-5)
    assert int(gdjax.skipped_steps(after)) == 4 and int(slots.inner.count) == 2

    through = gdjax.apply_if_finite(gdjax.adam(0.1), 2, let_through=True)
    for grads in (nan, nan, nan):
        updates, state = through.update(grads, state)
    assert np.isnan(updates["a"][0]) and int(gdjax.skipped_steps(state)) == 2


def test_the_tests_are_optax_s():
    rng = np.random.default_rng(0)
    grads = {"w": jnp.asarray(rng.normal(size=(3, 4)), jnp.float32), "z": jnp.zeros((0, 2))}
    bad = grads | {"w": grads["w"].at[1, 1].set(jnp.inf).at[0, 0].set(jnp.nan)}
    for tree in (grads, bad):
        for ours, theirs in (
            (gdjax.skip_not_finite, optax.skip_not_finite),
            (functools.partial(gdjax.skip_large_updates, max_squared_norm=5.0),
             functools.partial(optax.skip_large_updates, max_squared_norm=5.0)),
            (functools.partial(gdjax.skip_large_updates, max_squared_norm=50.0),
             functools.partial(optax.skip_large_updates, max_squared_norm=50.0)),
        ):  # fmt: skip
            mine, yours = ours(tree, 0, tree), theirs(tree, 0, tree)
            assert bool(mine[0]) == bool(yours[0]) and mine[1].keys() == yours[1].keys()
            for key, x in yours[1].items():
                np.testing.assert_allclose(mine[1][key], x, rtol=1e-6)
    half = {"w": jnp.full(10, 300.0, jnp.float16)}
    assert float(gdjax.skip_large_updates(half, 0, None, 1e6)[1]["norm_squared"]) == 9e5
    assert bool(gdjax.skip_large_updates(bad, 0, None, math.inf)[0])  # NaN is too large
    assert not bool(gdjax.skip_not_finite({}, 0)[0])
    with pytest.raises(TypeError, match="needs max_squared_norm"):
        gdjax.skip_large_updates(grads, 0)


def test_tests_of_one_s_own():
    def should_skip(grads, step, params, *, every):
        return step >= every, {"step": step, "params": params}

    opt = gdjax.guard(gdjax.sgd(1.0), should_skip, every=2)
    state = opt.init(PARAMS)
    assert gdjax.hyperparams(state)["every"].dtype == jnp.float32
    for t in range(4):
        updates, state = opt.update(PARAMS, state, PARAMS)
        assert updates["a"].any() == (t < 2)
    state = gdjax.with_hyperparams(state, every=9)
    updates, state = opt.update(PARAMS, state, PARAMS)
    assert updates["a"].any() and int(state.slots.skip_state["step"]) == 2
    assert int(state.slots.in_a_row) == 0 and int(gdjax.skipped_steps(state)) == 2
    with pytest.raises(ValueError, match="must return .a scalar array of dtype bool"):
        gdjax.guard(gdjax.sgd(1.0), lambda g, step, p: (1.0, ())).init(PARAMS)


# --- spikes --------------------------------------------------------------------------------------


def spikes_oracle(values, window, threshold, min_history, min_spread):
    """Return which values are skipped, in NumPy; `values` has a row for each step."""
    history, skipped = [], []
    for now in values:
        last = np.array(history[-window:]).reshape(-1, len(now))
        bad = not np.isfinite(now).all()
        if not bad and len(last) >= min_history:
            median = np.median(last, axis=0)
            mad = np.median(np.abs(last - median), axis=0)
            spread = np.maximum(1.4826 * mad, min_spread * np.abs(median))
            bad = bool(np.any(now > median + threshold * spread))
        if np.isfinite(now).all():
            history.append(now)
        skipped.append(bad)
    return skipped


@pytest.mark.parametrize("watch", ["grad_norm", "value", "both"])
def test_spikes_are_those_of_numpy(watch):
    rng = np.random.default_rng(3)
    norms = np.exp(rng.normal(0, 0.5, 60)).astype(np.float32)
    losses = rng.normal(5, 0.5, 60).astype(np.float32)
    norms[[20, 33]], losses[[25, 33, 40]] = (30.0, np.inf), (40.0, np.nan, -9.0)
    norms[45:] += 20  # a level that stays
    columns = {"grad_norm": [norms], "value": [losses], "both": [norms, losses]}[watch]
    opt = gdjax.skip_spikes(gdjax.sgd(1.0), 3.0, 15, watch=watch, min_history=6, min_spread=0.1)

    def step(state, now):
        norm, loss = now
        updates, state = opt.update(norm[None], state, value=loss)
        return state, updates[0] == 0

    start = opt.init(jnp.ones(1))
    state, skipped = jax.jit(lambda xs: jax.lax.scan(step, start, xs))((norms, losses))
    expected = spikes_oracle(np.stack(columns, 1), 15, 3.0, 6, 0.1)
    assert 2 <= sum(expected) < 30 and not all(expected[45:])
    np.testing.assert_array_equal(skipped, expected)
    assert int(gdjax.skipped_steps(state)) == sum(expected)


def test_spikes_say_what_they_need():
    opt = gdjax.skip_spikes(gdjax.sgd(1.0), watch="value")
    with pytest.raises(TypeError, match="needs the loss"):
        opt.update(PARAMS, opt.init(PARAMS))
    with pytest.raises(ValueError, match="must be one of 'grad_norm', 'value', 'both', got 'loss'"):
        gdjax.skip_spikes(gdjax.sgd(1.0), watch="loss")
    with pytest.raises(ValueError, match="must be an integer >= 1, got 0"):
        gdjax.skip_spikes(gdjax.sgd(1.0), window=0)


def test_lanes_skip_by_themselves():
    opt = gdjax.apply_if_finite(gdjax.adam(0.1), 3)

    def run(scale):
        grads = jnp.array([1.0, 2.0]) / scale
        return opt.update(grads, opt.init(grads))

    updates, state = jax.vmap(run)(jnp.array([1.0, 0.0]))
    np.testing.assert_array_equal(gdjax.skipped_steps(state), [0, 1])
    assert np.isfinite(updates).all() and updates[0].all() and not updates[1].any()


def test_a_guard_keeps_shardings_of_an_explicit_mesh():
    """The step that is left out gives zeros of the type of the gradients."""
    mesh = jax.make_mesh((8,), ("d",), axis_types=(jax.sharding.AxisType.Explicit,))
    with jax.set_mesh(mesh):
        sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("d"))
        params = jax.device_put(jnp.ones((16, 4)), sharding)
        opt = gdjax.apply_if_finite(gdjax.adam(0.1), 3)
        step = jax.jit(lambda state: opt.update(params, state, params))  # gradients are constants
        updates, _ = step(opt.init(params))
        assert updates.sharding.is_equivalent_to(sharding, 2)
        np.testing.assert_allclose(updates, -0.1, rtol=1e-6)
