"""Loss scaling keeps float16 gradients above 0, and its scale is that of torch and jmp."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax

NUMBERS = dict(init_scale=64.0, growth_interval=3, growth_factor=4.0, backoff_factor=0.25)
BAD = np.array([0, 0, 0, 0, 1, 0, 0, 0, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 1], bool)


def scales_of(bad, init_scale, growth_interval, growth_factor, backoff_factor, min_scale=0.0):
    """Return the scale before each call, by torch's `_amp_update_scale_`."""
    scale, tracker, seen = np.float32(init_scale), 0, []
    for found_inf in bad:
        seen.append(scale)
        if found_inf:
            scale, tracker = max(scale * np.float32(backoff_factor), np.float32(min_scale)), 0
            continue
        tracker += 1
        if tracker == growth_interval:
            with np.errstate(over="ignore"):
                larger = scale * np.float32(growth_factor)
            scale, tracker = larger if np.isfinite(larger) else scale, 0
    return np.array(seen)


@pytest.mark.parametrize("more", [dict(min_scale=0.0), dict(min_scale=2.0)], ids=["torch", "jmp"])
def test_the_scale_is_that_of_the_peers(more):
    opt, inner = gdjax.with_loss_scale(gdjax.adam(0.1), **NUMBERS, **more), gdjax.adam(0.1)
    params = {"x": jnp.array([1.0, -2.0], jnp.float16), "y": jnp.ones(2)}

    def call(carry, bad):
        params, state = carry
        scale = gdjax.loss_scale(state)
        grads = jax.grad(lambda p: scale * jnp.sum(p["x"] ** 2 + p["y"]).astype(jnp.float32))(
            params
        )
        grads["x"] = jnp.where(bad, jnp.inf, grads["x"])
        updates, state = opt.update(grads, state, params)
        params = gdjax.apply_updates(params, updates)
        return (params, state), (scale, params, state)

    carry = params, opt.init(params)
    assert gdjax.loss_scale(carry[1]) == 64
    (_, end), (scales, path, states) = jax.jit(lambda c: jax.lax.scan(call, c, BAD))(carry)
    np.testing.assert_array_equal(scales, scales_of(BAD, **NUMBERS, **more))
    assert int(gdjax.skipped_steps(end)) == BAD.sum() and int(end.count) == (~BAD).sum()

    alone = inner.init(params)
    for t, bad in enumerate(BAD):  # what is left is the optimizer alone, at the good gradients
        if not bad:
            grads = jax.grad(lambda p: jnp.sum(p["x"] ** 2 + p["y"]).astype(jnp.float32))(params)
            updates, alone = inner.update(grads, alone, params)
            params = gdjax.apply_updates(params, updates)
        for k, x in params.items():
            np.testing.assert_array_equal(path[k][t], x)
        if bad:
            both = jax.tree.map(lambda x, t=t: x[t - 1 : t + 1], states.slots.inner)
            assert all((x[0] == x[1]).all() for x in jax.tree.leaves(both))


def test_gradients_are_divided_in_float32():
    """A gradient of 1e-9, which float16 does not have, is one for the optimizer."""
    opt = gdjax.with_loss_scale(gdjax.with_master_weights(gdjax.sgd(1e5)), 2.0**15)
    params = jnp.ones(2, jnp.float16)
    updates, state = opt.update(jnp.full(2, 1e-9 * 2**15, jnp.float16), opt.init(params), params)
    new = gdjax.apply_updates(params, updates)
    np.testing.assert_allclose(gdjax.master_params(state, new), 1 - 1e-4, rtol=1e-6)


def test_the_largest_scale_stays_finite():
    opt = gdjax.with_loss_scale(gdjax.sgd(0.1), 2.0**127, growth_interval=1)
    state = opt.init(jnp.ones(1))
    _, state = opt.update(jnp.ones(1), state)
    assert gdjax.loss_scale(state) == 2.0**127


