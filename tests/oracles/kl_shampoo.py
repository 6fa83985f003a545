"""Lin et al. (2025): Kronecker factors by their KL fixed point, inverses taken in the bases."""

from functools import partial

import numpy as np

import gdjax
from oracles.case import SOAP, Case
from oracles.soap import apply, sides, soap, unfold


def inverse_sqrt(factor, basis, eps):
    """Return what stands for factor^(-1/2) in a basis that need not be an eigenbasis."""
    values = np.diag(basis.T @ factor @ basis)
    return (basis / np.sqrt(np.maximum(values, eps))) @ basis.T


def fixed_point(eps):
    def update(beta, bases, factors, g, t):
        beta = 1 - (1 - beta) / (1 - beta ** (t + 1))
        roots = {i: inverse_sqrt(f, bases[i], eps) for i, f in factors.items()}
        new = {}
        for i, f in factors.items():
            x = g
            for j, root in roots.items():
                x = x if i == j else apply(root, x, j)
            x = unfold(x, i)
            new[i] = beta * f + (1 - beta) * x @ x.T / x.shape[1]
        return new

    return update


def kl_soap(init_factor, eps, limit, frequency, **numbers):
    inner = fixed_point(eps)

    def update(beta, bases, factors, g, t):
        if t == 1:  # soap begins with zeros
            factors = {i: init_factor * np.eye(len(f)) for i, f in factors.items()}
            bases = {i: np.eye(len(f)) for i, f in factors.items()}
        return inner(beta, bases, factors, g, t)

    numbers = numbers | dict(eps=eps, limit=limit, precondition_frequency=frequency)
    return soap(update_factors=update, **numbers)


def kl_shampoo(
    learning_rate, b1, b2, shampoo_beta, eps, weight_decay, init_factor, limit, frequency
):
    state, update = {}, fixed_point(eps)

    def direction(k, g, t):
        axes = sides(g.shape, limit, False, False)
        if k not in state:
            ones = {i: np.eye(g.shape[i]) for i in axes}
            factors = {i: init_factor * one for i, one in ones.items()}
            state[k] = dict(m=np.zeros_like(g), v=np.zeros_like(g), S=factors, Q=ones)
        s = state[k]
        s["m"] = b1 * s["m"] + (1 - b1) * g
        s["v"] = b2 * s["v"] + (1 - b2) * g**2
        mean = s["m"] / (1 - b1**t)
        if not axes:
            return mean / (np.sqrt(s["v"] / (1 - b2**t)) + eps)
        s["S"] = update(shampoo_beta, s["Q"], s["S"], g, t)
        for i, q in s["Q"].items():
            if t == 1:
                s["Q"][i] = np.linalg.eigh(s["S"][i])[1]
            elif (t - 1) % frequency == 0:
                order = np.argsort(-np.diag(q.T @ s["S"][i] @ q))
                s["Q"][i] = np.linalg.qr(s["S"][i] @ q[:, order])[0]
        for i in axes:
            mean = apply(inverse_sqrt(s["S"][i], s["Q"][i], eps), mean, i)
        return mean

    def step(theta, grads, t):
        return {
            k: theta[k] - learning_rate * (direction(k, g, t) + weight_decay * theta[k])
            for k, g in grads.items()
        }

    return step


CASES = [
    Case(
        "kl_shampoo",
        partial(gdjax.kl_shampoo, max_precond_dim=4, precondition_frequency=4),
        SOAP | dict(init_factor=0.3),
        partial(kl_shampoo, limit=4, frequency=4),
    ),
    Case(
        "kl_soap",
        partial(gdjax.kl_soap, max_precond_dim=4, precondition_frequency=4),
        SOAP | dict(init_factor=0.3),
        partial(kl_soap, limit=4, frequency=4),
        not_differentiable=("shampoo_beta", "init_factor"),
        lane_rtol=3e-5,  # LAPACK rounds by batch shape, small eigenvalues magnify: 1.4e-5 seen
    ),
]
