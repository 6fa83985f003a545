"""Yao et al. (2020), Algorithm 1, for a loss whose Hessian is the diagonal `curvature(theta)`."""

from functools import partial

import numpy as np

import gdjax
from oracles.case import ADAM_PLAIN, REAL, Case, curvature, curved_extras


def adahessian(
    learning_rate, b1, b2, eps, hessian_power, weight_decay, curvature, average=None, k=1
):
    average = average or {}
    m, v, seen = {}, {}, [0]

    def step(theta, g, t, obj_fn=None):
        refresh = t % k == 1 % k
        seen[0] += refresh
        new = {}
        for i in theta:
            if refresh:
                d = np.abs(curvature(theta[i]))
                if i in average:  # eq. 10: the same mean at all places of the window
                    d = np.broadcast_to(d.mean(average[i], keepdims=True), d.shape)
                v[i] = b2 * v.get(i, 0.0) + (1 - b2) * d * d
            m[i] = b1 * m.get(i, 0.0) + (1 - b1) * g[i]
            below = np.sqrt(v[i] / (1 - b2 ** seen[0])) ** hessian_power + eps
            move = m[i] / (1 - b1**t) / below
            new[i] = theta[i] - learning_rate * (move + weight_decay * theta[i])
        return new

    return step


ADAHESSIAN = ADAM_PLAIN | dict(hessian_power=1.0)

CASES = [
    Case(
        "adahessian",
        gdjax.adahessian,
        ADAHESSIAN,
        partial(adahessian, curvature=curvature),
        extras=curved_extras,
        dtypes=REAL,
    ),
    Case(
        "adahessian_averaged",
        partial(
            gdjax.adahessian,
            update_interval=3,
            average_axes=gdjax.by_path(
                {"kernel": (0, 1), "wide": 1, ".*": None}, allow_unused=True
            ),
        ),
        ADAHESSIAN | dict(hessian_power=0.8),
        partial(
            adahessian,
            curvature=curvature,
            average={"kernel": (0, 1), "wide": 1},
            k=3,
        ),
        extras=curved_extras,
        dtypes=REAL,
    ),
]
