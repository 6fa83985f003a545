"""Kingma & Ba (2014), Algorithm 2, with eps added to |g|."""

import numpy as np


def adamax(learning_rate, b1, b2, eps, weight_decay=0.0):
    m, u = {}, {}

    def step(theta, g, t):
        alpha_t = learning_rate / (1 - b1**t)
        new = {}
        for k in theta:
            m[k] = b1 * m.get(k, 0.0) + (1 - b1) * g[k]
            u[k] = np.maximum(b2 * u.get(k, 0.0), np.abs(g[k]) + eps)
            new[k] = theta[k] - alpha_t * m[k] / u[k] - learning_rate * weight_decay * theta[k]
        return new

    return step
