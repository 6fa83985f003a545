"""The transforms give what optax's give on random inputs, over several steps."""

import inspect
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax

# Six axes' worth of shapes: what unit-wise norms, centralization and layouts go by.
SHAPES = {"s": (), "v": (5,), "row": (1, 6), "m": (4, 3), "heads": (2, 3, 2), "conv": (2, 2, 3, 2)}

# name -> arguments; the factory of that name is called with them in both libraries.
SAME = {
    "adaptive_grad_clip": [dict(clipping=0.3), dict(clipping=0.05, eps=0.5)],
    "apply_every": [dict(k=3), dict()],
    "centralize": [dict()],
    "clip": [dict(max_delta=0.5)],
    "clip_by_block_rms": [dict(threshold=0.7)],
    "clip_by_global_norm": [dict(max_norm=2.0), dict(max_norm=100.0)],
    "ema": [dict(decay=0.9), dict(decay=0.5, debias=False)],
    "keep_params_nonnegative": [dict()],
    "normalize_by_update_norm": [dict(), dict(scale_factor=-2.0, eps=0.1)],
    "scale_by_distance_over_gradients": [dict(), dict(reps_rel=0.1, eps=0.5, global_scale=-1.0)],
    "scale_by_param_block_norm": [dict(min_scale=2.0)],
    "scale_by_param_block_rms": [dict(min_scale=0.5)],
    "set_to_zero": [dict()],
    "zero_nans": [dict()],
}  # fmt: skip

WRAPPING = {
    "transform": lambda o: o.conditionally_transform(o.scale(-0.5), lambda step: step % 2 == 1),
    "mask": lambda o: o.conditionally_mask(o.trace(0.9), lambda step: step % 3 != 1),
    "forward": lambda o: o.conditionally_mask(
        o.scale(2.0), lambda step, value, **_: value > 2.0, forward_extra_args=True
    ),
    "flatten": lambda o: o.flatten(o.chain(o.trace(0.9), o.clip_by_block_rms(0.3))),
    "stateless": lambda o: o.stateless(
        lambda g, p: jax.tree.map(lambda x, y: jnp.sin(x) * y, g, p)
    ),
    "stateless_with_tree_map": lambda o: o.stateless_with_tree_map(lambda g, p: g - 0.1 * p),
    "snapshot": lambda o: o.chain(o.snapshot("size", lambda g: o.tree.norm(g)), o.scale(2.0)),
}


def draw(rng):
    return {k: jnp.asarray(rng.normal(size=s), jnp.float32) for k, s in SHAPES.items()}


def assert_same(ours, theirs, steps=5):
    rng = np.random.default_rng(0)
    params = draw(rng)
    theirs = optax.with_extra_args_support(theirs)
    state, their_state = ours.init(params), theirs.init(params)
    step, their_step = jax.jit(ours.update), jax.jit(theirs.update)
    for t in range(steps):
        grads, value = draw(rng), jnp.asarray(float(t))
        updates, state = step(grads, state, params, value=value)
        with jax.numpy_rank_promotion("allow"):
            expected, their_state = their_step(grads, their_state, params, value=value)
        expected = {k: x.reshape(SHAPES[k]) for k, x in expected.items()}  # it may make () to (1,)
        for name, x in expected.items():
            np.testing.assert_allclose(
                updates[name], x, rtol=1e-5, atol=1e-6, err_msg=f"{name}, step {t}"
            )  # float32; sums in another order
        params = optax.apply_updates(params, jax.tree.map(lambda x: 0.1 * x, expected))
    return state, their_state


@pytest.mark.parametrize("name", SAME)
def test_same_as_optax(name):
    ours, theirs = getattr(gdjax, name), getattr(optax, name)
    assert list(inspect.signature(ours).parameters) == list(inspect.signature(theirs).parameters)
    for arguments in SAME[name]:
        assert_same(ours(**arguments), theirs(**arguments))


@pytest.mark.parametrize("name", WRAPPING)
def test_same_wrapping_as_optax(name):
    state, their_state = assert_same(WRAPPING[name](gdjax), WRAPPING[name](optax))
    if name == "snapshot":
        ours, theirs = gdjax.tree.get(state, "size"), optax.tree.get(their_state, "size")
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_monitor_of_measures_is_as_in_optax():
    def build(o):
        return o.monitor(
            {
                "norm": lambda g: o.tree.norm(g),
                "largest": lambda g: o.tree.max(g),
                "mean": o.measure_with_ema(lambda g: {"v": g["v"]}, 0.8),
                "share": o.measure_with_ema(lambda g: o.tree.norm(g) > 7.0, 0.5, debias=False),
            }
        )

    rng = np.random.default_rng(1)
    params, ours, theirs = draw(rng), build(gdjax), build(optax)
    state, their_state = ours.init(params), theirs.init(params)
    for _ in range(4):
        grads = draw(rng)
        updates, state = ours.update(grads, state, params)
        _, their_state = theirs.update(grads, their_state, params)
        jax.tree.map(np.testing.assert_array_equal, updates, grads)
        for name in ("norm", "largest", "mean", "share"):
            mine, other = gdjax.tree.get(state, name), optax.tree.get(their_state, name)
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6), mine, other)
    assert set(gdjax.metrics(state)) == {"norm", "largest", "mean", "share"}


