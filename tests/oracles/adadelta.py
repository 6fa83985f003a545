"""Zeiler (2012), Algorithm 1, times a learning rate, with L2 decay."""

import numpy as np

import gdjax
from oracles.case import Case, direction


def adadelta(learning_rate, rho, eps, weight_decay):
    eg, ex = {}, {}

    def rms(x):
        return np.sqrt(x + eps)

    def step(theta, g, t):
        new = {}
        for k in theta:
            grad = g[k] + weight_decay * theta[k]
            eg[k] = rho * eg.get(k, np.zeros_like(grad)) + (1 - rho) * grad**2
            dx = -rms(ex.get(k, np.zeros_like(grad))) / rms(eg[k]) * grad
            ex[k] = rho * ex.get(k, np.zeros_like(grad)) + (1 - rho) * dx**2
            new[k] = theta[k] + learning_rate * dx
        return new

    return step


CASES = [
    Case(
        "adadelta",
        gdjax.adadelta,
        dict(learning_rate=0.7, rho=0.8, eps=1e-2, weight_decay=0.1),
        adadelta,
    ),
]

CASES += [
    direction(CASES[0], gdjax.scale_by_adadelta),
]
