"""Numbers that tune themselves: derivatives, published rules, ranges, steps that are none."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits
from x64 import enable_x64

import gdjax

PARAMS = {"w": np.array([[0.9, -0.4], [0.2, 1.3], [0.5, -0.8]]), "b": np.array([0.7, -0.1])}


def loss(params):
    return sum(jnp.sum(jnp.sin(1.3 * x) + 0.4 * x**2) for x in jax.tree.leaves(params))


def run(opt, count, params, state=None, grad=None):
    """Return parameters and state after some steps down `loss`."""
    grad = jax.grad(loss) if grad is None else grad
    state = opt.init(params) if state is None else state
    for _ in range(count):
        updates, state = opt.update(grad(params), state, params)
        params = gdjax.apply_updates(params, updates)
    return params, state


class Seen(NamedTuple):
    gain: jax.Array


def nothing_seen(z) -> Seen:
    return Seen(jnp.zeros_like(z))


def _observe(gain, slots, z, count):
    return jnp.zeros_like(gain), Seen(gain)


OBSERVER = gdjax.leafwise(_observe, nothing_seen)  # moves nothing

log, exp = np.log, np.exp
LOG = log, exp
LOGIT = lambda x: log(x / (1 - x)), lambda z: 1 / (1 + exp(-z))
RATE = {"learning_rate": LOG}
BY_LAYER = {"w": 0.05, "b": 0.2}


@pytest.mark.parametrize(
    "make, names, scales",
    [
        (lambda: gdjax.sgd(0.1, momentum=0.7), None, RATE | {"momentum": LOGIT}),
        (lambda: gdjax.adam(0.1, b1=0.8, b2=0.9), None, RATE | {"b1": LOGIT, "b2": LOGIT}),
        (
            lambda: gdjax.adamw(0.1, eps=0.2, weight_decay=0.3),
            None,
            {"weight_decay": LOG, "eps": LOG},
        ),
        (lambda: gdjax.muon(0.1), None, RATE),
        (
            lambda: gdjax.adam(dict(BY_LAYER)),
            "learning_rate",
            {"learning_rate.w": LOG, "learning_rate.b": LOG},
        ),
        (
            lambda: gdjax.chain(gdjax.clip_by_global_norm(0.5), gdjax.adam(dict(BY_LAYER))),
            ("max_norm", "learning_rate"),
            {"max_norm": LOG, "learning_rate.w": LOG, "learning_rate.b": LOG},
        ),
        (
            lambda: gdjax.groups({"w": gdjax.muon(0.1), "b": gdjax.sgd(0.2)}),
            "learning_rate",
            {"w.learning_rate": LOG, "b.learning_rate": LOG},
        ),
        (
            lambda: gdjax.sgd(gdjax.cosine_decay_schedule(0.1, 10), momentum=0.5),
            None,
            {"learning_rate.init_value": LOG},
        ),
        (lambda: gdjax.self_tuning(gdjax.adam(0.1), tuner=0.2), None, {"tuning_rate": LOG}),
    ],
)
def test_gains_are_finite_differences_through_one_step(make, names, scales):
    with enable_x64():
        params, inner = jax.tree.map(jnp.asarray, PARAMS), make()
        opt = gdjax.self_tuning(inner, names or tuple(scales), OBSERVER, normalize=False)
        before, state = run(opt, 3, params)
        after, last = run(opt, 1, before, state)
        gains = run(opt, 1, after, last)[1].slots.tuner.slots.gain
        assert gains.keys() == scales.keys()
        numbers = gdjax.hyperparams(state.slots.inner)
        for name, (free, back) in scales.items():

            def at(move, name=name, free=free, back=back):
                value = back(free(float(numbers[name])) + move)
                moved = gdjax.with_hyperparams(state.slots.inner, **{name: value})
                return float(loss(run(inner, 1, before, moved)[0]))

            if name == "learning_rate.init_value":
                numbers[name] = 0.1
            np.testing.assert_allclose(gains[name], (at(1e-5) - at(-1e-5)) / 2e-5, rtol=1e-6)


def _add(gain, slots, z, count, *, beta):
    """Move so that exp(z) changes by -beta dL/d exp(z), the papers' additive rule."""
    return jnp.log1p(-beta * gain * jnp.exp(-2 * z)), slots


