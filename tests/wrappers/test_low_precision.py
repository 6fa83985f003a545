"""Methods that read their sequence from the parameters do not lose it to bfloat16 and float16."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.core.numerics import rounded

LOW = {"bfloat16": 2.0**-8, "float16": 2.0**-11}  # relative distance of a number from its rounding
METHODS = {
    "schedule_free_adamw": lambda: gdjax.schedule_free_adamw(0.01),
    "schedule_free_sgd": lambda: gdjax.schedule_free_sgd(0.001),
    "schedule_free_radam": lambda: gdjax.schedule_free_radam(0.01),
    "schedule_free": lambda: gdjax.schedule_free(gdjax.rmsprop(0.01), 0.01),
    "gpa": lambda: gdjax.gpa(gdjax.adamw(0.01, b1=0.0)),
    "ema_nesterov": lambda: gdjax.ema_nesterov(gdjax.adam(0.005)),
    "lookahead": lambda: gdjax.lookahead(gdjax.adam(0.005)),
    "madgrad": lambda: gdjax.madgrad(2e-4),
    "mechanize": lambda: gdjax.mechanize(gdjax.adam(0.01)),
    "in a guard": lambda: gdjax.apply_if_finite(gdjax.schedule_free_adamw(0.01), 3),
    "accumulated": lambda: gdjax.accumulate(gdjax.schedule_free_adamw(0.02), 2),
    "around a guard": lambda: gdjax.gpa(gdjax.apply_if_finite(gdjax.adamw(0.01, b1=0.0), 3)),
    "averaged": lambda: gdjax.tail_average(gdjax.schedule_free_adamw(0.01)),
    "in groups": lambda: gdjax.groups(
        {r".*16": gdjax.gpa(gdjax.sgd(1e-3)), r".*": gdjax.gpa(gdjax.sgd(1e-3))}
    ),
}


def descend(opt, params, steps=300):
    """Return parameters and evaluation weights after steps towards a minimum at 3."""

    def step(carry, _):
        params, state = carry
        grads = jax.tree.map(lambda x: x - jnp.asarray(3, x.dtype), params)
        updates, state = opt.update(grads, state, params)
        return (gdjax.apply_updates(params, updates), state), None

    carry = (params, opt.init(params))
    params, state = jax.jit(lambda c: jax.lax.scan(step, c, length=steps)[0])(carry)
    return params, gdjax.eval_params(state, params)


@pytest.mark.parametrize("name", METHODS)
def test_they_follow_float32(name):
    """torchao #1124: bfloat16 parameters of schedule-free Adam never moved."""
    start = {d: jnp.full(2, 10.0, d) for d in ("float32", *LOW)}
    if name == "mechanize":  # its scale is that of all parameters together
        exact = descend(METHODS[name](), {"float32": start["float32"]})
        results = {d: descend(METHODS[name](), {d: start[d]}) for d in LOW}
        ends = [
            {"float32": e["float32"], **{d: results[d][i][d] for d in LOW}}
            for i, e in enumerate(exact)
        ]
    else:
        ends = descend(METHODS[name](), start)
    for end in ends:
        like = float(end["float32"][0])
        assert 2.9 < like < 9.9
        for dtype, unit in LOW.items():
            assert end[dtype].dtype == dtype
            np.testing.assert_allclose(end[dtype].astype(jnp.float32), like, rtol=3 * unit)


def test_prodigy_finds_the_distance_in_bfloat16():
    """Its first steps are a millionth of the parameters, and larger ones follow only from them."""
    (exact, _), (low, _) = (
        descend(gdjax.prodigy(), jnp.full(2, 10.0, d), 200) for d in (jnp.float32, jnp.bfloat16)
    )
    assert float(exact[0]) < 4
    np.testing.assert_allclose(low.astype(jnp.float32), exact, atol=0.5)


@pytest.mark.parametrize("name", ["dog", "dowg", "l_dog"])
def test_distances_over_gradients_grow_with_master_weights(name):
    """The first steps are a millionth of the parameters; without the wrapper none is taken."""
    start = {d: jnp.full(2, 10.0, d) for d in ("float32", *LOW)}
    optimizer = getattr(gdjax, name)()
    params, _ = descend(gdjax.with_master_weights(optimizer), start, 100)
    assert float(params["float32"][0]) < 4
    for dtype, unit in LOW.items():
        np.testing.assert_allclose(
            params[dtype].astype(jnp.float32), params["float32"], rtol=2 * unit
        )


def test_the_estimate_of_dadapt_adamw_is_that_of_float32():
    """Its way to there amplifies rounding, in float32 from a rounded start as well."""
    ends = {}
    for dtype in ("float32", *LOW):
        opt, params = gdjax.dadapt_adamw(), jnp.full(4, 10.0, dtype)
        state = opt.init(params)

        def step(carry, _, opt=opt):
            params, state = carry
            updates, state = opt.update(params - jnp.asarray(3, params.dtype), state, params)
            return (gdjax.apply_updates(params, updates), state), None

        params, state = jax.jit(lambda c, s=step: jax.lax.scan(s, c, length=300)[0])(
            (params, state)
        )
        ends[dtype] = float(params[0]), float(state.distance)
    for dtype, unit in LOW.items():
        np.testing.assert_allclose(ends[dtype], ends["float32"], rtol=4 * unit)


@pytest.mark.parametrize(
    "name", ["schedule_free_sgd", "gpa", "ema_nesterov", "lookahead", "madgrad"]
)
def test_parameters_of_float32_need_nothing(name):
    params = {"x": jnp.ones(2), "n": None}
    opt = METHODS[name]()
    assert not jax.tree.leaves(opt.init(params).slots.residual)
    low = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    assert opt.init(low).slots.residual["x"].value.dtype == jnp.float32


def test_parameters_that_someone_else_moves_are_taken_as_they_are():
    """A projection between two steps: what is kept is only what rounding took."""
    opt = gdjax.schedule_free_sgd(0.01)
    params = jnp.full(3, 2.0, jnp.bfloat16)
    state = opt.init(params)
    for _ in range(20):
        updates, state = opt.update(jnp.ones(3, jnp.bfloat16), state, params)
        params = jnp.minimum(gdjax.apply_updates(params, updates), jnp.bfloat16(1.0))
        exact = params.astype(jnp.float32) + state.slots.residual.value
        np.testing.assert_allclose(exact, params.astype(jnp.float32), rtol=2.0**-8)
        np.testing.assert_array_less(jnp.abs(state.slots.residual.value), 2.0**-7)


@pytest.mark.parametrize("dtype", LOW)
def test_rounding_is_that_of_a_cast(dtype):
    rng = np.random.default_rng(0)
    info = jnp.finfo(dtype)
    x = rng.normal(size=4000) * 2.0 ** rng.integers(-30, 12, 4000)
    ties = np.arange(1, 200) * float(info.smallest_subnormal) / 2 if dtype == "float16" else []
    x = np.concatenate([x, ties, [0.0, -0.0, np.inf, np.nan]]).astype(np.float32)
    expected = x.astype(jnp.dtype(dtype)).astype(np.float32)
    np.testing.assert_array_equal(jax.jit(rounded, static_argnums=1)(x, dtype), expected)
