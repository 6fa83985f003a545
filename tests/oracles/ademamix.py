"""Pagliardini et al. (2024), Algorithm 1 and eqs. for the warm-ups; Morwani et al. (2025)."""

import math

import numpy as np

import gdjax
from oracles.case import ADAM_DECAY, Case, direction


def warm_alpha(t, alpha, total):
    return min(t * alpha / total, alpha)


def warm_b3(t, b1, b3, total):
    top = math.log(b1) * math.log(b3)
    bottom = (1 - t / total) * math.log(b3) + (t / total) * math.log(b1)
    return min(math.exp(top / bottom), b3)


def ademamix(learning_rate, b1, b2, b3, alpha, eps, eps_root, weight_decay, total=None):
    m1, m2, nu = {}, {}, {}

    def step(theta, g, t):
        a = alpha if total is None else warm_alpha(t, alpha, total)
        beta3 = b3 if total is None else warm_b3(t, b1, b3, total)
        new = {}
        for k in theta:
            m1[k] = b1 * m1.get(k, 0.0) + (1 - b1) * g[k]
            m2[k] = beta3 * m2.get(k, 0.0) + (1 - beta3) * g[k]
            nu[k] = b2 * nu.get(k, 0.0) + (1 - b2) * g[k] ** 2
            nu_hat = nu[k] / (1 - b2**t)
            move = (m1[k] / (1 - b1**t) + a * m2[k]) / (np.sqrt(nu_hat + eps_root) + eps)
            new[k] = theta[k] - learning_rate * (move + weight_decay * theta[k])
        return new

    return step


def simplified_ademamix(learning_rate, b1, b2, alpha, eps, eps_root, weight_decay):
    m, nu = {}, {}

    def step(theta, g, t):
        new = {}
        for k in theta:
            m[k] = b1 * m.get(k, 0.0) + g[k]
            nu[k] = b2 * nu.get(k, 0.0) + (1 - b2) * g[k] ** 2
            move = (m[k] + alpha * g[k]) / (np.sqrt(nu[k] / (1 - b2**t) + eps_root) + eps)
            new[k] = theta[k] - learning_rate * (move + weight_decay * theta[k])
        return new

    return step


ADEMAMIX = ADAM_DECAY | dict(b3=0.99, alpha=4.0)

CASES = [
    Case("ademamix", gdjax.ademamix, ADEMAMIX, ademamix),
    Case(
        "simplified_ademamix",
        gdjax.simplified_ademamix,
        ADAM_DECAY | dict(alpha=3.0),
        simplified_ademamix,
    ),
]

CASES += [
    direction(CASES[0], gdjax.scale_by_ademamix),
    direction(CASES[1], gdjax.scale_by_simplified_ademamix),
]
