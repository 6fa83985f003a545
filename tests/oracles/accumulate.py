"""A step of gradient descent with momentum along the mean of every k gradients."""

from functools import partial

import numpy as np

import gdjax
from oracles import sgd
from oracles.case import Case


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


CASES = [
    Case(
        "accumulate",
        lambda **numbers: gdjax.accumulate(gdjax.sgd(**numbers), every_k=3),
        dict(learning_rate=0.05, momentum=0.8),
        partial(accumulate, every_k=3),
    ),
]
