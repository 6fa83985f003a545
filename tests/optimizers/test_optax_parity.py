"""Where optax has the optimizer and is right, gdjax gives the same trajectories to rounding."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest

import gdjax


def trajectories(ours, theirs, steps=6, keys=tuple(problems.SHAPES), extra=lambda t: {}):
    """Yield both parameter trees after each step; both see the gradients at optax's parameters."""
    params = {k: jnp.asarray(problems.parameters()[k], jnp.float32) for k in keys}
    theirs = optax.with_extra_args_support(theirs)
    mine, state, their_state = params, ours.init(params), theirs.init(params)
    step, their_step = jax.jit(ours.update), jax.jit(theirs.update)
    for t in range(1, steps + 1):
        at = {k: np.zeros(s) for k, s in problems.SHAPES.items()} | jax.tree.map(np.asarray, params)
        grads = problems.gradients(at, t)
        grads = {k: jnp.asarray(grads[k], jnp.float32) for k in keys}
        updates, state = step(grads, state, mine, **extra(t))
        their_updates, their_state = their_step(grads, their_state, params, **extra(t))
        mine = gdjax.apply_updates(mine, updates)
        params = optax.apply_updates(params, their_updates)
        yield mine, params


def assert_same(ours, theirs, rtol=1e-5, **options):
    for t, (mine, params) in enumerate(trajectories(ours, theirs, **options), 1):
        for name, x in params.items():
            np.testing.assert_allclose(
                mine[name], x, rtol=rtol, atol=rtol, err_msg=f"{name}, step {t}"
            )


def falling(count):
    """A schedule: half the rate after each update."""
    return 0.1 * 0.5**count


MASK = {"scalar": True, "vector": False, "tall": True, "wide": False, "kernel": True, "still": True}

# name -> arguments; the factory of that name is called with them in both libraries.
SAME = {
    "nadam": [dict(learning_rate=0.05), dict(learning_rate=falling, b1=0.8, eps_root=1e-6)],
    "nadamw": [dict(learning_rate=0.05, weight_decay=0.3, mask=MASK)],
    "scale_by_amsgrad": [dict(bias_correction_mu=False, bias_correction_nu=False, b2=0.9)],
    "adamax": [dict(learning_rate=0.05), dict(learning_rate=falling, b1=0.8, b2=0.7, eps=1e-3)],
    "adamaxw": [dict(learning_rate=0.05, weight_decay=falling, mask=MASK)],
    "scale_by_adamax": [dict(b2=0.8)],
    "rmsprop": [
        dict(learning_rate=0.02),
        dict(learning_rate=falling, decay=0.8, momentum=0.9, initial_scale=0.5),
        dict(learning_rate=0.02, eps_in_sqrt=False, bias_correction=True, momentum=0.5),
        dict(learning_rate=falling, centered=True, eps=1e-3, momentum=0.9, nesterov=True),
        dict(learning_rate=0.02, centered=True, eps=0.1, bias_correction=True, decay=0.7),
    ],
    "scale_by_rms": [dict(decay=0.6, eps=1e-3, initial_scale=1.0)],
    "scale_by_stddev": [dict(decay=0.6, eps=1e-3)],
    "adagrad": [dict(learning_rate=0.3), dict(learning_rate=falling, eps=1e-2)],
    "scale_by_rss": [dict(initial_accumulator_value=0.0)],
    "lion": [dict(learning_rate=0.02), dict(learning_rate=falling, weight_decay=0.3, mask=MASK)],
    "scale_by_lion": [dict(mode="smooth", smooth_beta=3.0), dict(mode="refined", b1=0.5)],
    "trace": [dict(decay=0.9), dict(decay=0.5, nesterov=True)],
}


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [(n, k) for n, rows in SAME.items() for k in rows],
    ids=lambda x: str(x)[:60],
)
def test_same_as_optax(name, kwargs):
    assert_same(getattr(gdjax, name)(**kwargs), getattr(optax, name)(**kwargs))


LEFT_OUT = {("nadam", "nesterov"), ("nadamw", "nesterov")}  # False would be adam


@pytest.mark.parametrize("name", sorted(SAME))
def test_same_defaults_as_optax(name):
    ours = inspect.signature(getattr(gdjax, name)).parameters
    for key, parameter in inspect.signature(getattr(optax, name)).parameters.items():
        if (name, key) in LEFT_OUT:
            continue
        assert ours[key].default == parameter.default, key
        assert ours[key].kind == parameter.kind, key


def test_amsgrad_in_the_order_of_optax():
    numbers = dict(learning_rate=0.05, b1=0.8, b2=0.9, eps_root=1e-6)
    assert_same(gdjax.amsgrad(**numbers, max_corrected=True), optax.amsgrad(**numbers))
