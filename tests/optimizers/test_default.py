"""default_optimizer: how it reads the width, its schedule, and what it does with real layouts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax


def widths(params):
    state = gdjax.default_optimizer(10).init(params)
    return gdjax.tree.get(state, "width")


def normal(scale, shape):
    return scale * jax.random.normal(jax.random.key(0), shape)


@pytest.mark.parametrize(
    "scale, shape, expected",
    [
        (96**-0.5, (96, 160), 96),  # (fan_in, fan_out)
        (160**-0.5, (96, 160), 96),  # never more than the shape allows
        ((9 * 16) ** -0.5, (3, 3, 16, 200), 144),  # a convolution, Flax
        ((9 * 16) ** -0.5, (200, 16, 3, 3), 144),  # a convolution, Equinox
        (96**-0.5, (96, 4, 24), 96),  # a kernel with heads
        (96**-0.5, (6, 96, 160), 96),  # six layers stacked
        (1.0, (1000, 32), 1),  # an embedding
        (0.0, (96, 160), 96),  # begins at 0: by its shape
        (0.1 * 96**-0.5, (96, 160), 96),  # small values, as after a residual branch's factor
        (1.0, (50,), 1),
        (1.0, (), 1),
        (1.0, (0, 4), 1),
    ],
)
def test_the_width_is_the_fan_in(scale, shape, expected):
    np.testing.assert_allclose(widths(normal(scale, shape)), expected, rtol=0.05)


def test_the_width_of_an_array_without_values_is_a_shape():
    shapes = {"w": jax.ShapeDtypeStruct((3, 4), jnp.bfloat16)}
    assert widths(shapes)["w"] == jax.ShapeDtypeStruct((), jnp.float32)


def trained(opt, params, steps, grads_of=lambda x: x):
    state = opt.init(params)

    @jax.jit
    def step(params, state):
        updates, state = opt.update(jax.tree.map(grads_of, params), state, params)
        return gdjax.apply_updates(params, updates), state, updates

    rows = []
    for _ in range(steps):
        params, state, updates = step(params, state)
        rows.append(updates)
    return params, state, rows


def test_wider_matrices_have_smaller_updates_and_others_the_whole_rate():
    params = {
        "wide": normal(256**-0.5, (256, 256)),
        "narrow": normal(32**-0.5, (32, 32)),
        "bias": jnp.ones(256),
    }
    opt = gdjax.default_optimizer(4, 0.1, weight_decay=0.0, warmup=0.25)
    _, state, rows = trained(opt, params, 2)
    size = {k: float(jnp.sqrt(jnp.mean(x**2))) for k, x in rows[1].items()}
    assert size["bias"] == pytest.approx(0.1, rel=1e-3)
    assert size["wide"] / size["narrow"] == pytest.approx(0.25, rel=0.1)
    # a leaf of the state like any other
    halved = gdjax.with_hyperparams(state, base_width=32.0)
    again = [opt.update(params, s, params)[0]["wide"] for s in (state, halved)]
    np.testing.assert_allclose(again[1], again[0] / 2, rtol=1e-5)


def test_the_rate_rises_falls_and_is_zero_at_the_end():
    _, state, rows = trained(gdjax.default_optimizer(10, warmup=0.3), {"b": jnp.ones(3)}, 12)
    sizes = [float(abs(row["b"]).max()) for row in rows]
    assert sizes[0] == 0 and np.argmax(sizes) == 3 and sizes[10:] == [0, 0]
    more = gdjax.with_hyperparams(state, **{"learning_rate.decay_steps": 20.0})
    ones = {"b": jnp.ones(3)}
    assert (gdjax.default_optimizer(10).update(ones, more, ones)[0]["b"] < 0).all()


def test_only_matrices_decay_by_default():
    params = {"w": jnp.ones((3, 4)), "b": jnp.ones(4)}
    _, _, rows = trained(gdjax.default_optimizer(10), params, 3, jnp.zeros_like)
    assert (rows[2]["w"] < 0).all() and (rows[2]["b"] == 0).all()


def test_a_grid_of_rates_and_lengths_is_one_program():
    params = {"w": normal(0.5, (6, 4)), "b": jnp.ones(4)}

    def run(rate, steps):
        opt = gdjax.default_optimizer(steps, rate, precondition_frequency=2)
        state = opt.init(params)

        def step(carry, _):
            params, state = carry
            updates, state = opt.update(params, state, params)
            return (gdjax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, state), length=8)[0][0]

    rates, steps = jnp.array([0.01, 0.1, 0.1]), jnp.array([8.0, 8.0, 16.0])
    lanes = jax.jit(jax.vmap(run))(rates, steps)
    for i in range(3):
        alone = run(float(rates[i]), float(steps[i]))
        jax.tree.map(
            lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=2e-4, atol=1e-6),
            lanes,
            alone,
        )


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_it_trains_with_short_slots_a_tuner_and_a_guard(dtype):
    model = gdjax.models.mlp([8, 16, 1])
    x = jax.random.normal(jax.random.key(0), (64, 8))
    params = jax.tree.map(lambda p: p.astype(dtype), model.init(jax.random.key(1)))

    def loss_fn(params):
        return jnp.mean((model.apply(params, x.astype(dtype))[:, 0] - jnp.sin(x[:, 0])) ** 2)

    opt = gdjax.default_optimizer(60)
    short = gdjax.with_slot_dtypes(opt, mu="int8", nu="uint8", factors="bfloat16")
    tuned = gdjax.self_tuning(opt, "peak_value")
    guarded = gdjax.guard(opt, gdjax.skip_not_finite)
    for each in (opt, short, tuned, guarded):
        first, last = loss_fn(params), params
        state = each.init(params)

        @jax.jit
        def step(params, state, each=each):
            updates, state = each.update(jax.grad(loss_fn)(params), state, params)
            return gdjax.apply_updates(params, updates), state

        for _ in range(60):
            last, state = step(last, state)
        assert loss_fn(last) < 0.2 * first


@pytest.mark.parametrize(
    "given, message",
    [
        (dict(steps=0), r"default_optimizer\(steps=...\) must be finite and > 0, got 0"),
        (dict(steps=10, warmup=1.0), r"default_optimizer\(warmup=...\) must be in \[0, 1\)"),
        (dict(steps=10, base_width=0.0), r"default_optimizer\(base_width=...\) must be"),
        (
            dict(steps=10, learning_rate=gdjax.constant_schedule(0.1)),
            r"default_optimizer\(learning_rate=...\) must be one number",
        ),
    ],
)
def test_bad_numbers_are_refused(given, message):
    with pytest.raises((TypeError, ValueError), match=message):
        gdjax.default_optimizer(**given)
