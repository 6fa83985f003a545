"""Factors of the gradient: a number, a schedule, the size of the parameters, DoG's distance."""

from functools import partial

import numpy as np

import gdjax
from oracles.case import Case


def scale(learning_rate, decline=1.0):
    def step(theta, g, t):
        return {k: theta[k] - learning_rate * decline ** (t - 1) * g[k] for k in theta}

    return step


def param_block(learning_rate, min_scale, size):
    def step(theta, g, t):
        factor = {k: learning_rate * max(size(x), min_scale) for k, x in theta.items()}
        return {k: theta[k] - factor[k] * g[k] for k in theta}

    return step


def norm(x):
    return np.sqrt(np.sum(x**2))


def rms(x):
    return np.sqrt(np.mean(x**2))


def distance_over_gradients(reps_rel, eps, global_scale):
    """Ivgi, Hinder & Carmon (2023), eq. 2, layer by layer."""
    first, furthest, total = {}, {}, {}

    def step(theta, g, t):
        new = {}
        for k, x in theta.items():
            first.setdefault(k, x)
            least = furthest.get(k, reps_rel * (1 + norm(x)))
            furthest[k] = max(least, norm(x - first[k]))
            total[k] = total.get(k, 0.0) + np.sum(g[k] ** 2)
            new[k] = x + global_scale * furthest[k] / np.sqrt(total[k] + eps) * g[k]
        return new

    return step


def _along(factory):
    def make(learning_rate, **numbers):
        return gdjax.chain(factory(**numbers), gdjax.scale_by_learning_rate(learning_rate))

    return make


CASES = [
    Case("scale_by_learning_rate", gdjax.scale_by_learning_rate, dict(learning_rate=0.05), scale),
    Case(
        "scale_by_schedule",
        lambda learning_rate: gdjax.scale_by_schedule(
            gdjax.exponential_decay(-learning_rate, 1, 0.8)
        ),
        dict(learning_rate=0.05),
        partial(scale, decline=0.8),
    ),
    Case(
        "scale_by_param_block_norm",
        _along(gdjax.scale_by_param_block_norm),
        dict(learning_rate=0.02, min_scale=0.5),
        partial(param_block, size=norm),
    ),
    Case(
        "scale_by_param_block_rms",
        _along(gdjax.scale_by_param_block_rms),
        dict(learning_rate=0.05, min_scale=0.55),
        partial(param_block, size=rms),
    ),
    Case(
        "scale_by_distance_over_gradients",
        partial(gdjax.scale_by_distance_over_gradients, param_dtype=None),
        dict(reps_rel=0.02, eps=1e-3, global_scale=-0.9),
        distance_over_gradients,
        valley=3.5,  # no rate to tune, as l_dog
    ),
]
