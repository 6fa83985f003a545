"""A step of gradient descent with momentum along the mean of every k gradients."""

import numpy as np

from oracles import sgd


def accumulate(learning_rate, momentum, every_k):
    descend, gathered = sgd.sgd(learning_rate, momentum), []

    def step(theta, g, t):
        gathered.append(g)
        if len(gathered) < every_k:
            return theta
        mean = {k: np.mean([x[k] for x in gathered], axis=0) for k in g}
        gathered.clear()
        return descend(theta, mean, t)

    return step
