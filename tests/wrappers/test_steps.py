"""Wrappers go by the steps that the optimizer takes, not by calls: those that are left out leave no
trace, and those in which an accumulation waits change nothing but it.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax

HEADS = gdjax.by_path({"w": 0, ".*": None})
WRAPPERS = {  # they follow the optimizer inside
    "average": lambda opt: gdjax.average(opt, lambda t: jnp.minimum(0.9, (1 + t) / (10 + t))),
    "polynomial_average": gdjax.polynomial_average,
    "tail_average": lambda opt: gdjax.tail_average(opt, 1),
    "lookahead": lambda opt: gdjax.lookahead(opt, 2, reset_state=True),
    "schedule_free": lambda opt: gdjax.schedule_free(opt, 0.1),
    "gpa": lambda opt: gdjax.gpa(opt, 0.8, 0.5),
    "ema_nesterov": lambda opt: gdjax.ema_nesterov(opt, lambda t: 0.3 * (1 + t), 0.5),
    "mechanize": lambda opt: gdjax.mechanize(opt, s_init=0.1),
    "mars": lambda opt: gdjax.mars(opt, 0.1),
    "cautious": gdjax.cautious,
    "with_weight_decay": lambda opt: gdjax.with_weight_decay(opt, lambda t: 0.1 * (1 + t)),
    "with_prox": lambda opt: gdjax.with_prox(opt, gdjax.proximal.prox_lasso, lambda t: 0.1 * t),
    "hyperball": lambda opt: gdjax.hyperball(opt, 0.1, mask=True),
    "qk_clip": lambda opt: gdjax.qk_clip(opt, HEADS, 1.0),
    "monitor": gdjax.monitor,
    "flatten": gdjax.flatten,
    "several": lambda opt: gdjax.tail_average(gdjax.lookahead(gdjax.mars(opt), 2)),
    "groups": lambda opt: gdjax.groups({"w": gdjax.tail_average(opt), ".*": None}),
}
GUARDS = {
    "apply_if_finite": lambda opt: gdjax.apply_if_finite(opt, 9),
    "guard": lambda opt: gdjax.guard(opt, gdjax.skip_not_finite),
    "skip_spikes": lambda opt: gdjax.skip_spikes(opt, 1e6),
    "optax": lambda opt: optax.apply_if_finite(opt, 9),
    "accumulate": lambda opt: gdjax.accumulate(
        opt, 1.0, should_skip_update_fn=gdjax.skip_not_finite
    ),
}
START = {"w": jnp.array([1.0, -2.0]), "b": jnp.array([0.5, 3.0, -1.0])}


def slope(params, t):
    return jax.tree.map(lambda x: x + jnp.cos(3.0 * x + t), params)


def path(opt, scales, times):
    """Return parameters, evaluation weights and state after each call of scaled gradients."""

    def call(carry, step):
        params, state = carry
        scale, t = step
        grads = jax.tree.map(lambda g: scale * g, slope(params, t))
        updates, state = opt.update(
            grads, state, params, value=jnp.float32(1.0), max_logits={"w": 2.0, "b": None}
        )
        params = gdjax.apply_updates(params, updates)
        return (params, state), (params, gdjax.eval_params(state, params), state)

    return jax.lax.scan(call, (START, opt.init(START)), (scales, times))[1]


def assert_same(actual, expected):
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), actual, expected)


def with_a_bad_one(wrapped, calls=7):
    """Run with a gradient of NaN in call 0, 1, ..., `calls - 1`; return the ends, by that call."""
    paths = jax.jit(jax.vmap(functools.partial(path, wrapped)))(*bad_at(range(calls), calls))
    return jax.tree.map(lambda x: x[:, -1], paths)


def bad_at(calls, total):
    """Return scales, NaN in one call of each lane, and times, which stand still in that call."""
    bad = np.arange(total) == np.array(calls)[:, None]
    times = np.cumsum(~bad, 1) - 1.0
    return np.where(bad, np.nan, 1.0).astype(np.float32), times.astype(np.float32)


def assert_lanes_are_the_last(ends):
    assert_same(ends, jax.tree.map(lambda x: jnp.broadcast_to(x[-1], x.shape), ends))


@pytest.mark.parametrize("name", WRAPPERS)
def test_calls_that_are_no_steps_leave_no_trace(name):
    """Rejected gradients, as if the calls had not been; and k equal ones, one step along them."""
    calls, ks = 12, (2, 3)

    def lane(k, scales, times):
        rule = gdjax.sgd(lambda t: 0.1 / (1 + t), momentum=0.5)
        inner = gdjax.apply_if_finite(gdjax.accumulate(rule, k), 9)
        return path(WRAPPERS[name](inner), scales, times)

    scales, times = bad_at([0, 1, 4, calls - 1], calls)
    slow = np.stack([np.arange(calls) // k for k in ks]).astype(np.float32)
    lanes = jax.jit(jax.vmap(lane))(
        np.array([1, 1, 1, 1, *ks], np.float32),
        np.concatenate([scales, np.ones_like(slow)]),
        np.concatenate([times, slow]),
    )
    params, read, state = jax.tree.map(lambda x: x[:4, -1], lanes)
    for ends in (params, read):
        assert_lanes_are_the_last(ends)
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(ends))
    assert not all(np.array_equal(params[k][0], START[k]) for k in START)
    skipped = jax.vmap(gdjax.skipped_steps)(state)
    np.testing.assert_array_equal(skipped, 1)
    if name not in ("groups", "several"):
        np.testing.assert_array_equal(state.count, calls - 1)

    plain = jax.tree.map(lambda x: x[3], lanes[:2])
    for lane_of_k, k in enumerate(ks, 4):
        other, steps = jax.tree.map(lambda x, i=lane_of_k: x[i], lanes[:2]), calls // k - 1
        expected = jax.tree.map(lambda x, n=steps: x[:n], plain)
        for waited in range(k):  # until the next step, nothing moves
            first = k - 1 + waited
            later = jax.tree.map(lambda x, i=first, k=k, n=steps: x[i::k][:n], other)
            assert_same(later, expected)


@pytest.mark.parametrize("guard", [*GUARDS, "outside apply_if_finite", "outside accumulate"])
def test_every_guard_on_both_sides(guard):
    """F5-TTS #631: an average that counts calls weighs old parameters more often."""
    wrap = lambda opt: gdjax.gpa(gdjax.tail_average(opt), 0.8)  # noqa: E731
    guard, outside = GUARDS[guard.removeprefix("outside ")], guard.startswith("outside")
    inner = gdjax.sgd(0.1, momentum=0.5)
    opt = guard(wrap(inner)) if outside else wrap(guard(inner))
    params, read, _ = with_a_bad_one(opt)
    assert_lanes_are_the_last(params)
    assert_lanes_are_the_last(read)


