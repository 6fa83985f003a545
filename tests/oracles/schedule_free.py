"""Defazio et al. (2024), eqs. 3-5 and Algorithm 1, with x, y and z all kept; gpa with a fixed c."""

from functools import partial

import numpy as np

import gdjax
from oracles.case import Case


def _average(rate_at, direction, b1, weight_lr_power, weight_count_power, decay):
    x, z, weights, largest = {}, {}, [], 0.0

    def step(y, g, t):
        nonlocal largest
        gamma = rate_at(t)
        largest = max(largest, gamma)
        weights.append(t**weight_count_power * largest**weight_lr_power)
        c = weights[-1] / sum(weights) if sum(weights) else 0.0
        for k in y:
            x.setdefault(k, y[k])
            z.setdefault(k, y[k])
            z[k] = z[k] - gamma * (direction(k, g[k], t) + decay * y[k])
            x[k] = (1 - c) * x[k] + c * z[k]
        return {k: (1 - b1) * z[k] + b1 * x[k] for k in y}

    step.x = x  # what to evaluate with
    return step


def sgd(
    learning_rate, b1, weight_lr_power, weight_count_power=0.0, weight_decay=0.0, warmup_steps=0
):
    def rate_at(t):
        return learning_rate * (min(1.0, t / warmup_steps) if warmup_steps else 1.0)

    powers = weight_lr_power, weight_count_power
    return _average(rate_at, lambda k, g, t: g, b1, *powers, weight_decay)


def adamw(
    learning_rate, warmup_steps, b1, b2, eps, weight_decay, weight_lr_power, weight_count_power
):
    v = {}

    def direction(k, g, t):
        v[k] = b2 * v.get(k, 0.0) + (1 - b2) * g**2
        return g / (np.sqrt(v[k] / (1 - b2**t)) + eps)

    def rate_at(t):
        return learning_rate * min(1.0, t / warmup_steps)

    return _average(rate_at, direction, b1, weight_lr_power, weight_count_power, weight_decay)


def radam(learning_rate, b1, b2, eps, weight_decay, weight_lr_power, weight_count_power, silent):
    """Liu et al. (2019), Algorithm 2, for the rectification."""
    v = {}
    rho_inf = 2 / (1 - b2) - 1

    def rho(t):
        return rho_inf - 2 * t * b2**t / (1 - b2**t)

    def direction(k, g, t):
        v[k] = b2 * v.get(k, 0.0) + (1 - b2) * g**2
        return g / (np.sqrt(v[k] / (1 - b2**t)) + eps) if rho(t) > 4 else g

    def rate_at(t):
        p = rho(t)
        if p <= 4:
            return 0.0 if silent else learning_rate
        ratio = (p - 4) * (p - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * p)
        return learning_rate * np.sqrt(ratio)

    return _average(rate_at, direction, b1, weight_lr_power, weight_count_power, weight_decay)


def gpa(learning_rate, mu_x, mu_y):
    x, z = {}, {}

    def step(y, g, t):
        for k in y:
            x.setdefault(k, y[k])
            z[k] = z.get(k, y[k]) - learning_rate * g[k]
            x[k] = mu_x * x[k] + (1 - mu_x) * z[k]
        return {k: mu_y * x[k] + (1 - mu_y) * z[k] for k in y}

    step.x = x
    return step


SCHEDULE_FREE = dict(learning_rate=0.05, b1=0.8, weight_lr_power=1.5, weight_count_power=0.5)

SF_ADAM = SCHEDULE_FREE | dict(b2=0.95, eps=1e-3, weight_decay=0.1)

CASES = [
    Case(
        "schedule_free_sgd",
        gdjax.schedule_free_sgd,
        SCHEDULE_FREE | dict(weight_decay=0.1, warmup_steps=4.0),
        sgd,
    ),
    Case(
        "schedule_free_adamw",
        gdjax.schedule_free_adamw,
        SF_ADAM | dict(warmup_steps=4.0),
        adamw,
    ),
    Case(
        "schedule_free_radam",
        gdjax.schedule_free_radam,
        SF_ADAM,
        partial(radam, silent=True),
    ),
    Case(
        "schedule_free",
        lambda learning_rate, **numbers: gdjax.schedule_free(
            gdjax.sgd(learning_rate), learning_rate, **numbers
        ),
        SCHEDULE_FREE,
        sgd,
    ),
    Case(
        "gpa",
        lambda learning_rate, **numbers: gdjax.gpa(gdjax.sgd(learning_rate), **numbers),
        dict(learning_rate=0.05, mu_x=0.9, mu_y=0.7),
        gpa,
    ),
]
