"""Igel & Hüsken (2003), iRprop-, element by element."""

import numpy as np

import gdjax
from oracles.case import Case


def rprop(learning_rate, eta_minus, eta_plus, min_step_size, max_step_size):
    size, before = {}, {}

    def one(key, theta, g):
        delta = size.get(key, learning_rate)
        product = g * before.get(key, 0.0)
        if product > 0:
            delta = delta * eta_plus
        elif product < 0:
            delta = delta * eta_minus
            g = 0.0
        size[key] = delta = min(max(delta, min_step_size), max_step_size)
        before[key] = g
        return theta - np.sign(g) * delta

    def step(theta, g, t):
        new = {}
        for k in theta:
            flat = zip(theta[k].ravel(), g[k].ravel(), strict=True)
            moved = [one((k, i), x, y) for i, (x, y) in enumerate(flat)]
            new[k] = np.array(moved).reshape(theta[k].shape)
        return new

    return step


RPROP = dict(
    learning_rate=0.03, eta_minus=0.6, eta_plus=1.3, min_step_size=0.01, max_step_size=0.08
)

CASES = [
    Case("rprop", gdjax.rprop, RPROP, rprop),
]

CASES += [
    Case(
        "scale_by_rprop",
        lambda **numbers: gdjax.chain(gdjax.scale_by_rprop(**numbers), gdjax.scale(-1.0)),
        RPROP,
        rprop,
    ),
]
