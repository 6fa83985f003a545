"""Defazio (2026): ScheduleFree+, with x, y and z all kept."""

import numpy as np

import gdjax
from oracles.case import Case, loss_value


def schedule_free_plus(
    learning_rate, b1, b2, eps, weight_decay, b3, beta, weight_lr_power, weight_count_power,
    average_start, beta_max=0.0, anneal_steps=None,
):  # fmt: skip
    x, z, m, v, weights = {}, {}, {}, {}, []
    e = largest = 0.0

    def beta_at(k):
        if anneal_steps is None:
            return beta
        p = min(k / anneal_steps, 1.0)
        return 1 - np.exp(np.log(1 - beta) * (1 - p) + np.log(1 - beta_max) * p)

    def step(y, g, t, value):
        nonlocal e, largest
        for k in y:
            x.setdefault(k, y[k])
            z.setdefault(k, y[k])
        b = beta_at(t - 1)
        slope = b * sum(np.sum(g[k] * (z[k] - x[k])) for k in y)
        size = sum(np.sum(np.abs(g[k])) for k in y)
        e = b3 * e + (1 - b3) * size * np.sqrt(np.pi / 2)
        alpha = learning_rate * max(0.0, value + slope) / (e / (1 - b3**t))
        largest = max(largest, alpha)
        c = 1.0
        if t > average_start:
            weights.append(t**weight_count_power * largest**weight_lr_power)
            c = weights[-1] / sum(weights)
        for k in y:
            m[k] = b1 * m.get(k, 0.0) + (1 - b1) * g[k]
            v[k] = b2 * v.get(k, 0.0) + (1 - b2) * g[k] ** 2
            z[k] = z[k] - alpha**2 * weight_decay * y[k]
            z[k] = z[k] - alpha * (m[k] / (1 - b1**t)) / (np.sqrt(v[k] / (1 - b2**t)) + eps)
            x[k] = (1 - c) * x[k] + c * z[k]
        return {k: b * x[k] + (1 - b) * z[k] for k in y}

    step.x = x  # what to evaluate with
    return step


CASES = [
    Case(
        "schedule_free_plus",
        gdjax.schedule_free_plus,
        dict(
            learning_rate=0.6,
            b1=0.8,
            b2=0.9,
            eps=1e-3,
            weight_decay=0.1,
            b3=0.5,
            beta=0.7,
            beta_max=0.95,
            anneal_steps=12.0,
            average_start=3.0,
            weight_lr_power=1.5,
            weight_count_power=0.5,
        ),
        schedule_free_plus,
        extras=loss_value,
        not_differentiable=("average_start",),
    ),
]
