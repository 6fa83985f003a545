"""Mokhtari et al. (2019), generalized optimistic descent; Daskalakis et al. (2017), Algorithm 1."""

from functools import partial

import gdjax
from oracles.adam import adam
from oracles.case import ADAM, Case, direction
from oracles.nadam import constant


def optimistic(learning_rate, alpha, beta):
    before = {}

    def step(theta, g, t):
        new = {}
        for k in theta:
            old = before.get(k, g[k])
            new[k] = theta[k] - learning_rate * ((alpha + beta) * g[k] - beta * old)
            before[k] = g[k]
        return new

    return step


def optimistic_adam(learning_rate, alpha, beta, nesterov=False, **numbers):
    inner = (constant if nesterov else adam)(learning_rate=1.0, **numbers)
    outer = optimistic(learning_rate, alpha, beta)

    def step(theta, g, t):
        moved = inner({k: 0.0 * x for k, x in theta.items()}, g, t)
        return outer(theta, {k: -x for k, x in moved.items()}, t)

    return step


def optimistic_adam_v1(learning_rate, optimism, **numbers):
    return optimistic_adam(1.0, learning_rate, optimism, **numbers)


CASES = [
    Case(
        "optimistic_gradient_descent",
        gdjax.optimistic_gradient_descent,
        dict(learning_rate=0.05, alpha=0.8, beta=0.6),
        optimistic,
    ),
    Case(
        "optimistic_adam",
        gdjax.optimistic_adam,
        ADAM | dict(optimism=0.03),
        partial(optimistic_adam_v1, nesterov=True),
    ),
    Case(
        "optimistic_adam_v2",
        partial(gdjax.optimistic_adam_v2, nesterov=False),
        ADAM | dict(alpha=0.8, beta=0.6),
        optimistic_adam,
    ),
]

CASES += [
    direction(CASES[0], gdjax.scale_by_optimistic_gradient),
]
