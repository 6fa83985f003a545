"""Ziyin, Wang & Ueda (2020), Algorithm 1."""

import numpy as np

import gdjax
from oracles.case import ADAM_PLAIN, Case


def laprop(learning_rate, b1, b2, eps, weight_decay):
    m, n = {}, {}

    def step(theta, g, t):
        c_n, c_m = 1 - b2**t, 1 - b1**t
        new = {}
        for k in theta:
            n[k] = b2 * n.get(k, 0.0) + (1 - b2) * g[k] ** 2
            m[k] = b1 * m.get(k, 0.0) + (1 - b1) * (g[k] / (np.sqrt(n[k] / c_n) + eps))
            new[k] = theta[k] - learning_rate * m[k] / c_m
            new[k] = new[k] - learning_rate * weight_decay * theta[k]
        return new

    return step


CASES = [
    Case("laprop", gdjax.laprop, ADAM_PLAIN, laprop),
]
