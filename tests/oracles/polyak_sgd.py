"""Loizou et al. (2020), SPS_max with one batch."""

from functools import partial

import numpy as np

import gdjax
from oracles.case import Case, direction, loss_value


def polyak(max_learning_rate, scaling, f_min, eps, plus=False):
    def step(theta, g, t, value):
        gap = value - f_min
        if plus:
            gap = max(gap, 0.0)
        norm = np.sqrt(sum(np.sum(x**2) for x in g.values()))
        gamma = min(gap / (norm**2 + eps), max_learning_rate)
        return {k: theta[k] - scaling * gamma * g[k] for k in theta}

    return step


POLYAK = dict(max_learning_rate=10.0, scaling=0.6, f_min=0.5, eps=1e-3)

CASES = [
    Case("polyak_sgd", gdjax.polyak_sgd, POLYAK, polyak, loss_value),
    Case(
        "polyak_sgd_bounded",
        partial(gdjax.polyak_sgd, variant="sps+"),
        POLYAK | dict(max_learning_rate=0.05, f_min=20.0),
        partial(polyak, plus=True),
        loss_value,
    ),
]

CASES += [
    direction(CASES[0], gdjax.scale_by_polyak, rate="scaling"),
]
