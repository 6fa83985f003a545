"""Ginsburg et al. (2019), Algorithm 1."""

import numpy as np

import gdjax
from oracles.case import Case, direction


def novograd(learning_rate, b1, b2, eps, eps_root, weight_decay):
    v, m = {}, {}

    def step(w, g, t):
        new = {}
        for k in w:
            square = np.sum(g[k] ** 2)
            v[k] = b2 * v[k] + (1 - b2) * square if k in v else square
            inner = g[k] / (np.sqrt(v[k] + eps_root) + eps) + weight_decay * w[k]
            m[k] = b1 * m[k] + inner if k in m else inner
            new[k] = w[k] - learning_rate * m[k]
        return new

    return step


CASES = [
    Case(
        "novograd",
        gdjax.novograd,
        dict(learning_rate=0.05, b1=0.8, b2=0.7, eps=1e-3, eps_root=1e-3, weight_decay=0.1),
        novograd,
    ),
]

CASES += [
    direction(CASES[0], gdjax.scale_by_novograd),
]
