"""Chen et al. (2023), Algorithm 2."""

from functools import partial

import numpy as np

import gdjax
from oracles.case import Case, direction


def lion(learning_rate, b1, b2, weight_decay, soften=lambda c, **_: np.sign(c), **numbers):
    m = {}

    def step(theta, g, t):
        new = {}
        for k in theta:
            zero = np.zeros_like(g[k])
            c = b1 * m.get(k, zero) + (1 - b1) * g[k]
            update = soften(c, **numbers)
            new[k] = theta[k] - learning_rate * (update + weight_decay * theta[k])
            m[k] = b2 * m.get(k, zero) + (1 - b2) * g[k]
        return new

    return step


def smooth(c, smooth_beta):
    return np.tanh(smooth_beta * c)


def refined(c):
    return np.clip(c, -1.0, 1.0)


LION = dict(learning_rate=0.02, b1=0.8, b2=0.95, weight_decay=0.1)

CASES = [
    Case("lion", gdjax.lion, LION, lion, not_differentiable=("b1", "b2")),
    Case(
        "lion_smooth",
        partial(gdjax.lion, mode="smooth"),
        LION | dict(smooth_beta=2.0),
        partial(lion, soften=smooth),
    ),
    Case(
        "lion_refined",
        partial(gdjax.lion, mode="refined"),
        LION,
        partial(lion, soften=refined),
    ),
]

CASES += [
    direction(CASES[0], gdjax.scale_by_lion),
]
