"""Where transforms go wrong elsewhere: low precision, zeros, NaN, other layouts; and the papers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from x64 import enable_x64

import gdjax


def once(opt, grads, params=None, **extra):
    return opt.update(grads, opt.init(grads if params is None else params), params, **extra)[0]


# --- float64, from the papers ---------------------------------------------------------------------


def test_adaptive_clipping_is_the_papers():
    """Brock et al. (2021), equation 3, for each output unit i of a kernel (in, out)."""
    rng = np.random.default_rng(0)
    with enable_x64():
        w, g = rng.normal(size=(5, 4)), rng.normal(size=(5, 4))
        w[:, 2] = 0.0
        expected = g.copy()
        for i in range(4):
            bound, norm = 0.3 * max(np.linalg.norm(w[:, i]), 0.05), np.linalg.norm(g[:, i])
            if norm > bound:
                expected[:, i] *= bound / norm
        actual = once(gdjax.adaptive_grad_clip(0.3, eps=0.05), jnp.asarray(g), jnp.asarray(w))
        np.testing.assert_allclose(actual, expected, rtol=1e-12)
        conv = rng.normal(size=(2, 2, 3, 4))
        norms = gdjax.transforms.unitwise_norm(jnp.asarray(conv))
        by_unit = np.sqrt((conv.reshape(-1, 4) ** 2).sum(0))
        np.testing.assert_allclose(norms, np.broadcast_to(by_unit, conv.shape), rtol=1e-12)


def test_centralized_gradients_have_mean_zero():
    """Yong et al. (2020), equation 1, over all axes but the first."""
    g = np.random.default_rng(1).normal(size=(3, 4, 2))
    with enable_x64():
        out = once(gdjax.centralize(), jnp.asarray(g))
        np.testing.assert_allclose(out, g - g.mean((1, 2), keepdims=True), atol=1e-15)
    assert once(gdjax.centralize(), jnp.ones((2, 0))).shape == (2, 0)


def test_layer_wise_distance_over_gradients_is_the_papers():
    """Ivgi et al. (2023), Algorithm 1 with the whole array as one layer, for 20 steps."""
    rng = np.random.default_rng(2)
    with enable_x64():
        x = rng.normal(size=(3, 2))
        opt = gdjax.scale_by_distance_over_gradients(0.01, 1e-3, jnp.float64, -1.0)
        params = jnp.asarray(x)
        state, start, r, total = opt.init(params), x.copy(), 0.01 * (1 + np.linalg.norm(x)), 0.0
        for _ in range(20):
            g = x - 1.0 + 0.1 * rng.normal(size=x.shape)
            r, total = max(r, np.linalg.norm(x - start)), total + np.sum(g**2)
            x = x - r / np.sqrt(total + 1e-3) * g
            updates, state = opt.update(jnp.asarray(g), state, params)
            params = gdjax.apply_updates(params, updates)
            np.testing.assert_allclose(params, x, rtol=1e-12)


# --- low precision --------------------------------------------------------------------------------


def test_norms_of_low_precision_gradients_are_float32():
    half = {str(i): jnp.full(1, 300.0, jnp.float16) for i in range(10)}
    out = once(gdjax.normalize_by_update_norm(1.0, eps=0.0), half)
    np.testing.assert_allclose([x[0] for x in out.values()], np.sqrt(0.1), rtol=1e-3)  # float16
    np.testing.assert_allclose(
        once(gdjax.clip_by_block_rms(100.0), jnp.full(10, 300.0, jnp.float16)), 100.0, rtol=1e-3
    )
    small = jnp.full(10**4, 1e-4, jnp.float16)  # the squares are 0 in float16
    np.testing.assert_allclose(
        once(gdjax.clip_by_block_rms(5e-5), small), jnp.full(10**4, 5e-5), rtol=0.02
    )  # subnormal in float16: steps of 6e-8
    many = jnp.ones((1000, 1), jnp.bfloat16)
    total, clipped = gdjax.per_example_global_norm_clip(many, 1.0)
    assert total[0] == 1000 and clipped == 0 and total.dtype == jnp.bfloat16  # 256 in bfloat16
    weights = jnp.full((1000, 1), 300.0, jnp.float16)
    norms = gdjax.transforms.unitwise_norm(weights)
    np.testing.assert_allclose(norms, 300 * np.sqrt(1000), rtol=1e-6)


def test_running_means_of_low_precision_gradients_do_not_stall():
    opt = gdjax.ema(0.999, debias=False)
    step = jax.jit(lambda state: opt.update(jnp.ones(1, jnp.bfloat16), state)[1])
    state = jax.lax.fori_loop(0, 3000, lambda _, s: step(s), opt.init(jnp.ones(1, jnp.bfloat16)))
    np.testing.assert_allclose(gdjax.tree.get(state, "ema"), 1 - 0.999**3000, rtol=1e-4)


# --- zeros, NaN, infinities -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "opt",
    [
        gdjax.clip_by_global_norm(0.0),
        gdjax.clip_by_block_rms(0.0),
        gdjax.normalize_by_update_norm(eps=0.0),
        gdjax.adaptive_grad_clip(0.0, eps=0.0),
        gdjax.scale_by_distance_over_gradients(),
    ],
    ids=["global", "block", "normalize", "adaptive", "distance"],
)
def test_a_zero_gradient_stays_zero(opt):
    zeros = {"a": jnp.zeros(3), "b": jnp.zeros((0, 2)), "c": jnp.zeros(())}
    out = once(opt, zeros, zeros)
    assert all(bool((x == 0).all()) for x in jax.tree.leaves(out))


def test_distance_over_gradients_of_a_negative_gradient_is_finite():
    opt = gdjax.scale_by_distance_over_gradients(eps=0.0)
    out = once(opt, jnp.full(2, -3.0), jnp.ones(2))
    assert (out < 0).all() and jnp.isfinite(out).all()


def test_nan_goes_out_and_is_reported():
    opt = gdjax.zero_nans()
    grads = {"a": jnp.array([jnp.nan, jnp.inf, 2.0]), "z": jnp.array([1j, complex("nan")])}
    updates, state = opt.update(grads, opt.init(grads))
    np.testing.assert_array_equal(updates["a"], [0, np.inf, 2])
    np.testing.assert_array_equal(updates["z"], [1j, 0])
    updates, state = opt.update({"a": jnp.ones(3), "z": grads["z"]}, state)
    assert {k: bool(x) for k, x in gdjax.tree.get(state, "found_nan").items()} == {
        "a": False, "z": True,
    }  # fmt: skip
    np.testing.assert_array_equal(once(gdjax.set_to_zero(), grads)["a"], np.zeros(3))


def test_a_nan_does_not_stay_in_what_is_gathered():
    opt = gdjax.apply_every(2)
    state = opt.init(jnp.ones(1))
    out = []
    for grad in (jnp.nan, 1.0, 2.0, 3.0):
        updates, state = opt.update(jnp.full(1, grad), state)
        out.append(float(updates[0]))
    np.testing.assert_array_equal(out, [0, np.nan, 0, 5])


def test_how_many_are_gathered_is_data():
    def total(k):
        opt = gdjax.apply_every(k)
        _, out = jax.lax.scan(lambda s, g: opt.update(g, s)[::-1], opt.init(jnp.ones(())), grads)
        return out

    grads = jnp.arange(1.0, 7.0)
    np.testing.assert_array_equal(
        jax.vmap(total)(jnp.array([2.0, 3.0])), [[0, 3, 0, 7, 0, 11], [0, 0, 6, 0, 0, 15]]
    )
    with pytest.raises(ValueError, match=r"apply_every\(k=...\) must be a whole number"):
        gdjax.apply_every(2.5)


def test_parameters_stay_nonnegative_in_low_precision():
    rng = np.random.default_rng(4)
    params = jnp.asarray(rng.uniform(0, 1, 2000), jnp.bfloat16)
    updates = once(
        gdjax.keep_params_nonnegative(), jnp.asarray(rng.normal(size=2000), jnp.bfloat16), params
    )
    assert (gdjax.apply_updates(params, updates) >= 0).all()
    moved = once(gdjax.keep_params_nonnegative(), updates, -params)
    assert (gdjax.apply_updates(-params, moved) >= 0).all()
    with pytest.raises(TypeError, match="must be real|needs real"):
        once(gdjax.keep_params_nonnegative(), jnp.ones(1, complex), jnp.ones(1, complex))


# --- conditions and layouts -----------------------------------------------------------------------


def test_a_condition_runs_the_inner_optimizer_only_when_it_holds():
    ran = []

    def count(updates, params):
        jax.debug.callback(lambda: ran.append(1))
        return updates

    opt = gdjax.conditionally_mask(
        gdjax.chain(gdjax.stateless(count), gdjax.sgd(1.0, momentum=0.5)),
        lambda step: step % 3 == 0,
    )
    step, state, seen = jax.jit(opt.update), opt.init(jnp.ones(1)), []
    for _ in range(7):
        updates, state = step(jnp.ones(1), state)
        seen.append(float(updates[0]))
    jax.effects_barrier()
    assert len(ran) == 3
    np.testing.assert_allclose(seen, [-1, 0, 0, -1.5, 0, 0, -1.75])
    with pytest.raises(ValueError, match="must return one boolean"):
        bad = gdjax.conditionally_mask(gdjax.sgd(1.0), lambda step: jnp.ones(2) > step)
        once(bad, jnp.ones(1))


def test_flattening_keeps_dtypes_apart_and_ignores_order():
    params = {
        "z": jnp.array([1 + 1j, 2.0]),
        "a": jnp.ones((2, 2), jnp.bfloat16),
        "n": None,
        "b": jnp.full(3, 2.0),
    }
    opt = gdjax.flatten(gdjax.chain(gdjax.trace(0.5), gdjax.scale(-1.0)))
    state = opt.init(params)
    kinds = {k: x.shape for k, x in gdjax.tree.get(state, "trace").items()}
    assert kinds == {"complex64": (2,), "float32": (7,)}
    updates, state = opt.update(params, state, params)
    jax.tree.map(lambda u, p: np.testing.assert_array_equal(u, -p), updates, params)
    assert jax.tree.map(lambda u: u.dtype, updates) == jax.tree.map(lambda p: p.dtype, params)
    vector = gdjax.flatten(gdjax.sgd(0.1, momentum=0.9)).init({"b": params["b"], "a": params["a"]})
    assert gdjax.tree.get(vector, "trace").shape == (7,)


def test_stacks_of_small_like_parameters_change_no_elementwise_rule():
    shapes = [(2, 3)] * 5 + [(70, 70), (), (70, 70), (3, 2)]
    params = [jnp.asarray(np.random.default_rng(i).normal(size=s)) for i, s in enumerate(shapes)]
    params = {f"{i}": x.astype(jnp.float32) for i, x in enumerate(params)}
    plain = gdjax.chain(gdjax.clip_by_global_norm(0.5), gdjax.adamw(0.1))
    stacked, ends = gdjax.flatten(plain, block=2), []
    mu = stacked.init(params).slots[1].slots.mu
    assert [x.shape for x in mu] == [(2, 2, 3), (2, 2, 3), (2, 3), (70, 70), (), (70, 70), (3, 2)]
    for opt in (plain, stacked):
        p, state = params, opt.init(params)
        for _ in range(3):
            grads = {k: jnp.sin(3 * x) for k, x in p.items()}
            updates, state = opt.update(grads, state, p)
            p = gdjax.apply_updates(p, updates)
        ends.append(p)
    for k in params:  # the norm is summed in another order
        np.testing.assert_allclose(ends[0][k], ends[1][k], rtol=1e-6, atol=1e-7)
    with pytest.raises(ValueError, match="must be an integer >= 2, got 1"):
        gdjax.flatten(plain, block=1)


def test_the_same_function_gives_the_same_update():
    def half(updates, params):
        return jax.tree.map(lambda u: u / 2, updates)

    assert gdjax.stateless(half).update == gdjax.stateless(half).update
    parts = [gdjax.monitor({"half": gdjax.tree.norm}), gdjax.snapshot("x", half)]
    again = [gdjax.monitor({"half": gdjax.tree.norm}), gdjax.snapshot("x", half)]
    assert [a.update for a in parts] == [b.update for b in again]
    seen = []
    opt = gdjax.stateless(lambda u, p: (seen.append((u.dtype, p.dtype)), u)[1])
    once(opt, jnp.ones(1, jnp.bfloat16), jnp.ones(1, jnp.bfloat16))
    assert seen == [(jnp.float32, jnp.bfloat16)]


def test_measurements_keep_their_avals_from_init_on():
    opt = gdjax.monitor({"pair": lambda g: {"n": gdjax.tree.norm(g), "any": g["w"] > 0}, "c": len})
    params = {"w": jnp.ones(2, jnp.bfloat16)}
    state = opt.init(params)
    _, new = jax.jit(opt.update)(params, state, params)
    assert jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), state) == jax.tree.map(
        lambda x: (x.shape, x.dtype, x.weak_type), new
    )
    assert gdjax.metrics(new)["c"] == 1
    assert jax.eval_shape(opt.init, params) == jax.eval_shape(lambda: state)


# --- functions ------------------------------------------------------------------------------------


def test_scaling_gradients_is_transformable():
    def loss(c, x):
        return jnp.sum(gdjax.scale_gradient({"x": x, "i": jnp.arange(2)}, c)["x"] ** 2)

    slopes = jax.jit(jax.vmap(jax.grad(loss, 1), (0, None)))(jnp.array([-1.0, 0.5]), jnp.ones(2))
    np.testing.assert_allclose(slopes, [[-2, -2], [1, 1]])
    assert jax.grad(loss)(0.5, jnp.ones(2)) == 0
    stopped = jax.grad(lambda x: jnp.sqrt(gdjax.scale_gradient(x, 0.0)))(0.0)
    assert stopped == 0  # infinity times 0 would be NaN
    half = jax.grad(lambda x: gdjax.scale_gradient(x, 3.0) ** 2)(jnp.asarray(2.0, jnp.bfloat16))
    assert half == 12 and half.dtype == jnp.bfloat16


def test_a_slow_copy_in_low_precision():
    new, old = jnp.ones(1, jnp.bfloat16), jnp.zeros(1, jnp.float32)
    for _ in range(1000):
        old = gdjax.incremental_update(new, old, 1e-3)
    assert old.dtype == jnp.float32
    np.testing.assert_allclose(old, 1 - 0.999**1000, rtol=1e-4)


def test_errors_say_what_to_do():
    with pytest.raises(ValueError, match="examples along their first axis"):
        gdjax.per_example_global_norm_clip([jnp.ones((2, 3)), jnp.ones(3)], 1.0)
    with pytest.raises(ValueError, match=r"needs axis=\(...\) for arrays of more than 5 axes"):
        gdjax.transforms.unitwise_norm(jnp.ones((2,) * 6))
    with pytest.raises(ValueError, match="of one shape"):
        gdjax.transforms.unitwise_clip(jnp.ones(2), jnp.ones(1), jnp.ones(2))
    with pytest.raises(ValueError, match=r"ema\(decay=...\) must be in \[0, 1\), got 1.0"):
        gdjax.ema(1.0)
    for opt in (gdjax.adaptive_grad_clip(0.1), gdjax.keep_params_nonnegative()):
        with pytest.raises(ValueError, match=r"needs the parameters: call update"):
            opt.update(jnp.ones(1), opt.init(jnp.ones(1)))
