"""Kingma & Ba (2014), Algorithm 2, with eps added to |g|."""

import numpy as np

import gdjax
from oracles.case import Case, direction


def adamax(learning_rate, b1, b2, eps, weight_decay=0.0):
    m, u = {}, {}

    def step(theta, g, t):
        alpha_t = learning_rate / (1 - b1**t)
        new = {}
        for k in theta:
            m[k] = b1 * m.get(k, 0.0) + (1 - b1) * g[k]
            u[k] = np.maximum(b2 * u.get(k, 0.0), np.abs(g[k]) + eps)
            new[k] = theta[k] - alpha_t * m[k] / u[k] - learning_rate * weight_decay * theta[k]
        return new

    return step


CASES = [
    Case(
        "adamax",
        gdjax.adamax,
        dict(learning_rate=0.02, b1=0.8, b2=0.9, eps=1e-3),
        adamax,
    ),
    Case(
        "adamaxw",
        gdjax.adamaxw,
        dict(learning_rate=0.02, b1=0.8, b2=0.9, eps=1e-3, weight_decay=0.1),
        adamax,
    ),
]

CASES += [
    direction(CASES[0], gdjax.scale_by_adamax),
]
