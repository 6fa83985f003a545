"""Wrappers around gradient descent that leave its steps as they are, or nearly so."""

import jax.numpy as jnp
import problems
from jax.sharding import PartitionSpec

import gdjax
from oracles import adam, groups, sgd
from oracles.case import ADAM, Case, loss_value


def _two_examples(grad, slots, param, count):
    return jnp.stack([1.5 * grad, 0.5 * grad]), slots


def _dpsgd(**numbers):
    return gdjax.chain(gdjax.leafwise(_two_examples), gdjax.dpsgd(seed=4, **numbers))


def _plateau(learning_rate, factor, min_scale, atol):
    plateau = gdjax.reduce_on_plateau(factor, patience=2, atol=atol, min_scale=min_scale)
    return gdjax.chain(gdjax.sgd(learning_rate), plateau)


def _even(step):
    return step % 2 == 0


MOMENTUM = dict(learning_rate=0.05, momentum=0.8)
MIXED = (jnp.float32, jnp.bfloat16)  # their arithmetic is that of others; float16 is in wrappers/
MOVING = tuple(k for k in problems.SHAPES if k != "vector")
IS_VECTOR = gdjax.by_path({"vector": True, ".*": False}, allow_unused=True)
NOT_VECTOR = gdjax.by_path({"vector": False, ".*": True}, allow_unused=True)
LABELS = gdjax.by_path({"vector": "fast", ".*": "slow"}, allow_unused=True)


def every_other(learning_rate, momentum, else_descend=None):
    """Step with momentum at t = 1, 3, ...; in between add `else_descend` times the gradient."""
    inner, taken = sgd.sgd(learning_rate, momentum), []

    def step(theta, g, t):
        if t % 2 == 0:
            return {k: theta[k] - else_descend * g[k] for k in theta}
        taken.append(t)
        return inner(theta, g, len(taken))

    return step


def all_but_the_vector(learning_rate, momentum):
    return groups.groups({sgd.sgd(learning_rate, momentum): MOVING})


def two_rates(fast, learning_rate, momentum):
    slow = sgd.sgd(learning_rate, momentum)
    return groups.groups({slow: MOVING, sgd.sgd(fast, momentum): ("vector",)})


def _in_chain(make):
    """Build a transform with trace(decay), then multiply by the learning rate."""

    def whole(learning_rate, momentum):
        transform = make(gdjax.trace(momentum))
        return gdjax.chain(transform, gdjax.scale_by_learning_rate(learning_rate))

    return whole


def _two_rates(fast, learning_rate, momentum):
    members = {"slow": gdjax.sgd(learning_rate, momentum), "fast": gdjax.sgd(fast, momentum)}
    return gdjax.partition(members, LABELS, allow_unused=True)


def scaled(learning_rate, init_scale, growth_interval, growth_factor, **bad_gradients):
    """Divide by a scale that gradients which are not finite never lower."""
    state = {"scale": init_scale, "good": 0}

    def step(theta, g, t):
        theta = {k: theta[k] - learning_rate * g[k] / state["scale"] for k in theta}
        state["good"] += 1
        if state["good"] == max(round(growth_interval), 1):
            state.update(scale=state["scale"] * growth_factor, good=0)
        return theta

    return step


def _around_sgd(wrapper, *args, **kwargs):
    return lambda **numbers: wrapper(gdjax.sgd(**numbers), *args, **kwargs)


