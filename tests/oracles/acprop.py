"""Zhuang et al. (2021), Algorithm 2, with the authors' bias correction and plain first step."""

import numpy as np

import gdjax
from oracles.case import ADAM_DECAY, Case, direction


def acprop(learning_rate, b1, b2, eps, eps_root, weight_decay):
    m, s = {}, {}

    def step(theta, g, t):
        new = {}
        for k in theta:
            root = 1.0 if t == 1 else np.sqrt(s[k] / (1 - b2 ** (t - 1)))
            move = g[k] / (root + eps) + weight_decay * theta[k]
            new[k] = theta[k] - learning_rate * move
            m[k] = b1 * m.get(k, 0.0) + (1 - b1) * g[k]
            s[k] = b2 * s.get(k, 0.0) + (1 - b2) * (g[k] - m[k]) ** 2 + eps_root
        return new

    return step


CASES = [
    Case("acprop", gdjax.acprop, ADAM_DECAY | dict(eps_root=1e-4), acprop),
]

CASES += [
    direction(CASES[0], gdjax.scale_by_acprop),
]
