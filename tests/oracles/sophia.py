"""Liu et al. (2023), Algorithm 3, for a loss whose Hessian is the diagonal `curvature(theta)`."""

from functools import partial

import numpy as np

import gdjax
from oracles.case import REAL, Case, curvature, curved_extras, direction


def sophia(learning_rate, b1, b2, eps, gamma, clip_threshold, weight_decay, curvature, k):
    m, h = {}, {}

    def step(theta, g, t, obj_fn=None):
        new = {}
        for i in theta:
            m[i] = b1 * m.get(i, 0.0) + (1 - b1) * g[i]
            if t % k == 1 % k:
                h[i] = b2 * h.get(i, 0.0) + (1 - b2) * curvature(theta[i])
            decayed = theta[i] - learning_rate * weight_decay * theta[i]
            ratio = m[i] / np.maximum(gamma * h[i], eps)
            new[i] = decayed - learning_rate * np.clip(ratio, -clip_threshold, clip_threshold)
        return new

    return step


SOPHIA = dict(learning_rate=0.02, b1=0.85, b2=0.8, eps=1e-3, gamma=0.9, weight_decay=0.1)
SOPHIA |= dict(clip_threshold=0.8)

CASES = [
    Case(
        "sophia",
        partial(gdjax.sophia, update_interval=3),
        SOPHIA,
        partial(sophia, curvature=curvature, k=3),
        extras=curved_extras,
        dtypes=REAL,
    ),
]

CASES += [
    direction(CASES[0], partial(gdjax.scale_by_sophia, update_interval=3)),
]
