"""What is stored of a number: the digits of 1 - decay, ranges, and what a schedule may return."""

import math
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from x64 import enable_x64

import gdjax
from gdjax.core.numerics import Decay, bias_correction, safe_divide

DECAYS = [0.0, 1e-30, 0.5, 0.9, 0.99, 0.9999, 0.99999, 0.999999, 0.9999999, 1 - 1e-8, 1 - 1e-12]
ONE = jnp.ones(())


def first(optimizer, state=None):
    """Return the first update for a gradient of 1."""
    return float(optimizer.update(ONE, optimizer.init(ONE) if state is None else state, ONE)[0])


@pytest.mark.parametrize("decay", DECAYS)
def test_one_minus_a_decay_has_its_digits(decay):
    mean = gdjax.ema(decay, debias=False)
    np.testing.assert_allclose(first(mean), 1 - decay, rtol=1e-6)
    for given in (np.float64(decay), np.asarray(decay), gdjax.by_path({".*": decay})):
        assert first(gdjax.ema(given, debias=False)) == first(mean)
    start = gdjax.ema(0.3, debias=False).init(ONE)
    assert first(mean, gdjax.with_hyperparams(start, decay=decay)) == first(mean)
    assert float(gdjax.hyperparams(mean.init(ONE))["decay"]) == np.float32(decay)
    assert first(mean, pickle.loads(pickle.dumps(mean.init(ONE)))) == first(mean)
    with enable_x64():  # float32 parameters, while numbers are float64
        one = jnp.ones((), jnp.float32)
        update, _ = mean.update(one, mean.init(one))
    assert update.dtype == jnp.float32 and float(update) == first(mean)


def test_a_grid_of_decays_has_the_digits_of_each():
    optimizer, decays = gdjax.ema(0.5, debias=False), DECAYS[3:]
    states = [gdjax.ema(d, debias=False).init(ONE) for d in decays]
    grid = jax.tree.map(lambda *x: jnp.stack(x), *states)
    updates, _ = jax.vmap(optimizer.update, in_axes=(None, 0))(ONE, grid)
    np.testing.assert_allclose(updates, 1 - np.array(decays), rtol=1e-6)
    for given in (lambda decay: gdjax.ema(decay, debias=False), optimizer):  # by value, by name
        swept = gdjax.sweep(
            lambda x, batch: x + 0 * batch.sum(),
            jnp.float32(0),
            given,
            {"decay": decays},
            jnp.zeros(2),
            steps=1,
        )
        np.testing.assert_allclose(swept.params, 1 - np.array(decays), rtol=1e-6)


def test_a_leaf_that_was_replaced_by_hand_is_off_by_half_a_unit_at_most():
    state = gdjax.ema(0.9, debias=False).init(ONE)
    state.hyperparams["decay"] = jnp.float32(0.75)
    np.testing.assert_allclose(first(gdjax.ema(0.9, debias=False), state), 0.25, rtol=1e-6)


COUNTS = [1, 2, 3, 10, 1000, 10**6, 2**24 + 1, 10**9, 2**31 - 1]


def test_bias_correction_and_its_derivative_at_every_decay_and_count():
    values = np.array(DECAYS, np.float32)
    lost = (np.array(DECAYS) - values).astype(np.float32)

    @jax.jit
    @jax.vmap
    def correction(value, lost):
        def of(value, count):
            return bias_correction(Decay(value, lost), count)

        return jax.vmap(jax.value_and_grad(of), (None, 0))(value, jnp.array(COUNTS))

    weights, slopes = correction(values, lost)
    for decay, weight, slope in zip(DECAYS, weights, slopes, strict=True):
        log = math.log1p(-(1 - decay)) if 1 - decay < 1 else -1e9
        exact = [-math.expm1(t * log) for t in COUNTS]
        np.testing.assert_allclose(weight, exact, rtol=2e-6, err_msg=str(decay))
        exact = [-t * math.exp((t - 1) * log) for t in COUNTS]
        np.testing.assert_allclose(slope, exact, rtol=1e-4, atol=1e-30, err_msg=str(decay))
    assert float(bias_correction(jnp.float32(0.9), jnp.int32(0))) == 0


