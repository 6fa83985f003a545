"""Zhuang et al. (2020), Algorithm 2."""

import numpy as np

import gdjax
from oracles.case import ADAM, Case, direction


def adabelief(learning_rate, b1, b2, eps, eps_root):
    m, s = {}, {}

    def step(theta, g, t):
        new = {}
        for k in theta:
            m[k] = b1 * m.get(k, 0.0) + (1 - b1) * g[k]
            s[k] = b2 * s.get(k, 0.0) + (1 - b2) * (g[k] - m[k]) ** 2 + eps_root
            m_hat, s_hat = m[k] / (1 - b1**t), s[k] / (1 - b2**t)
            new[k] = theta[k] - learning_rate * m_hat / (np.sqrt(s_hat) + eps)
        return new

    return step


CASES = [
    Case("adabelief", gdjax.adabelief, ADAM | dict(eps_root=1e-3), adabelief),
]

CASES += [
    direction(CASES[0], gdjax.scale_by_belief),
]