def sgd_direction(g, t, memory):
    return g


def adam_direction(g, t, memory, b1=0.9, b2=0.999, eps=1e-8):
    memory["m"] = b1 * memory.get("m", 0) + (1 - b1) * g
    memory["v"] = b2 * memory.get("v", 0) + (1 - b2) * g**2
    return memory["m"] / (1 - b1**t) / (np.sqrt(memory["v"] / (1 - b2**t)) + eps)


@pytest.mark.parametrize(
    "make, direction, alpha, beta",
    [(gdjax.sgd, sgd_direction, 0.01, 1e-3), (gdjax.adam, adam_direction, 0.01, 2e-3)],
)
def test_additive_rule_of_sgd_hd_and_adam_hd(make, direction, alpha, beta):
    """Baydin et al. (2018), algorithms 4 and 5."""
    with enable_x64():
        tuner = gdjax.leafwise(_add, hyperparams={"beta": beta})
        opt = gdjax.self_tuning(make(alpha), tuner=tuner, normalize=False)
        params, state = run(opt, 12, jnp.asarray(PARAMS["w"]))
        theta, last, memory = PARAMS["w"], 0.0, {}
        for t in range(1, 13):
            g = 1.3 * np.cos(1.3 * theta) + 0.8 * theta
            alpha += beta * np.sum(g * last)
            last = direction(g, t, memory)
            theta = theta - alpha * last
        np.testing.assert_allclose(params, theta, rtol=1e-12)
        np.testing.assert_allclose(gdjax.hyperparams(state)["learning_rate"], alpha, rtol=1e-12)


def _leap(gain, slots, z, count, *, by):
    return jnp.full_like(gain, by), slots


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_numbers_stay_in_their_ranges_whatever_the_tuner_does(sign):
    names = ("learning_rate", "b1", "b2", "weight_decay")
    tuner = gdjax.leafwise(_leap, hyperparams={"by": sign * 1e4})  # one program for both signs
    opt = gdjax.self_tuning(
        gdjax.adamw(1e-30, b1=0.999999, b2=0.0, weight_decay=1e30), names, tuner
    )
    params, state = run(opt, 4, jnp.asarray(PARAMS["w"], jnp.float32))
    found = {k: float(v) for k, v in gdjax.hyperparams(state).items() if k in names}
    gdjax.with_hyperparams(state, **found)  # which checks ranges
    assert found["b2"] == 0.0, "a number at the end of its range has no scale"
    assert (found["b1"] > 0.999) == (sign > 0) and (found["learning_rate"] > 1e30) == (sign > 0)


def test_a_decay_near_one_keeps_its_digits():
    """One minus it, which float32 alone has to three digits only."""
    tuner = gdjax.leafwise(_leap, hyperparams={"by": -0.1})
    opt = gdjax.self_tuning(gdjax.adam(0.1, b2=1 - 1e-7), "b2", tuner)
    state = run(opt, 5, jnp.asarray(PARAMS["w"], jnp.float32))[1].slots.inner  # two moves
    left = (1 - np.float64(state.b2)) - np.float64(state.rounding["b2_rounding"])
    np.testing.assert_allclose(left / 1e-7, np.exp(0.2), rtol=1e-5)


def changed(opt, grads, params, state):
    """Return which numbers a step with these gradients moves."""
    _, new = opt.update(grads, state, params)
    old = gdjax.hyperparams(state)
    return {k for k, v in gdjax.hyperparams(new).items() if float(v) != float(old[k])}


