"""Nocedal & Wright (2006), Algorithms 6.1 and 7.4, (5.45) and its relatives, in their notation.

Directions only: each oracle sees points x_k and gradients g_k and returns p_k; the step lengths are
given. A pair with s'y <= eps y'y is skipped.
"""

from functools import partial

import numpy as np

import gdjax
from oracles.case import Case

EPS = np.finfo(np.float64).eps


def lbfgs_directions(xs, gs, m):
    """Return p_k = -H_k g_k by the two-loop recursion, Algorithm 7.4."""
    pairs, out = [], []
    for k in range(len(xs)):
        if k:
            s, y = xs[k] - xs[k - 1], gs[k] - gs[k - 1]
            if s @ y > EPS * (y @ y):
                pairs = (pairs + [(s, y)])[-m:]
        q = gs[k].copy()
        alphas = []
        for s, y in reversed(pairs):
            alpha = (s @ q) / (y @ s)
            alphas.append(alpha)
            q -= alpha * y
        if pairs:
            s, y = pairs[-1]
            r = (s @ y) / (y @ y) * q
        else:
            r = min(1, 1 / np.linalg.norm(q)) * q
        for (s, y), alpha in zip(pairs, reversed(alphas)):
            beta = (y @ r) / (y @ s)
            r += s * (alpha - beta)
        out.append(-r)
    return out


def bfgs_directions(xs, gs):
    """Return p_k = -H_k g_k with (6.17) in product form, and (6.20) before the first update."""
    n = xs[0].size
    out, begun = [], False
    for k in range(len(xs)):
        if not begun:
            h = min(1, 1 / np.linalg.norm(gs[k])) * np.eye(n)
        if k:
            s, y = xs[k] - xs[k - 1], gs[k] - gs[k - 1]
            if s @ y > EPS * (y @ y):
                if not begun:
                    h, begun = (y @ s) / (y @ y) * np.eye(n), True
                rho = 1 / (y @ s)
                v = np.eye(n) - rho * np.outer(y, s)
                h = v.T @ h @ v + rho * np.outer(s, s)
        out.append(-h @ gs[k])
    return out


def broyden(method):
    """Return a function of x_k and g_k that returns H_k g_k, of Urbán, Stefanou & Pons (2024).

    The update is (8), with v_k of (9) and b_k = s'B s / y's by a solve; tau_k and phi_k are (11)
    for "ssbfgs" and (13) to (23) for "ssbroyden". At the first pair H is (6.20) of Nocedal &
    Wright, and tau_k = phi_k = 1.
    """
    past = []

    def direction(x, g):
        n = x.size
        if not past:
            past[:] = x, g, min(1, 1 / np.linalg.norm(g)) * np.eye(n), False
            return past[2] @ g
        last_x, last_g, h_matrix, known = past
        s, y = x - last_x, g - last_g
        ys = y @ s
        if ys > EPS * np.linalg.norm(s) * np.linalg.norm(y):
            if not known:
                h_matrix = ys / (y @ y) * np.eye(n)
            tau, phi = 1.0, 1.0
            hy = h_matrix @ y
            yhy = y @ hy
            b, h = s @ np.linalg.solve(h_matrix, s) / ys, yhy / ys
            if known and method == "ssbfgs":
                tau = min(1, 1 / b)  # (11)
            elif known and method == "ssbroyden":
                a = h * b - 1
                c = np.sqrt(a / (a + 1))
                rho_minus = min(1, h * (1 - c))
                theta_minus, theta_plus = (rho_minus - 1) / a, 1 / rho_minus
                theta = max(theta_minus, min(theta_plus, (1 - b) / b))
                sigma = 1 + theta * a
                root = abs(sigma) ** (1 / (1 - n))
                rho = min(1, 1 / b)
                tau = rho * min(root, 1 / theta) if theta > 0 else min(rho * root, sigma)
                phi = (1 - theta) / (1 + a * theta)
            v = np.sqrt(yhy) * (s / ys - hy / yhy)
            inner = h_matrix - np.outer(hy, hy) / yhy + phi * np.outer(v, v)
            h_matrix, known = inner / tau + np.outer(s, s) / ys, True
        past[:] = x, g, h_matrix, known
        return h_matrix @ g

    return direction


def cg_directions(gs, method):
    """Return p_k = -g_k + beta_k p_{k-1}, without restarts every n steps."""
    out = [-gs[0]]
    for k in range(1, len(gs)):
        g, last, p = gs[k], gs[k - 1], out[-1]
        y = g - last
        if method == "polak_ribiere":
            beta = max(0, g @ y / (last @ last))
        elif method == "fletcher_reeves":
            beta = g @ g / (last @ last)
        elif method == "hestenes_stiefel":
            beta = g @ y / (p @ y)
        elif method == "dai_yuan":
            beta = g @ g / (p @ y)
        else:
            beta = (y - 2 * p * (y @ y) / (p @ y)) @ g / (p @ y)
            beta = max(beta, -1 / (np.linalg.norm(p) * min(0.01, np.linalg.norm(last))))
        p = -g + beta * p
        out.append(p if g @ p < 0 else -g)
    return out


def without_search(method, learning_rate):
    direction = broyden(method)

    def step(theta, g, t):
        names = sorted(theta)
        x, slope = (np.concatenate([np.ravel(tree[k]) for k in names]) for tree in (theta, g))
        parts = np.split(x - learning_rate * direction(x, slope), ends(theta, names))
        return {k: part.reshape(theta[k].shape) for k, part in zip(names, parts, strict=True)}

    return step


def ends(theta, names):
    return np.cumsum([theta[k].size for k in names])[:-1]


CASES = [
    Case(
        "ssbroyden",
        partial(gdjax.ssbroyden, linesearch=None),
        dict(learning_rate=0.3),
        partial(without_search, "ssbroyden"),
        x_tol=1e-9,  # the condition of the inverse Hessian times rounding
    ),
]
