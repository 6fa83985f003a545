"""Monitors record what the numbers say, at any nesting, and take no norm twice."""

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from x64 import enable_x64

import gdjax

PARAMS = {"w": jnp.array([[3.0, 0.0], [0.0, 4.0]]), "b": jnp.zeros(2)}
GRADS = {"w": jnp.array([[1.0, 2.0], [2.0, 0.0]]), "b": jnp.array([4.0, 0.0])}  # norm 5


def run(opt, steps=2, grads=GRADS):
    state, params = opt.init(PARAMS), PARAMS
    for _ in range(steps):
        updates, state = jax.jit(opt.update)(grads, state, params)
    return state


def test_records_of_a_clipped_and_scheduled_optimizer():
    with enable_x64():
        rate = gdjax.linear_schedule(0.4, 0.0, 4)
        inner = gdjax.chain(gdjax.clip_by_global_norm(1.0), gdjax.sgd(rate))
        opt = gdjax.monitor(inner)
        params = {k: np.asarray(x, np.float64) for k, x in PARAMS.items()}
        state = opt.init(params)
        first = gdjax.metrics(state)
        assert first["learning_rate"] == 0.4 and first["grad_norm"] == first["update_norm"] == 0
        plain = inner.init(params)
        for t in range(3):
            scale = 1.0 + t
            grads = {k: scale * np.asarray(x, np.float64) for k, x in GRADS.items()}
            updates, state = opt.update(grads, state, params)
            plain_updates, plain = inner.update(grads, plain, params)
            jax.tree.map(np.testing.assert_array_equal, updates, plain_updates)
            weight = np.sqrt(sum(np.sum(x**2) for x in params.values()))
            records = gdjax.metrics(state)
            lr = 0.4 * (1 - t / 4)  # of this update, not of the next
            np.testing.assert_allclose(records["learning_rate"], lr, rtol=1e-12)
            np.testing.assert_allclose(records["grad_norm"], 5 * scale, rtol=1e-12)  # unclipped
            np.testing.assert_allclose(records["update_norm"], lr, rtol=1e-12)
            np.testing.assert_allclose(records["update_ratio"], lr / weight, rtol=1e-12)
            assert records["skipped_steps"] == 0
            params = {k: x + np.asarray(updates[k]) for k, x in params.items()}
        assert list(records) == [
            "learning_rate", "grad_norm", "update_norm", "update_ratio", "skipped_steps",
        ]  # fmt: skip


def test_readable_at_any_nesting_jitted_and_vmapped():
    opt = gdjax.average(
        gdjax.chain(
            gdjax.named_chain(
                ("look", gdjax.lookahead(gdjax.monitor(gdjax.sgd(0.1)))),
            ),
            gdjax.snapshot("largest", gdjax.tree.max),
        ),
        0.9,
    )
    state = run(opt)
    assert set(gdjax.metrics(state)) == {
        "learning_rate", "grad_norm", "update_norm", "update_ratio", "skipped_steps", "largest",
    }  # fmt: skip
    assert jax.jit(gdjax.metrics)(state)["grad_norm"] == 5

    def lane(rate):
        opt = gdjax.monitor(gdjax.adam(rate))
        return gdjax.metrics(opt.update(GRADS, opt.init(PARAMS), PARAMS)[1])

    rates = jnp.array([0.1, 0.2, 0.4])
    records = jax.jit(jax.vmap(lane))(rates)
    np.testing.assert_allclose(records["learning_rate"], rates)
    np.testing.assert_allclose(records["update_norm"], rates * 2, rtol=1e-5)  # signs: 4 of 6

    opt = gdjax.monitor(gdjax.adam(0.1))
    _, history = jax.lax.scan(
        lambda s, _: (new := opt.update(GRADS, s, PARAMS)[1], gdjax.metrics(new)),
        opt.init(PARAMS), length=4,
    )  # fmt: skip
    assert history["update_norm"].shape == (4,)