def test_gradients_that_say_nothing_move_nothing():
    names, tuner = ("learning_rate", "momentum"), gdjax.sgd(0.1, momentum=0.5)
    make = lambda: gdjax.sgd(0.01, momentum=0.7)  # noqa: E731
    skip = lambda opt: gdjax.guard(opt, gdjax.skip_large_updates, max_squared_norm=1e3)  # noqa: E731
    params = {k: jnp.asarray(x, jnp.float32) for k, x in PARAMS.items()}
    own = gdjax.self_tuning(make(), names, tuner)
    _, state = run(own, 3, params)
    moving = {"inner.learning_rate", "inner.momentum"}
    assert changed(own, params, params, state) == moving
    for fill in (0.0, jnp.nan, jnp.inf):
        grads = jax.tree.map(lambda x, fill=fill: jnp.full_like(x, fill), params)
        assert not changed(own, grads, params, state), fill
    large = jax.tree.map(lambda x: 1e3 * jnp.ones_like(x), params)
    assert changed(own, large, params, state) == moving
    for opt in (skip(own), gdjax.self_tuning(skip(make()), names, tuner)):
        _, state = run(opt, 3, params)
        assert changed(opt, params, params, state) == moving
        assert not changed(opt, large, params, state), "a skipped step moves numbers"
        after = opt.update(large, state, params)[1]
        again = opt.update(params, after, params)[1]
        straight = opt.update(params, state, params)[1]
        assert gdjax.hyperparams(again) == gdjax.hyperparams(straight)


@pytest.mark.parametrize(
    "make, name",
    [
        (gdjax.adam, "b1"),
        (gdjax.adamw, "b2"),
        (gdjax.lamb, "b1"),
        (gdjax.adan, "b3"),
        (gdjax.muon, "beta"),
        (gdjax.soap, "b2"),
    ],
)
def test_rounding_of_a_first_update_that_does_not_depend_on_a_decay_moves_nothing(make, name):
    """Its derivative by the decay is 0; a cosine would make what rounding leaves of it large."""
    params = {k: jax.random.normal(jax.random.key(i), (12, 20)) for i, k in enumerate("ab")}
    opt = gdjax.self_tuning(make(0.01), name)
    state, moved = opt.init(params), []
    for _ in range(5):
        old = gdjax.hyperparams(state)
        updates, state = jax.jit(opt.update)(params, state, params)
        new = gdjax.hyperparams(state)
        moved.append(any((new[k] != old[k]).any() for k in new))
        params = gdjax.apply_updates(params, updates)
    assert not any(moved[:2]) and moved[-1], moved


def test_only_the_last_of_accumulated_gradients_moves_numbers():
    params = {k: jnp.asarray(x, jnp.float32) for k, x in PARAMS.items()}
    plain = run(gdjax.self_tuning(gdjax.sgd(0.01)), 3, params)
    rate = gdjax.hyperparams(plain[1])["learning_rate"]
    for opt in (
        gdjax.accumulate(gdjax.self_tuning(gdjax.sgd(0.01)), 2),
        gdjax.self_tuning(gdjax.accumulate(gdjax.sgd(0.01), 2)),
    ):
        after, state = run(opt, 6, params)
        np.testing.assert_allclose(after["w"], plain[0]["w"], rtol=1e-5)
        np.testing.assert_allclose(gdjax.hyperparams(state)["learning_rate"], rate, rtol=1e-5)


def test_the_scale_of_the_loss_does_not_matter():
    opt, params = gdjax.self_tuning(gdjax.rmsprop(0.01, eps=0.0)), jnp.asarray(PARAMS["w"], "f4")
    rates = [
        gdjax.hyperparams(run(opt, 8, params, grad=lambda x, c=c: c * jax.grad(loss)(x))[1])
        for c in (2.0**-20, 1.0, 2.0**20)
    ]
    for rate in rates:
        np.testing.assert_allclose(rate["learning_rate"], rates[1]["learning_rate"], rtol=1e-6)


