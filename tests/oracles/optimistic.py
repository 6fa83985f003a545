"""Mokhtari et al. (2019), generalized optimistic descent; Daskalakis et al. (2017), Algorithm 1."""

from oracles.adam import adam
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
