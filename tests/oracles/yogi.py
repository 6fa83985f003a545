"""Zaheer et al. (2018), Algorithm 2, with bias correction."""

import numpy as np

import gdjax
from oracles.case import ADAM, Case, direction


def yogi(learning_rate, b1, b2, eps, eps_root, initial_accumulator_value):
    m, v = {}, {}

    def step(x, g, t):
        new = {}
        for k in x:
            start = np.full_like(g[k], initial_accumulator_value)
            m[k] = b1 * m.get(k, start) + (1 - b1) * g[k]
            old = v.get(k, start)
            v[k] = old - (1 - b2) * np.sign(old - g[k] ** 2) * g[k] ** 2
            root = np.sqrt(v[k] / (1 - b2**t) + eps_root) + eps
            new[k] = x[k] - learning_rate * m[k] / (1 - b1**t) / root
        return new

    return step


CASES = [
    Case("yogi", gdjax.yogi, ADAM | dict(initial_accumulator_value=0.02), yogi),
]

CASES += [
    direction(CASES[0], gdjax.scale_by_yogi),
]
