"""The default: SOAP of rate 1 on one side of each matrix, times a schedule and a width factor."""

from functools import partial

import numpy as np

import gdjax
from oracles.case import Case
from oracles.soap import soap


def default_optimizer(
    steps, learning_rate, b1, b2, weight_decay, warmup, base_width, precondition_frequency
):
    methods, widths, rise = {}, {}, warmup * steps

    def begin(k, x):
        decay = weight_decay if x.ndim > 1 else 0.0
        numbers = (1.0, b1, b2, b2, 1e-8, decay, precondition_frequency)
        methods[k] = soap(*numbers, one_sided=True)
        most = np.prod(sorted(x.shape)[:-1])  # 1 for a vector
        widths[k] = min(max(1 / np.mean(x**2), 1), most)

    def step(theta, grads, t):
        n = t - 1
        part = n / rise if n < rise else max(steps - n, 0) / (steps - rise)
        new = {}
        for k, x in theta.items():
            if t == 1:
                begin(k, x)
            move = methods[k]({k: x}, {k: grads[k]}, t)[k] - x
            new[k] = x + learning_rate * part * min(base_width / widths[k], 1) * move
        return new

    return step


CASES = [
    Case(
        "default_optimizer",
        partial(gdjax.default_optimizer, precondition_frequency=4),
        dict(
            steps=300.0,
            learning_rate=0.05,
            b1=0.85,
            b2=0.9,
            weight_decay=0.1,
            warmup=0.01,
            base_width=0.8,
        ),
        partial(default_optimizer, precondition_frequency=4),
    ),
]
