"""Where optax has the optimizer and is right, gdjax gives the same trajectories to rounding."""

import inspect

import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest
from parity import MASK, assert_same, falling

import gdjax

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
    "adadelta": [
        dict(learning_rate=falling, rho=0.8, weight_decay=0.1, weight_decay_mask=MASK),
        dict(learning_rate=1.0, eps=1e-2),
    ],
    "scale_by_adadelta": [dict()],
    "sign_sgd": [dict(learning_rate=falling)],
    "signum": [dict(learning_rate=0.02), dict(learning_rate=0.02, beta=0.5)],
    "scale_by_sign": [dict()],
    "noisy_sgd": [dict(learning_rate=0.05, key=3), dict(learning_rate=falling, gamma=0.1, key=4)],
    "add_noise": [dict(eta=0.1, gamma=0.55, key=3)],
    "polyak_sgd": [dict(), dict(max_learning_rate=0.02), dict(f_min=2.5, eps=0.1, variant="sps+")],
    "scale_by_polyak": [dict(f_min=2.5, max_learning_rate=0.5)],
    "optimistic_gradient_descent": [dict(learning_rate=falling, alpha=0.7, beta=0.4)],
    "optimistic_adam_v2": [
        dict(learning_rate=falling),
        dict(learning_rate=0.05, alpha=0.7, beta=0.4, b1=0.8, nesterov=False),
    ],
    "scale_by_optimistic_gradient": [dict(), dict(alpha=0.7, beta=0.4)],
    "lars": [
        dict(learning_rate=1.0),
        dict(learning_rate=falling, weight_decay=0.2, weight_decay_mask=MASK, nesterov=True),
        dict(learning_rate=0.1, trust_coefficient=0.1, eps=0.1, trust_ratio_mask=MASK),
    ],
    "lamb": [dict(learning_rate=0.05), dict(learning_rate=falling, weight_decay=0.2, mask=MASK)],
    "scale_by_trust_ratio": [dict(), dict(min_norm=2.0, trust_coefficient=0.5, eps=0.1)],
    "fromage": [dict(learning_rate=0.05), dict(learning_rate=falling, min_norm=2.0)],
    "sm3": [dict(learning_rate=0.1)],
    "scale_by_sm3": [dict(b1=0.5, b2=0.9)],
    "novograd": [
        dict(learning_rate=0.05),
        dict(learning_rate=falling, b1=0.7, b2=0.9, eps_root=0.1, weight_decay=0.2),
    ],
    "scale_by_novograd": [dict(weight_decay=0.2)],
    "yogi": [dict(learning_rate=0.05), dict(learning_rate=falling, b1=0.7, b2=0.8)],
    "scale_by_yogi": [dict(initial_accumulator_value=0.1, eps_root=0.01)],
    # b2 not near 1, where optax's rho_t loses its digits
    "radam": [
        dict(learning_rate=0.05, b2=0.9, threshold=4.5),
        dict(learning_rate=falling, b1=0.7, b2=0.9, threshold=4.1, nesterov=True),
    ],
    "scale_by_radam": [dict(b2=0.8, threshold=4.1)],
    "adabelief": [
        dict(learning_rate=0.05, b2=0.9),
        dict(learning_rate=falling, b1=0.7, eps=1e-3, eps_root=1e-3, nesterov=True),
    ],
    "scale_by_belief": [dict(b1=0.5, b2=0.9)],
    "scale_by_param_block_norm": [dict(), dict(min_scale=2.0)],
    "scale_by_param_block_rms": [dict(), dict(min_scale=0.7)],
    "adafactor": [
        dict(),
        dict(learning_rate=falling, min_dim_size_to_factor=3, momentum=0.8),
        dict(
            learning_rate=0.5,
            min_dim_size_to_factor=2,
            multiply_by_parameter_scale=False,
            clipping_threshold=None,
            weight_decay_rate=0.1,
            weight_decay_mask=MASK,
            decay_rate=0.5,
        ),
        dict(learning_rate=0.5, factored=False, clipping_threshold=0.5, eps=0.1),
    ],
    "scale_by_factored_rms": [
        dict(),
        dict(min_dim_size_to_factor=2, decay_rate_fn=lambda step, rate: rate, decay_rate=0.5),
    ],
}
SKIPPED = {"sm3": ("scalar",), "scale_by_sm3": ("scalar",)}  # optax fails on them
EXTRA = {name: lambda t: dict(value=3.0 / t) for name in ("polyak_sgd", "scale_by_polyak")}


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [(n, k) for n, rows in SAME.items() for k in rows],
    ids=lambda x: x if isinstance(x, str) else ",".join(x),
)
def test_same_as_optax(name, kwargs):
    keys = tuple(k for k in problems.SHAPES if k not in SKIPPED.get(name, ()))
    extra = EXTRA.get(name, lambda t: {})
    ours, theirs = getattr(gdjax, name)(**kwargs), getattr(optax, name)(**kwargs)
    if "learning_rate" not in inspect.signature(getattr(optax, name)).parameters:  # points uphill
        ours, theirs = gdjax.chain(ours, gdjax.scale(-0.1)), optax.chain(theirs, optax.scale(-0.1))
    assert_same(ours, theirs, keys=keys, extra=extra)


LEFT_OUT = {
    ("nadam", "nesterov"),  # False would be adam
    ("nadamw", "nesterov"),
    ("adadelta", "learning_rate"),  # None, with which optax cannot run
    ("noisy_sgd", "key"),  # None, which warns and is 0
    ("add_noise", "key"),
    ("noisy_sgd", "seed"),  # deprecated
    ("add_noise", "seed"),
    ("adafactor", "dtype_momentum"),  # float32 also where the parameters are float64
    ("scale_by_factored_rms", "decay_rate_fn"),  # a private function
}


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


def test_optimistic_adam_without_the_warning():
    numbers = dict(learning_rate=0.05, optimism=0.02, b1=0.8)
    with pytest.warns(DeprecationWarning):
        theirs = optax.optimistic_adam(**numbers)
    assert_same(gdjax.optimistic_adam(**numbers), theirs)
    with pytest.warns(DeprecationWarning):
        theirs = optax.optimistic_adam(0.05)
    assert_same(gdjax.optimistic_adam(0.05), theirs)


@pytest.mark.parametrize(
    "kwargs", [dict(), dict(b1=0.9, b2=0.5, b3=0.8, weight_decay=0.3, mask=MASK)]
)
def test_adan_is_optaxs_where_its_coefficient_is_the_papers(kwargs):
    """On the first step the change is 0; at b2 = 1/2 optax's 1 - b2 is b2."""
    steps = 6 if kwargs else 1
    assert_same(gdjax.adan(learning_rate=0.05, **kwargs), optax.adan(0.05, **kwargs), steps=steps)


def test_rprop_is_optaxs_one_step_earlier():
    """optax's first update is 0 and its second is that of the first gradient."""
    grads = [{"x": jnp.array([3.0, -1.0])}, {"x": jnp.array([2.0, -1.0])}]
    ours, theirs = gdjax.rprop(0.1), optax.rprop(0.1)
    state, their_state = ours.init(grads[0]), theirs.init(grads[0])
    first, _ = ours.update(grads[0], state)
    zero, their_state = theirs.update(grads[0], their_state)
    late, _ = theirs.update(grads[1], their_state)
    np.testing.assert_array_equal(zero["x"], 0)
    np.testing.assert_allclose(first["x"], late["x"], rtol=1e-6)
