"""Loizou et al. (2020), SPS_max with one batch."""

import numpy as np


def polyak(max_learning_rate, scaling, f_min, eps, plus=False):
    def step(theta, g, t, value):
        gap = value - f_min
        if plus:
            gap = max(gap, 0.0)
        norm = np.sqrt(sum(np.sum(x**2) for x in g.values()))
        gamma = min(gap / (norm**2 + eps), max_learning_rate)
        return {k: theta[k] - scaling * gamma * g[k] for k in theta}

    return step
