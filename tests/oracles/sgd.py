"""Sutskever et al. (2013), eqs. 1-4, with the learning rate outside the velocity."""

import numpy as np


def sgd(learning_rate, momentum=0.0):
    v = {}

    def step(theta, g, t):
        for k in theta:
            v[k] = momentum * v.get(k, np.zeros_like(g[k])) + g[k]
        return {k: theta[k] - learning_rate * v[k] for k in theta}

    return step


def nesterov(learning_rate, momentum):
    v = {}

    def step(theta, g, t):
        new = {}
        for k in theta:
            v[k] = momentum * v.get(k, np.zeros_like(g[k])) + g[k]
            new[k] = theta[k] - learning_rate * (momentum * v[k] + g[k])
        return new

    return step
