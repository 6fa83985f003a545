"""Duchi, Hazan & Singer (2011), eq. 1 with a diagonal matrix."""

import numpy as np


def adagrad(learning_rate, initial_accumulator_value, eps, eps_in_sqrt=True):
    total = {}

    def step(theta, g, t):
        new = {}
        for k in theta:
            start = np.full_like(g[k], initial_accumulator_value)
            total[k] = total.get(k, start) + g[k] ** 2
            root = np.sqrt(total[k] + eps) if eps_in_sqrt else np.sqrt(total[k]) + eps
            new[k] = theta[k] - learning_rate * np.where(total[k] > 0, g[k] / root, 0.0)
        return new

    return step