@pytest.mark.parametrize("outside", [False, True])
def test_accumulation(outside):
    """Inside, a bad gradient is left out; outside, it spoils the step that it is part of."""
    sgd, k = gdjax.sgd(1.0), 2
    opt = (
        gdjax.accumulate(gdjax.with_loss_scale(sgd, 8.0), k)
        if outside
        else gdjax.with_loss_scale(gdjax.accumulate(sgd, k), 8.0)
    )
    params, seen = jnp.zeros(1), []
    state, step = opt.init(params), jax.jit(opt.update)
    for g in (1.0, 3.0, 1.0, np.inf, 5.0, 7.0):
        updates, state = step(jnp.full(1, g) * gdjax.loss_scale(state), state, params)
        seen.append(float(updates[0]))
    assert seen == ([0, -2, 0, 0, 0, -6] if outside else [0, -2, 0, 0, -3, 0])
    assert gdjax.loss_scale(state) == 4 and int(gdjax.skipped_steps(state)) == 1


def test_numbers_and_lanes():
    def lane(init_scale, growth_factor):
        opt = gdjax.with_loss_scale(
            gdjax.sgd(0.1), init_scale, growth_interval=1, growth_factor=growth_factor
        )
        state = opt.init(jnp.ones(2))
        updates, state = opt.update(jnp.full(2, init_scale), state)
        return updates, gdjax.loss_scale(state)

    updates, scales = jax.vmap(lane)(jnp.array([4.0, 8.0]), jnp.array([2.0, 3.0]))
    np.testing.assert_allclose(updates, -0.1, rtol=1e-6)
    np.testing.assert_array_equal(scales, [8, 24])
    state = gdjax.with_loss_scale(gdjax.sgd(0.1), 4.0).init(jnp.ones(2))
    assert gdjax.loss_scale(gdjax.with_hyperparams(state, init_scale=16.0)) == 16


def test_all_devices_agree_about_a_bad_gradient():
    mesh = jax.sharding.Mesh(np.array(jax.devices()), "d")
    placed = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("d"))
    opt = gdjax.with_loss_scale(gdjax.sgd(0.1), 8.0)
    params = jax.device_put(jnp.ones(16, jnp.float16), placed)
    grads = jax.device_put(jnp.ones(16, jnp.float16).at[13].set(jnp.inf), placed)
    updates, state = jax.jit(opt.update)(grads, opt.init(params), params)
    assert not updates.any() and gdjax.loss_scale(state) == 4
    assert int(gdjax.skipped_steps(state)) == 1


def test_a_state_has_one_scale():
    both = {k: gdjax.with_loss_scale(gdjax.sgd(0.1)) for k in "ab"}
    state = gdjax.groups(both).init({"a": jnp.ones(1), "b": jnp.ones(1)})
    with pytest.raises(ValueError, match="2 scales"):
        gdjax.loss_scale(state)


def test_runs_multiply_the_loss_and_report_it_as_it_was():
    """`fit`, `sweep` and `unroll` in float16, where the plain gradient is 0."""

    def loss_fn(params, data):
        return jnp.mean(1e-3 * jnp.square((1e-3 * params.astype(data.dtype) - data) * 1e-1))

    data, start = jnp.full(4, 3e-3, jnp.float16), jnp.float16(1.0)
    inner = gdjax.with_master_weights(gdjax.lion(0.1, weight_decay=0.0))
    assert jax.grad(loss_fn)(start, data) == 0
    scaled = gdjax.with_loss_scale(inner, 2.0**15)
    result = gdjax.fit(loss_fn, start, scaled, data, steps=15)
    assert abs(float(result.params) - 2.5) < 0.01
    np.testing.assert_array_equal(result.history["loss"][0], loss_fn(start, data))
    assert gdjax.fit(loss_fn, start, inner, data, steps=3).params == 1
    swept = gdjax.sweep(loss_fn, start, scaled, {"learning_rate": [0.1, 0.05]}, data, steps=15)
    assert float(swept.params[0]) == float(result.params) != float(swept.params[1])
    assert float(gdjax.unroll(loss_fn, start, scaled, data, steps=15)) == float(result.params)


def test_a_line_search_gets_the_gradient_without_the_scale():
    def loss(x):
        return jnp.sum((x - 3.0) ** 2)

    search = gdjax.chain(gdjax.sgd(1.0), gdjax.scale_by_backtracking_linesearch(20))
    params = jnp.ones(2)
    ends = []
    for opt in (search, gdjax.with_loss_scale(search, 1024.0)):
        state = opt.init(params)
        value, grads = jax.value_and_grad(loss)(params)
        grads = grads * gdjax.loss_scale(state)
        updates, _ = opt.update(grads, state, params, value=value, grad=grads, value_fn=loss)
        ends.append(updates)
    np.testing.assert_allclose(*ends, rtol=1e-6)
    assert ends[0].any()
