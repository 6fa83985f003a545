"""Bernstein et al. (2018), Algorithms 1 (signSGD) and 2 (Signum)."""

import numpy as np


def signum(learning_rate, beta=0.0):
    m = {}

    def step(theta, g, t):
        for k in theta:
            m[k] = beta * m.get(k, 0.0) + (1 - beta) * g[k]
        return {k: theta[k] - learning_rate * np.sign(m[k]) for k in theta}

    return step
