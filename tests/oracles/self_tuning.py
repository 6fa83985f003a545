"""Baydin et al. (2018), the multiplicative rule, with momentum, on a log and a logit scale."""

import numpy as np

import gdjax
from oracles.case import Case


def sgd_hd(learning_rate, momentum, tuning_rate):
    z = {"rate": np.log(learning_rate), "decay": np.log(momentum / (1 - momentum))}
    trace, slope = {}, {}

    def cosine(g, s):
        norms = [np.sqrt(sum(np.sum(x**2) for x in tree.values())) for tree in (g, s)]
        return sum(np.sum(g[k] * s[k]) for k in g) / np.prod(norms) if np.prod(norms) else 0.0

    def step(theta, g, t):
        if t > 1:
            h = {name: cosine(g, slope[name]) for name in z}
            z["rate"] -= tuning_rate * h["rate"]
            if t > 3:  # a mean of one gradient does not depend on its decay
                z["decay"] -= tuning_rate * h["decay"]
        rate, decay = np.exp(z["rate"]), 1 / (1 + np.exp(-z["decay"]))
        old = {k: trace.get(k, 0.0 * g[k]) for k in g}
        trace.update({k: g[k] + decay * old[k] for k in g})
        slope["rate"] = {k: -rate * trace[k] for k in g}
        slope["decay"] = {k: -rate * decay * (1 - decay) * old[k] for k in g}
        return {k: theta[k] - rate * trace[k] for k in theta}

    return step


CASES = [
    Case(
        "self_tuning",
        lambda tuning_rate, **numbers: gdjax.self_tuning(
            gdjax.sgd(**numbers), ("learning_rate", "momentum"), tuning_rate
        ),
        dict(learning_rate=0.05, momentum=0.8, tuning_rate=0.05),
        sgd_hd,
    ),
]