def test_the_mean_of_two_steps():
    opt = gdjax.tail_average(gdjax.apply_if_finite(gdjax.sgd(1.0), 9))
    params = jnp.zeros(1)
    state = opt.init(params)
    for grad in (1.0, jnp.nan, jnp.nan, jnp.nan, 1.0):
        updates, state = opt.update(jnp.full(1, grad), state, params)
        params = gdjax.apply_updates(params, updates)
    np.testing.assert_array_equal(gdjax.eval_params(state, params), -1.5)
    assert int(state.count) == int(state.slots.inner.count) == 2


def test_groups_step_if_one_of_them_does():
    inner = {"w": gdjax.accumulate(gdjax.sgd(1.0), 3), ".*": gdjax.accumulate(gdjax.sgd(1.0), 2)}
    opt = gdjax.tail_average(gdjax.groups(inner))
    state = opt.init(START)
    counts = []
    for _ in range(6):
        _, state = opt.update(START, state, START)
        counts.append(int(state.count))
    assert counts == [0, 1, 2, 3, 3, 4]


@pytest.mark.parametrize(
    ("inner", "counts"),
    [
        (gdjax.chain(gdjax.sgd(1.0), gdjax.apply_every(3)), [0, 0, 1, 1, 1, 2]),
        (optax.MultiSteps(optax.sgd(1.0), 2).gradient_transformation(), [0, 1, 1, 2, 2, 3]),
        (gdjax.conditionally_mask(gdjax.sgd(1.0), lambda t: t % 3 == 1), [0, 1, 1, 1, 2, 2]),
        (gdjax.sam(gdjax.sgd(1.0), sync_period=3), [0, 0, 1, 1, 1, 2]),
        (gdjax.sgd(1.0), [1, 2, 3, 4, 5, 6]),
    ],
    ids=["apply_every", "MultiSteps", "conditionally_mask", "sam", "sgd"],
)
def test_whatever_takes_no_step_is_not_counted(inner, counts):
    opt = gdjax.polynomial_average(inner, 0.0)
    params, state, seen, path = START, opt.init(START), [], []
    for _ in range(6):
        updates, state = opt.update(START, state, params)
        params = gdjax.apply_updates(params, updates)
        if int(state.count) > len(path):
            path.append(params)
        seen.append(int(state.count))
    assert seen == counts
    mean = jax.tree.map(lambda *x: sum(x) / len(x), *path)
    assert_same(gdjax.eval_params(state, params), mean)


@pytest.mark.parametrize("period", [2, 3])
@pytest.mark.parametrize("reset", [True, False])
def test_a_bad_gradient_on_the_climb_of_sam_is_survived(period, reset):
    """The climb is left out: from NaN, no descent leads back."""
    adversary = gdjax.sgd(0.1, momentum=0.5)
    opt = gdjax.sam(GUARDS["apply_if_finite"](gdjax.sgd(0.1)), adversary, period, reset)
    ends = with_a_bad_one(opt, 6)
    for x in jax.tree.leaves(ends):
        assert np.isfinite(x).all()
    params = ends[0]["w"]
    assert (np.abs(np.asarray(params) - np.asarray(START["w"])) > 0.01).any(1).all()


def test_a_plateau_inside_counts_steps():
    make = lambda k: gdjax.accumulate(  # noqa: E731
        gdjax.chain(gdjax.sgd(1.0), gdjax.reduce_on_plateau(0.5, patience=2)), k
    )
    opt = gdjax.guard(make(3), gdjax.skip_not_finite)
    state, scales = opt.init(jnp.ones(1)), []
    for t in range(16):
        grad = jnp.full(1, jnp.nan if t % 4 == 3 else 1.0)
        _, state = opt.update(grad, state, value=jnp.float32(1.0))
        scales.append(float(gdjax.tree.get(state, "scale")))
    assert scales == [1.0] * 10 + [0.5] * 6  # steps are calls 2, 6, 10, 14
