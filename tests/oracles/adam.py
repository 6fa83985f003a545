"""Kingma & Ba (2014), Algorithm 1; Loshchilov & Hutter (2017), Algorithm 2."""

import numpy as np

import gdjax
from oracles.case import ADAM, Case, direction


def adam(learning_rate, b1, b2, eps, eps_root=0.0, weight_decay=0.0):
    alpha, lam = learning_rate, weight_decay
    m, v = {}, {}

    def step(theta, g, t):
        new = {}
        for k in theta:
            m[k] = b1 * m.get(k, np.zeros_like(g[k])) + (1 - b1) * g[k]
            v[k] = b2 * v.get(k, np.zeros_like(g[k])) + (1 - b2) * g[k] ** 2
            m_hat = m[k] / (1 - b1**t)
            v_hat = v[k] / (1 - b2**t)
            new[k] = theta[k] - alpha * (m_hat / (np.sqrt(v_hat + eps_root) + eps) + lam * theta[k])
        return new

    return step


CASES = [
    Case("adam", gdjax.adam, ADAM, adam),
    Case("adamw", gdjax.adamw, ADAM | dict(weight_decay=0.1), adam),
]

CASES += [
    direction(CASES[0], gdjax.scale_by_adam),
]
