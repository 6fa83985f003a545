"""Tieleman & Hinton (2012); Graves (2013), eqs. 38-41; where eps stands is an option."""

from functools import partial

import numpy as np

import gdjax
from oracles.case import Case, direction


def rmsprop(
    learning_rate, decay, eps, initial_scale=0.0, momentum=0.0,
    centered=False, eps_in_sqrt=True, nesterov=False, bias_correction=False,
):  # fmt: skip
    n, mean, delta = {}, {}, {}

    def step(theta, g, t):
        c = 1 - decay**t if bias_correction else 1.0
        new = {}
        for k in theta:
            start = np.full_like(g[k], initial_scale)
            n[k] = decay * n.get(k, start) + (1 - decay) * g[k] ** 2
            mean[k] = decay * mean.get(k, 0.0) + (1 - decay) * g[k]
            spread = n[k] / c - (mean[k] / c) ** 2 if centered else n[k] / c
            spread = np.maximum(spread, 0.0)
            root = np.sqrt(spread + eps) if eps_in_sqrt else np.sqrt(spread) + eps
            move = -learning_rate * g[k] / root
            delta[k] = momentum * delta.get(k, 0.0) + move
            new[k] = theta[k] + (move + momentum * delta[k] if nesterov else delta[k])
        return new

    return step


RMS = dict(learning_rate=0.02, decay=0.8, eps=1e-3, initial_scale=0.3)

CASES = [
    Case("rmsprop", gdjax.rmsprop, RMS, rmsprop),
    Case(
        "rmsprop_momentum",
        partial(gdjax.rmsprop, eps_in_sqrt=False, bias_correction=True),
        RMS | dict(momentum=0.7),
        partial(rmsprop, eps_in_sqrt=False, bias_correction=True),
    ),
    Case(
        "rmsprop_centered",
        partial(gdjax.rmsprop, centered=True, nesterov=True),
        RMS | dict(momentum=0.7),
        partial(rmsprop, centered=True, nesterov=True),
    ),
]

CASES += [
    direction(CASES[0], gdjax.scale_by_rms),
]

CASES += [
    direction(CASES[2], gdjax.scale_by_stddev),
]