CASES = [
    Case(
        "average",
        lambda learning_rate, decay: gdjax.average(gdjax.sgd(learning_rate), decay),
        dict(learning_rate=0.05, decay=0.9),
        lambda learning_rate, decay: sgd.sgd(learning_rate),
    ),
    Case(
        "skip_spikes",
        lambda learning_rate, momentum, **limits: gdjax.skip_spikes(
            gdjax.sgd(learning_rate, momentum), window=5, **limits
        ),
        dict(learning_rate=0.05, momentum=0.8, threshold=1e3, min_history=2.0, min_spread=0.1),
        lambda learning_rate, momentum, **limits: sgd.sgd(learning_rate, momentum),
        not_differentiable=("threshold", "min_history", "min_spread"),
    ),
    Case(
        "dpsgd",
        _dpsgd,
        dict(learning_rate=0.05, l2_norm_clip=6.0, noise_multiplier=0.02, momentum=0.7),
    ),
    Case(
        "reduce_on_plateau",
        _plateau,
        dict(learning_rate=0.05, factor=0.9, min_scale=0.3, atol=0.01),
        extras=loss_value,
        not_differentiable=("atol",),
    ),
    Case(
        "polynomial_average",
        lambda learning_rate, gamma: gdjax.polynomial_average(gdjax.sgd(learning_rate), gamma),
        dict(learning_rate=0.05, gamma=3.0),
        lambda learning_rate, gamma: sgd.sgd(learning_rate),
    ),
    Case("tail_average", _around_sgd(gdjax.tail_average, 2), MOMENTUM, sgd.sgd),
    Case("flatten", lambda **numbers: gdjax.flatten(gdjax.adam(**numbers)), ADAM, adam.adam),
    Case(
        "split_real_and_imaginary",
        lambda **numbers: gdjax.split_real_and_imaginary(gdjax.adam(**numbers)),
        ADAM,
        adam.adam,
    ),
    Case("monitor", _around_sgd(gdjax.monitor), MOMENTUM, sgd.sgd),
    *(
        Case(name, _around_sgd(getattr(gdjax, name), *key), MOMENTUM, sgd.sgd, dtypes=MIXED)
        for name, key in (
            ("with_kahan", ()),
            ("with_master_weights", ()),
            ("with_stochastic_rounding", (5,)),
        )
    ),
    Case("in_shard_map", _around_sgd(gdjax.in_shard_map, PartitionSpec()), MOMENTUM, sgd.sgd),
    Case(
        "with_loss_scale",
        lambda learning_rate, **numbers: gdjax.with_loss_scale(gdjax.sgd(learning_rate), **numbers),
        dict(
            learning_rate=0.05,
            init_scale=1.25,
            growth_interval=8.0,
            growth_factor=1.5,
            backoff_factor=0.5,
            min_scale=0.1,
        ),
        scaled,
        not_differentiable=("growth_interval",),
        dtypes=MIXED,
    ),
    Case("apply_if_finite", _around_sgd(gdjax.apply_if_finite, 5), MOMENTUM, sgd.sgd),
    Case(
        "guard",
        lambda max_squared_norm, **numbers: gdjax.guard(
            gdjax.sgd(**numbers), gdjax.skip_large_updates, max_squared_norm=max_squared_norm
        ),
        MOMENTUM | dict(max_squared_norm=1e6),
        lambda max_squared_norm, **numbers: sgd.sgd(**numbers),
    ),
    Case(
        "with_slot_dtypes",
        _around_sgd(gdjax.with_slot_dtypes, trace="float32"),
        MOMENTUM,
        not_differentiable=("learning_rate", "momentum"),  # differences of what is rounded
    ),
    # JAX has no derivatives of scans over arrays on the host: those of hypergradients are smaller
    Case("offload_to_host", _around_sgd(gdjax.offload_to_host, min_size=10), MOMENTUM, sgd.sgd),
    Case(
        "selective_transform",
        _around_sgd(gdjax.selective_transform, freeze_mask=IS_VECTOR),
        MOMENTUM,
        all_but_the_vector,
    ),
    Case(
        "freeze",
        lambda **numbers: gdjax.chain(gdjax.sgd(**numbers), gdjax.freeze(IS_VECTOR)),
        MOMENTUM,
        all_but_the_vector,
    ),
    Case(
        "masked",
        _in_chain(lambda trace: gdjax.masked(trace, NOT_VECTOR)),
        MOMENTUM,
        lambda learning_rate, momentum: groups.groups(
            {sgd.sgd(learning_rate, momentum): MOVING, sgd.sgd(learning_rate): ("vector",)}
        ),
    ),
    Case(
        "conditionally_transform",
        _in_chain(lambda trace: gdjax.conditionally_transform(trace, _even)),
        MOMENTUM,
        lambda learning_rate, momentum: every_other(learning_rate, momentum, learning_rate),
    ),
    Case(
        "conditionally_mask",
        _in_chain(lambda trace: gdjax.conditionally_mask(trace, _even)),
        MOMENTUM,
        lambda learning_rate, momentum: every_other(learning_rate, momentum, 0.0),
    ),
    Case("partition", _two_rates, MOMENTUM | dict(fast=0.07), two_rates),
]