ROWS = {
    "adam": lambda b: gdjax.adam(0.1, b1=b, b2=b),
    "adam_nesterov": lambda b: gdjax.adam(0.1, b1=b, b2=0.5, nesterov=True),
    "adopt": lambda b: gdjax.adopt(0.1, b1=b),
    "ademamix": lambda b: gdjax.ademamix(0.1, b3=b),
    "average": lambda b: gdjax.average(gdjax.sgd(0.1), b, debias=False),
    "came": lambda b: gdjax.came(0.1, b1=b, b3=b),
    "dadapt_adamw": lambda b: gdjax.dadapt_adamw(betas=(0.9, b)),
    "lion": lambda b: gdjax.lion(0.1, b1=b, b2=b, mode="smooth", smooth_beta=1e7),
    "madgrad": lambda b: gdjax.madgrad(0.1, momentum=b),
    "mars": lambda b: gdjax.mars(gdjax.sgd(0.1), b1=b, gamma=1e-7),
    "nadam_torch": lambda b: gdjax.nadam(0.1, b1=b, formula="torch", momentum_decay=50.0),
    "radam": lambda b: gdjax.radam(0.1, b2=b),
    "rmsprop": lambda b: gdjax.rmsprop(0.1, b, eps=1e-12),
    "shampoo": lambda b: gdjax.shampoo(0.1, b1=b, b2=b),
}


