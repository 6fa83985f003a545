"""Chen et al. (2023), Algorithm 2."""

import numpy as np


def lion(learning_rate, b1, b2, weight_decay, soften=lambda c, **_: np.sign(c), **numbers):
    m = {}

    def step(theta, g, t):
        new = {}
        for k in theta:
            zero = np.zeros_like(g[k])
            c = b1 * m.get(k, zero) + (1 - b1) * g[k]
            update = soften(c, **numbers)
            new[k] = theta[k] - learning_rate * (update + weight_decay * theta[k])
            m[k] = b2 * m.get(k, zero) + (1 - b2) * g[k]
        return new

    return step


def smooth(c, smooth_beta):
    return np.tanh(smooth_beta * c)


def refined(c):
    return np.clip(c, -1.0, 1.0)
