"""Taniguchi et al. (2024), Algorithm 2: v_0 = |g_0|^2, then steps, with c_t = t^(1/4)."""

from functools import partial

import numpy as np

import gdjax
from oracles.case import ADAM_PLAIN, Case, direction


def adopt(learning_rate, b1, b2, eps, weight_decay=0.0, clip=True, nesterov=False):
    m, v = {}, {}

    def step(theta, g, t):
        new = {}
        for k in theta:
            new[k] = theta[k] - learning_rate * weight_decay * theta[k]
            if t == 1:
                m[k], v[k] = np.zeros_like(g[k]), g[k] ** 2
                continue
            x = g[k] / np.maximum(np.sqrt(v[k]), eps)
            if clip:
                x = np.clip(x, -((t - 1) ** 0.25), (t - 1) ** 0.25)
            m[k] = b1 * m[k] + (1 - b1) * x
            v[k] = b2 * v[k] + (1 - b2) * g[k] ** 2
            move = b1 * m[k] + (1 - b1) * x if nesterov else m[k]
            new[k] = new[k] - learning_rate * move
        return new

    return step


ADOPT = ADAM_PLAIN | dict(eps=0.23)

CASES = [
    Case("adopt", gdjax.adopt, ADOPT, adopt),
    Case(
        "adopt_nesterov",
        partial(gdjax.adopt, nesterov=True, use_clipping=False),
        ADOPT,
        partial(adopt, nesterov=True, clip=False),
    ),
]

CASES += [
    direction(CASES[0], gdjax.scale_by_adopt),
]
