"""Weight decay of every kind, cautious updates and MARS, around plain momentum, AdamW and Lion."""

from functools import partial

import numpy as np

import gdjax
from oracles.case import Case


def decayed_momentum(kind, cautious=False, decline=0.9):
    """Momentum with eta_t = learning_rate * decline**(t - 1), and one kind of decay."""

    def make(learning_rate, momentum, weight_decay):
        v = {}

        def step(theta, g, t):
            new = {}
            eta_max, eta = learning_rate, learning_rate * decline ** (t - 1)
            for k in theta:
                grad = g[k] + (weight_decay * theta[k] if kind == "l2" else 0)
                v[k] = momentum * v.get(k, 0) + grad
                u = eta * v[k]
                lam = {
                    "l2": 0.0,
                    "decoupled": eta * weight_decay,
                    "independent": eta / eta_max * weight_decay,
                    "corrected": eta**2 / eta_max * weight_decay,
                }[kind]
                decays = (u * theta[k] >= 0) if cautious else True
                new[k] = theta[k] - u - lam * theta[k] * decays
            return new

        return step

    return make


def cautious_adam(learning_rate, b1, b2, eps, min_share):
    m, v = {}, {}

    def step(theta, g, t):
        new = {}
        for k in theta:
            m[k] = b1 * m.get(k, 0) + (1 - b1) * g[k]
            v[k] = b2 * v.get(k, 0) + (1 - b2) * g[k] ** 2
            u = (m[k] / (1 - b1**t)) / (np.sqrt(v[k] / (1 - b2**t)) + eps)
            phi = (u * g[k] > 0).astype(float)
            new[k] = theta[k] - learning_rate * u * phi / max(phi.mean(), min_share)
        return new

    return step


def _corrected(g, previous, gamma, beta1):
    c = g + gamma * beta1 / (1 - beta1) * (g - previous)
    return c / max(1.0, np.sqrt(np.sum(c**2)))


def mars_adamw(learning_rate, b1, b2, eps, weight_decay, gamma):
    m, v, last = {}, {}, {}

    def step(x, g, t):
        new = {}
        for k in x:
            c = _corrected(g[k], last.get(k, 0), gamma, b1)
            last[k] = g[k]
            m[k] = b1 * m.get(k, 0) + (1 - b1) * c
            v[k] = b2 * v.get(k, 0) + (1 - b2) * c**2
            u = (m[k] / (1 - b1**t)) / (np.sqrt(v[k] / (1 - b2**t)) + eps)
            new[k] = x[k] - learning_rate * (u + weight_decay * x[k])
        return new

    return step


def mars_lion(learning_rate, b1, b2, weight_decay, gamma):
    m, last = {}, {}

    def step(x, g, t):
        new = {}
        for k in x:
            c = _corrected(g[k], last.get(k, 0), gamma, b1)
            last[k] = g[k]
            u = np.sign(b1 * m.get(k, 0) + (1 - b1) * c)
            m[k] = b2 * m.get(k, 0) + (1 - b2) * c
            new[k] = x[k] - learning_rate * (u + weight_decay * x[k])
        return new

    return step


def around(wrapper, factory, own):
    """Return a factory whose numbers named in `own` go to the wrapper, the others inside."""

    def make(**numbers):
        outer = {name: numbers.pop(name) for name in own}
        return wrapper(factory(**numbers), **outer)

    return make


def _decayed_momentum(kind, careful, learning_rate, momentum, weight_decay):
    rate = gdjax.exponential_decay(learning_rate, 1, 0.9)
    return gdjax.with_weight_decay(
        gdjax.sgd(rate, momentum),
        weight_decay,
        kind,
        cautious=careful,
        max_learning_rate=learning_rate,
    )


CASES = [
    *(
        Case(
            f"decay_{kind}{'_cautious' if careful else ''}",
            partial(_decayed_momentum, kind, careful),
            dict(learning_rate=0.05, momentum=0.8, weight_decay=0.3),
            decayed_momentum(kind, careful),
            of="with_weight_decay",
        )
        for kind, careful in [
            ("l2", False),
            ("decoupled", False),
            ("independent", True),
            ("corrected", False),
        ]
    ),
    Case(
        "cautious_adam",
        around(gdjax.cautious, gdjax.adam, ("min_share",)),
        dict(learning_rate=0.02, b1=0.85, b2=0.95, eps=1e-6, min_share=0.4),
        cautious_adam,
        of="cautious",
    ),
    Case(
        "mars_adamw",
        lambda gamma, b1, **rest: gdjax.mars(gdjax.adamw(b1=b1, **rest), gamma, b1),
        dict(learning_rate=0.02, b1=0.85, b2=0.95, eps=1e-6, weight_decay=0.1, gamma=0.2),
        mars_adamw,
        of="mars",
    ),
    Case(
        "mars_lion",
        lambda gamma, b1, **rest: gdjax.mars(gdjax.lion(b1=b1, **rest), gamma, b1),
        dict(learning_rate=0.02, b1=0.85, b2=0.95, weight_decay=0.1, gamma=0.2),
        mars_lion,
        of="mars",
    ),
]