@pytest.mark.parametrize("name", ROWS)
def test_rules_keep_the_digits(name):
    optimizer, grads = ROWS[name](0.9999999), np.array([[1.0, -0.3, 0.7], [0.9, 0.2, -2.0]])

    def run(dtype):
        params = jnp.array([0.5, -1.0, 2.0], dtype)
        state = optimizer.init(params)
        for g in grads:
            updates, state = optimizer.update(jnp.asarray(g, dtype), state, params)
            params = params + updates
        return np.asarray(updates), np.asarray(gdjax.eval_params(state, params))

    plain = run(jnp.float32)
    with enable_x64():
        exact = run(jnp.float64)
    for x, y in zip(plain, exact, strict=True):
        np.testing.assert_allclose(x, y, rtol=2e-4, atol=1e-9)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: gdjax.adam(1e39), r"learning_rate=.* got 1e\+39, which is inf as it is stored"),
        (lambda: gdjax.dog(init_step=("distance", 1e-46)), "1e-46, which is 0 as it is stored"),
        (lambda: gdjax.adam(1e-3, b2=1.0), r"b2=.* in \[0, 1\), got 1.0"),
        (lambda: gdjax.linear_schedule(1e39, 0.0, 10), r"init_value=.* inf as it is stored"),
        (lambda: gdjax.cosine_decay_schedule(1.0, 1e39), r"decay_steps=.* inf as it is stored"),
        (lambda: gdjax.adam(gdjax.by_path({".*": 1e39})), r"inf as it is stored"),
        (lambda: gdjax.adam(10**400), r"learning_rate=.* more than 64 bits"),
        (lambda: gdjax.adam(np.array(1j)), r"learning_rate=.* must be a number"),
    ],
)
def test_ranges_are_those_of_the_number_as_stored(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()
    if "stored" in message and "46" in message:
        with enable_x64():
            make()  # float64 has it


@pytest.mark.parametrize(
    "optimizer, new, message",
    [
        (gdjax.adam(1e-3), {"b1": 2.0}, r"with_hyperparams\(b1=...\) must be in \[0, 1\), got 2.0"),
        (gdjax.adam(1e-3), {"b1": math.nan}, "must be in"),
        (gdjax.adam(1e-3), {"learning_rate": -0.1}, "finite and >= 0"),
        (gdjax.adam(1e-3), {"learning_rate": 1e39}, "inf as it is stored"),
        (gdjax.adam(1e-3), {"b1": {"a": 0.5, "b": 1.5}}, "must be in"),
        (gdjax.adam(1e-3), {"b1": None}, "must be a number"),
        (gdjax.adamw(1e-3, mask=True), {"weight_decay": -1.0}, "finite and >= 0"),
        (gdjax.muon(1e-3), {"adam_b1": 1.0}, "must be in"),
        (gdjax.muon(1e-3), {"ns_coeffs": 1.0}, r"must have shape \(5, 3\), got \(\)"),
        (gdjax.muon(1e-3), {"ns_coeffs": np.full((5, 3), np.inf)}, "must be finite, got inf"),
        (gdjax.self_tuning(gdjax.sgd(0.1)), {"tuning_rate": 0.0}, "must be finite and > 0"),
        (gdjax.accumulate(gdjax.sgd(0.1), 2), {"every_k": 0}, "must be a whole number >= 1"),
        (gdjax.schedule_free(gdjax.sgd(0.1), 0.1), {"weight_learning_rate": -1.0}, "finite and >="),
        (
            gdjax.guard(gdjax.sgd(0.1), gdjax.skip_large_updates, max_squared_norm=1.0),
            {"max_squared_norm": math.nan},
            "must be a number, not NaN, got nan",
        ),
        (gdjax.shampoo(1e-3), {"b2": 1.5}, r"must be in \[0, 1\]"),
        (gdjax.scale_by_adam(), {"b2": 1.0}, "must be in"),
        (gdjax.chain(gdjax.clip(1.0), gdjax.adam(1e-3)), {"1.b2": -1.0}, "must be in"),
        (
            gdjax.adam(gdjax.cosine_decay_schedule(1.0, 10)),
            {"learning_rate.decay_steps": 0},
            r"learning_rate.decay_steps=...\) must be finite and > 0",
        ),
        (
            gdjax.adam(gdjax.piecewise_constant_schedule(1.0, {5: 0.5})),
            {"learning_rate.init_value": math.inf},
            "must be finite",
        ),
    ],
)
def test_with_hyperparams_checks_ranges_as_factories_do(optimizer, new, message):
    state = optimizer.init({"a": jnp.ones(2), "b": jnp.ones((2, 2))})
    with pytest.raises((ValueError, TypeError), match=message):
        gdjax.with_hyperparams(state, **new)


def test_with_hyperparams_takes_what_the_factory_takes():
    state = gdjax.shampoo(1e-3).init(ONE)
    assert gdjax.hyperparams(gdjax.with_hyperparams(state, b2=1.0))["b2"] == 1
    state = gdjax.scale(-1.0).init(ONE)
    assert gdjax.hyperparams(gdjax.with_hyperparams(state, step_size=-2.0))["step_size"] == -2
    state = gdjax.adam(1e-3).init(ONE)
    new = jax.jit(lambda b: gdjax.with_hyperparams(state, b1=b))(2.0)  # traced: not checked
    assert jax.tree.structure(new) == jax.tree.structure(state)


@pytest.mark.parametrize(
    "value",
    [
        lambda t: jnp.ones(1),
        lambda t: jnp.ones((1, 2)),
        lambda t: "a",
        lambda t: None,
        lambda t: 1j,
    ],
)
def test_a_schedule_returns_one_real_number(value):
    for optimizer, name in (
        (gdjax.sgd(value), "sgd(learning_rate"),
        (gdjax.sgd(gdjax.by_path({".*": value})), "sgd(learning_rate"),
        (gdjax.clip_by_global_norm(value), "clip_by_global_norm(max_norm"),
    ):
        with pytest.raises(ValueError) as error:
            optimizer.update(ONE, optimizer.init(ONE), ONE)
        assert name in str(error.value) and "one real number" in str(error.value)


def test_a_safe_quotient_is_zero_over_zero_and_so_is_its_derivative():
    x, by = jnp.array([0.0, 1.0, 3.0, jnp.nan]), jnp.array([0.0, 0.0, 2.0, 1.0])
    np.testing.assert_array_equal(safe_divide(x, by), [0, 0, 1.5, np.nan])
    for argument, exact in ((0, [0, 0, 0.5]), (1, [0, 0, -0.75])):
        slopes = jax.grad(lambda *a: jnp.sum(safe_divide(*a)[:3]), argument)(x, by)[:3]
        np.testing.assert_array_equal(slopes, exact)


@pytest.mark.parametrize("formula", ["optax", "torch", "algoperf"])
@pytest.mark.parametrize("count", [2**31 - 4, 2**31 - 3, 2**31 - 2, 2**31 - 1])
def test_steps_are_finite_up_to_the_largest_count(formula, count):
    optimizer = gdjax.nadam(0.1, formula=formula)
    state = optimizer.init(ONE)._replace(count=jnp.int32(count))
    update, state = optimizer.update(ONE, state, ONE)
    assert np.isfinite(update) and float(update) < 0
