"""Sutskever et al. (2013), eqs. 1-4, with the learning rate outside the velocity."""

from functools import partial

import numpy as np

import gdjax
from oracles.case import Case


def sgd(learning_rate, momentum=0.0):
    v = {}

    def step(theta, g, t):
        for k in theta:
            v[k] = momentum * v.get(k, np.zeros_like(g[k])) + g[k]
        return {k: theta[k] - learning_rate * v[k] for k in theta}

    return step


def nesterov(learning_rate, momentum):
    v = {}

    def step(theta, g, t):
        new = {}
        for k in theta:
            v[k] = momentum * v.get(k, np.zeros_like(g[k])) + g[k]
            new[k] = theta[k] - learning_rate * (momentum * v[k] + g[k])
        return new

    return step


CASES = [
    Case("gradient_descent", gdjax.gradient_descent, dict(learning_rate=0.05), sgd),
    Case("momentum", gdjax.sgd, dict(learning_rate=0.05, momentum=0.8), sgd),
    Case(
        "nesterov",
        partial(gdjax.sgd, nesterov=True),
        dict(learning_rate=0.05, momentum=0.8),
        nesterov,
    ),
    Case("noisy_sgd", gdjax.noisy_sgd, dict(learning_rate=0.05, eta=0.02, gamma=0.5)),
]

CASES += [
    Case(
        "trace",
        lambda learning_rate, decay: gdjax.chain(
            gdjax.trace(decay), gdjax.scale_by_learning_rate(learning_rate)
        ),
        dict(learning_rate=0.05, decay=0.8),
        lambda learning_rate, decay: sgd(learning_rate, decay),
    ),
]
