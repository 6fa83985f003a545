"""Ma & Yarats (2018), section 4; g and s are the corrected moments."""

import numpy as np

import gdjax
from oracles.case import ADAM_DECAY, Case


def qhadam(learning_rate, b1, b2, q1, q2, eps, eps_root, weight_decay):
    g, s = {}, {}

    def step(theta, grad, t):
        new = {}
        for k, d in grad.items():
            g[k] = (1 - b1) * d + b1 * g.get(k, 0.0)
            s[k] = (1 - b2) * d * d + b2 * s.get(k, 0.0)
            top = (1 - q1) * d + q1 * (g[k] / (1 - b1**t))
            bottom = np.sqrt((1 - q2) * d * d + q2 * (s[k] / (1 - b2**t)) + eps_root) + eps
            new[k] = theta[k] - learning_rate * (top / bottom + weight_decay * theta[k])
        return new

    return step


CASES = [
    Case("qhadam", gdjax.qhadam, ADAM_DECAY | dict(q1=0.7, q2=0.9), qhadam),
]