@pytest.mark.parametrize("bound", [0.0, 1.25, 3.0, np.inf])
def test_per_example_clipping_is_as_in_optax(bound):
    rng = np.random.default_rng(2)
    grads = {"a": rng.normal(size=(6, 3)), "b": rng.normal(size=(6, 2, 2)), "c": rng.normal(size=6)}
    grads = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32).at[2].set(0), grads)
    clips = [
        lambda o: o.per_example_global_norm_clip(grads, bound),
        lambda o: o.per_example_layer_norm_clip(grads, bound),
        lambda o: o.per_example_layer_norm_clip(grads, bound, uniform=False),
    ]
    for clip in clips:
        ours, theirs = clip(gdjax), clip(optax)
        assert jax.tree.structure(ours) == jax.tree.structure(theirs)
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


def test_unitwise_norms_are_as_in_optax():
    rng = np.random.default_rng(3)
    for x in (*draw(rng).values(), jnp.asarray(rng.normal(size=(2, 1, 2, 3, 2)), jnp.float32)):
        ours, theirs = gdjax.transforms.unitwise_norm(x), optax.transforms.unitwise_norm(x)
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
        if x.ndim > 1:
            ours = gdjax.transforms.unitwise_norm(x, axis=1)
            np.testing.assert_allclose(ours, optax.transforms.unitwise_norm(x, 1), rtol=1e-6)
    g, bound = jnp.array([1e-9, 3.0, 0.5]), jnp.array([0.1, 1.0, 1.0])
    np.testing.assert_allclose(
        gdjax.transforms.unitwise_clip(jnp.abs(g), bound, g),
        optax.transforms.unitwise_clip(jnp.abs(g), bound, g),
    )


def test_slow_copies_and_backward_scaling_are_as_in_optax():
    rng = np.random.default_rng(4)
    new, old = draw(rng) | {"n": None}, draw(rng) | {"n": None}
    ours, theirs = (o.incremental_update(new, old, 0.3) for o in (gdjax, optax))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), ours, theirs)
    for steps in (0, 3, 4):
        ours, theirs = (o.periodic_update(new, old, steps, 4) for o in (gdjax, optax))
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
        jitted = jax.jit(gdjax.periodic_update)(new, old, jnp.asarray(steps), 4)
        jax.tree.map(np.testing.assert_array_equal, jitted, theirs)
    for c in (0.0, 1.0, -2.5):
        slopes = [
            jax.grad(lambda x, o=o, c=c: jnp.sum(jnp.sin(o.scale_gradient(x, c))))(jnp.arange(3.0))
            for o in (gdjax, optax)
        ]
        np.testing.assert_allclose(*slopes, rtol=1e-6)


def test_safe_norms_and_increments_are_as_in_optax():
    rng = np.random.default_rng(5)
    x = jnp.asarray(rng.normal(size=(3, 4)), jnp.float32)
    arguments = [
        dict(ord=ord, axis=axis, keepdims=keep)
        for axis, ords in (((0, 1), (None, "fro", "nuc")), (1, (None, 1, jnp.inf)))
        for ord in ords
        for keep in (False, True)
    ]
    for least in (0.0, 2.0, 100.0):
        for more in arguments:
            ours, theirs = (o.safe_norm(x, least, **more) for o in (gdjax, optax))
            assert ours.shape == theirs.shape
            np.testing.assert_allclose(ours, theirs, rtol=1e-5)
        for y in (x, jnp.zeros(3)):
            slopes = [
                jax.grad(lambda y, o=o, c=least: o.safe_root_mean_squares(y, c))(y)
                for o in (gdjax, optax)
            ]
            np.testing.assert_allclose(*slopes, rtol=1e-5)
    np.testing.assert_array_equal(jax.grad(gdjax.safe_norm)(jnp.zeros(3), 0.0), np.zeros(3))
    for count in (0, 7, 2**31 - 1):
        count = jnp.asarray(count, jnp.int32)
        assert gdjax.safe_increment(count) == optax.safe_increment(count)


def test_multi_normal_is_as_in_optax():
    loc, log_scale = jnp.array([1.0, -2.0]), jnp.array([0.3, -0.5])
    ours, theirs = (o.multi_normal(loc, log_scale) for o in (gdjax, optax))
    x = jnp.array([0.5, 0.7])
    np.testing.assert_allclose(ours.log_prob(x), theirs.log_prob(x), rtol=1e-6)
    key = jax.random.key(0)
    with jax.numpy_rank_promotion("allow"):
        np.testing.assert_allclose(ours.sample((3,), key), theirs.sample((3,), key), rtol=1e-6)
        batch = ours.sample((4, 3), key)
        np.testing.assert_allclose(ours.log_prob(batch), theirs.log_prob(batch), rtol=1e-5)
    assert [p.shape for p in ours.params] == [p.shape for p in theirs.params]


def test_the_parity_tests_cover_every_transform():
    """What `optax.transforms` and its core have, and gdjax too, is compared here or elsewhere."""
    elsewhere = {
        "add_decayed_weights", "add_noise", "trace", "chain", "named_chain", "identity",  # core,
        "measure_with_ema", "monitor", "snapshot",  # optimizers, and above
        "conditionally_mask", "conditionally_transform", "flatten", "stateless",
        "per_example_global_norm_clip", "per_example_layer_norm_clip", "unitwise_clip",
        "unitwise_norm",
    }  # fmt: skip
    wrappers = ("MultiSteps", "apply_if", "freeze", "masked", "partition", "selective", "skip_")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in dir(optax.transforms):
            if name[0] == "_" or not inspect.isfunction(getattr(optax.transforms, name)):
                continue
            if not name.startswith(wrappers):
                assert name in SAME or name in elsewhere, f"nothing compares {name}"