def test_two_monitors_are_told_apart_by_place():
    opt = gdjax.named_chain(
        ("raw", gdjax.monitor(gdjax.clip_by_global_norm(1.0))),
        ("step", gdjax.monitor(gdjax.sgd(0.5))),
    )
    records = gdjax.metrics(run(opt))
    np.testing.assert_allclose(records["raw.grad_norm"], 5)
    np.testing.assert_allclose(records["step.grad_norm"], 1, rtol=1e-6)
    np.testing.assert_allclose(records["step.update_norm"], 0.5, rtol=1e-6)
    assert records["learning_rate"] == 0.5 and "raw.learning_rate" not in records


def test_several_rates_go_by_their_names():
    rates = {"w": 0.1, "b": gdjax.constant_schedule(0.2)}
    records = gdjax.metrics(run(gdjax.monitor(gdjax.sgd(rates))))
    np.testing.assert_allclose(records["learning_rate.w"], 0.1)
    np.testing.assert_allclose(records["learning_rate.b"], 0.2)
    opt = gdjax.monitor(gdjax.sgd(rates))
    state = gdjax.with_hyperparams(opt.init(PARAMS), learning_rate=0.3)  # a number over a tree
    updates, state = opt.update(GRADS, state, PARAMS)
    np.testing.assert_allclose(updates["b"], [-1.2, 0], rtol=1e-6)
    assert jnp.isnan(gdjax.metrics(state)["learning_rate.w"])


def test_steps_left_out_by_guards_inside_are_counted():
    class Guard(NamedTuple):
        skipped: Any

        def skipped_steps(self):
            return self.skipped

    def guard(grads, slots, params, count):
        bad = ~jnp.isfinite(gdjax.tree.norm(grads))
        grads = jax.tree.map(lambda g: jnp.where(bad, 0, g), grads)
        return grads, Guard(slots.skipped + bad)

    def zero(params):
        return Guard(jnp.zeros((), jnp.int32))

    opt = gdjax.monitor(gdjax.chain(gdjax.treewise(guard, zero), gdjax.sgd(0.1)))
    state = run(opt, 3, {"w": jnp.full((2, 2), jnp.nan), "b": jnp.zeros(2)})
    records = gdjax.metrics(state)
    assert records["skipped_steps"] == 3 and records["update_norm"] == 0
    assert jnp.isnan(records["grad_norm"])


def test_low_precision_zero_parameters_and_foreign_optimizers():
    many = {"a": jnp.ones(600, jnp.bfloat16), "b": jnp.ones(400, jnp.bfloat16)}
    opt = gdjax.monitor(gdjax.sgd(1.0))
    _, state = opt.update(many, opt.init(many), many)
    records = gdjax.metrics(state)
    np.testing.assert_allclose(records["grad_norm"], np.sqrt(1000), rtol=1e-6)
    assert records["grad_norm"].dtype == jnp.float32
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    _, state = opt.update(GRADS, opt.init(zeros), zeros)
    assert gdjax.metrics(state)["update_ratio"] == 0
    with pytest.raises(ValueError, match="monitor needs the parameters"):
        opt.update(zeros, state)
    records = gdjax.metrics(run(gdjax.monitor(optax.sgd(0.1))))
    assert "learning_rate" not in records and records["grad_norm"] == 5
    assert gdjax.metrics(gdjax.adam(0.1).init(PARAMS)) == {}


def _reductions(opt):
    """Count the sums to a number in the compiled program of one step."""

    def step(grads, state, params):
        updates, state = opt.update(grads, state, params)
        return gdjax.apply_updates(params, updates), state

    text = jax.jit(step).lower(GRADS, opt.init(PARAMS), PARAMS).compile().as_text()
    return len(re.findall(r"= f32\[\]\S* reduce\(", text))


def test_the_gradients_norm_is_shared_with_clipping():
    """Of 2 leaves: clipping sums up 2, the monitor only 2 updates and 2 parameters more."""
    inner = gdjax.chain(gdjax.clip_by_global_norm(1.0), gdjax.adam(0.1))
    assert _reductions(inner) == 2
    assert _reductions(gdjax.monitor(inner)) == 6
    assert _reductions(gdjax.monitor(gdjax.adam(0.1))) == 6  # without clipping it is its own
