"""Every optimizer gets down Rosenbrock's valley and learns a real classification task.

Both problems are one tree, so that each optimizer is compiled once; the best of a few learning
rates counts, as it would for a user. `Case.valley` is larger than its default for methods without
a rate to tune and for fixed steps of one size.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from registry import CASES
from sklearn.datasets import load_breast_cancer

import gdjax

FACTORS = jnp.array([0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0])
STEPS = 400
KNOWN = {"value", "grad", "value_fn", "key"}
START = {"x": jnp.array([-1.2, 1.0]), "w": jnp.zeros((30, 1)), "b": jnp.zeros((1, 1))}


def problem():
    features, labels = load_breast_cancer(return_X_y=True)
    features = (features - features.mean(0)) / features.std(0)
    return jnp.asarray(features[::2], jnp.float32), jnp.asarray(labels[::2, None], jnp.float32)


FEATURES, LABELS = problem()


def rosenbrock(x):
    return 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2


def logits(params):
    return FEATURES @ params["w"] + params["b"]


def loss_fn(params):
    cross_entropy = jnp.mean(jnp.logaddexp(0, logits(params)) - LABELS * logits(params))
    return rosenbrock(params["x"]) + 10 * cross_entropy


def is_tried(case):
    """Return whether its extras are usual ones; a direction is tried as the optimizer it is of."""
    if case.name.startswith("scale_by_"):
        return False
    flat = {k: np.ones(v.shape) for k, v in START.items()}
    return set(case.extras(flat, flat, 1)) <= KNOWN


@pytest.mark.slow
@pytest.mark.parametrize("case", [c for c in CASES if is_tried(c)], ids=lambda c: c.name)
def test_goes_down_the_valley_and_learns(case):
    @jax.jit
    @jax.vmap
    def lane(factor):
        # A decay, or a bound above the least loss, would keep it from the minimum on purpose.
        limits = {"weight_decay": 0.0, "f_min": 0.5}
        numbers = {k: min(v, limits.get(k, v)) for k, v in case.numbers.items()}
        if "learning_rate" in numbers:
            numbers = numbers | {"learning_rate": numbers["learning_rate"] * factor}
        opt = case.make(**numbers)

        def step(carry, key):
            params, state = carry
            loss, grads = jax.value_and_grad(loss_fn)(params)
            extras = dict(value=loss, grad=grads, value_fn=loss_fn, key=key)
            updates, state = opt.update(grads, state, params, **extras)
            return (gdjax.apply_updates(params, updates), state), None

        keys = jax.random.split(jax.random.key(0), STEPS)
        params, _ = jax.lax.scan(step, (START, opt.init(START)), keys)[0]
        right = jnp.mean((logits(params) > 0) == (LABELS > 0.5))
        return rosenbrock(params["x"]), right

    valley, right = lane(FACTORS)
    assert np.nanmin(valley) < case.valley, valley
    assert np.nanmax(right) > 0.95, right
