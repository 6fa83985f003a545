"""Duchi, Hazan & Singer (2011), eq. 1 with a diagonal matrix."""

from functools import partial

import numpy as np

import gdjax
from oracles.case import Case, direction


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


CASES = [
    Case(
        "adagrad",
        gdjax.adagrad,
        dict(learning_rate=0.3, initial_accumulator_value=0.2, eps=1e-3),
        adagrad,
    ),
    Case(
        "adagrad_torch",
        partial(gdjax.adagrad, eps_in_sqrt=False),
        dict(learning_rate=0.3, initial_accumulator_value=0.0, eps=1e-3),
        partial(adagrad, eps_in_sqrt=False),
    ),
]

CASES += [
    direction(CASES[0], gdjax.scale_by_rss),
]