def test_what_cannot_be_tuned_is_named():
    params = {k: jnp.asarray(x, jnp.float32) for k, x in PARAMS.items()}
    schedule = gdjax.warmup_cosine_decay_schedule(0.0, 0.1, 5, 50)
    steps = gdjax.lookahead(gdjax.sgd(0.1), 5)
    mixed = gdjax.chain(gdjax.adam(dict(BY_LAYER)), gdjax.clip_by_global_norm(1.0))
    for opt, names, message in (
        (gdjax.adam(0.1), "lr", r"'lr' is not a hyperparameter of this state; it has b1, b2"),
        (gdjax.adam(0.1), (), "must be distinct names of numbers"),
        (gdjax.adam(0.1), ("b1", "b1"), "must be distinct names of numbers"),
        (gdjax.chain(gdjax.sgd(0.1)), ("learning_rate", "0.learning_rate"), "two names mean"),
        (gdjax.adam(schedule), "learning_rate", "name its numbers: .*learning_rate.peak_value"),
        (gdjax.muon(0.1), "ns_coeffs.values", "'ns_coeffs.values' is a table"),
        (mixed, "learning_rate", "depends on several of the numbers that one name means"),
    ):
        with pytest.raises(ValueError, match=message):
            opt = gdjax.self_tuning(opt, names)
            opt.update(params, opt.init(params), params)
    each = gdjax.self_tuning(mixed, ("learning_rate.w", "learning_rate.b"))
    state = run(each, 3, params)[1]
    assert len({float(v) for k, v in gdjax.hyperparams(state).items() if "rate." in k}) == 2
    assert gdjax.self_tuning(steps, "sync_period").init(params)


def test_it_comes_near_the_tuned_loss_on_digits_from_bad_rates():
    """Within a factor of 2 of the tuned rate's loss, from 100 times less and 10 times more."""
    images, labels = load_digits(return_X_y=True)
    data = jnp.asarray(images / 16, jnp.float32), jnp.asarray(labels)

    def digits_loss(weights, batch):
        return jnp.mean(
            gdjax.softmax_cross_entropy_with_integer_labels(batch[0] @ weights, batch[1])
        )

    def trained(wrap, rate):
        def step(carry, key):
            params, state = carry
            picked = jax.random.randint(key, (64,), 0, len(labels))
            grads = jax.grad(digits_loss)(params, jax.tree.map(lambda x: x[picked], data))
            updates, state = opt.update(grads, state, params)
            return (gdjax.apply_updates(params, updates), state), None

        opt, params = wrap(gdjax.adam(rate)), jnp.zeros((64, 10))
        keys = jax.random.split(jax.random.key(0), 400)
        (params, _), _ = jax.lax.scan(step, (params, opt.init(params)), keys)
        return digits_loss(params, data)

    rates = 0.3 * jnp.array([0.01, 1.0, 10.0])
    small, tuned, large = jax.jit(jax.vmap(lambda r: trained(lambda o: o, r)))(rates)
    assert min(small, large) > 8 * tuned
    ours = jax.jit(jax.vmap(lambda r: trained(gdjax.self_tuning, r)))(rates)
    assert jnp.all(ours < 2 * tuned), ours / tuned  # 1.5 and 1.6 from the bad rates


def test_a_name_of_hyperparams_is_that_number_alone():
    params = {"w": jnp.ones((4, 6))}
    inner = gdjax.hyperball(gdjax.adam(0.1), 0.2)  # the angle, learning_rate, is the outer one
    for names in ("learning_rate", ("learning_rate", "inner.learning_rate")):
        _, state = run(gdjax.self_tuning(inner, names), 3, params)
        numbers = gdjax.hyperparams(state.inner)
        assert float(numbers["learning_rate"]) != pytest.approx(0.2, rel=1e-3)
        assert (float(numbers["inner.learning_rate"]) == np.float32(0.1)) == isinstance(names, str)
