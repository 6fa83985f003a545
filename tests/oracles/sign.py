"""Bernstein et al. (2018), Algorithms 1 (signSGD) and 2 (Signum)."""

import numpy as np

import gdjax
from oracles.case import Case, direction


def signum(learning_rate, beta=0.0):
    m = {}

    def step(theta, g, t):
        for k in theta:
            m[k] = beta * m.get(k, 0.0) + (1 - beta) * g[k]
        return {k: theta[k] - learning_rate * np.sign(m[k]) for k in theta}

    return step


CASES = [
    Case(
        "sign_sgd",
        gdjax.sign_sgd,
        dict(learning_rate=0.02),
        signum,
        valley=3.5,
    ),
    Case(
        "signum",
        gdjax.signum,
        dict(learning_rate=0.02, beta=0.8),
        signum,
        not_differentiable=("beta",),
    ),
]

CASES += [
    direction(CASES[0], gdjax.scale_by_sign),
]
