"""Xie et al. (2022), Algorithm 1, in the paper's betas, with the bias correction of its code."""

from functools import partial

import numpy as np

import gdjax
from oracles.case import Case, direction


def adan(learning_rate, b1, b2, b3, eps, eps_root, weight_decay, proximal=False):
    eta, lam = learning_rate, weight_decay
    beta1, beta2, beta3 = 1 - b1, 1 - b2, 1 - b3
    m, v, n, before = {}, {}, {}, {}

    def step(theta, g, t):
        new = {}
        for k in theta:
            diff = g[k] - before.get(k, g[k])
            m[k] = (1 - beta1) * m.get(k, 0.0) + beta1 * g[k]
            v[k] = (1 - beta2) * v.get(k, 0.0) + beta2 * diff
            n[k] = (1 - beta3) * n.get(k, 0.0) + beta3 * (g[k] + (1 - beta2) * diff) ** 2
            before[k] = g[k]
            root = np.sqrt(n[k] / (1 - b3**t) + eps_root) + eps
            move = (m[k] / (1 - b1**t) + (1 - beta2) * v[k] / (1 - b2**t)) * eta / root
            if proximal:
                new[k] = (theta[k] - move) / (1 + lam * eta)
            else:
                new[k] = theta[k] - move - eta * lam * theta[k]
        return new

    return step


ADAN = dict(learning_rate=0.02, b1=0.9, b2=0.7, b3=0.95, eps=1e-3, eps_root=1e-6, weight_decay=0.1)

CASES = [
    Case("adan", gdjax.adan, ADAN, adan),
    Case(
        "adan_paper",
        partial(gdjax.adan, proximal=True),
        ADAN,
        partial(adan, proximal=True),
    ),
]

CASES += [
    direction(CASES[0], gdjax.scale_by_adan),
]
