"""Every loss at the edges: values, gradients and Hessian-vector products against their limits.

A row is an input with what mathematics says: at infinities the limit, and NaN where there is none
or where an input is NaN. `m` is a number near the largest of the dtype, `t` one below the smallest
normal number. The expected numbers were derived by hand; ordinary ones come from NumPy.
"""

import functools
import inspect
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from x64 import enable_x64

import gdjax

L = gdjax.losses
INF, NAN = np.inf, np.nan
LARGE = {"float16": 6e4, "bfloat16": 1e38, "float32": 1e38, "float64": 1e300}
SUBNORMAL = {"float16": 6e-7, "bfloat16": 1e-39, "float32": 1e-40, "float64": 1e-310}
E, LOG2 = np.e, np.log(2)
ANY = "any"  # not compared: a derivative that does not exist, for example at a jump


class Row(NamedTuple):
    x: list  # the argument that is differentiated
    others: tuple  # the other arrays
    value: object
    grad: object = ANY
    hvp: object = ANY  # the Hessian times (1, 2, 3, ...); None is not compared


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    p = np.exp(np.asarray(x, float) - np.max(x))
    return p / p.sum()


def entropy_rows(m, t):
    """Cross entropies of one-hot labels; their Hessian is diag(p) - p p^T."""
    v = np.array([1.0, 2.0, 3.0])

    def row(x, y, value, p, hvp=(0, 0, 0)):
        return Row(x, (y,), value, np.subtract(p, y), hvp)

    x, first, last = [0.3, -1.0, 0.5], [1, 0, 0], [0, 0, 1]
    p = softmax(x)
    return [
        row(x, first, -np.log(p[0]), p, p * v - p * (p @ v)),
        row([0, 0, 0], last, np.log(3), [1 / 3] * 3, [-1 / 3, 0, 1 / 3]),
        row([t, 0, -t], last, np.log(3), [1 / 3] * 3, [-1 / 3, 0, 1 / 3]),
        row([m, -m, 0], first, 0, [1, 0, 0]),
        row([m, -m, 0], last, m, [1, 0, 0]),
        row([INF, 0, 1], first, 0, [1, 0, 0]),
        row([INF, 0, 1], last, INF, [1, 0, 0]),
        row([INF, -INF, m], first, 0, [1, 0, 0]),
        row([-INF, 0, 0], first, INF, [0, 0.5, 0.5], [0, -0.25, 0.25]),
        row([-INF, 0, 0], last, LOG2, [0, 0.5, 0.5], [0, -0.25, 0.25]),
        row([-INF, -INF, 0], last, 0, [0, 0, 1]),
        row([-INF, -INF, -INF], first, INF, [0, 0, 0]),
        Row([INF, INF, 0], (first,), NAN),
        Row([NAN, 0, 0], (last,), NAN),
        Row([NAN, INF, 0], (last,), NAN),
    ]


def with_classes(rows):
    """Replace one-hot labels by indices."""
    return [r._replace(others=(int(np.argmax(r.others[0])),)) for r in rows]


def poly_rows(m, t):
    """Poly-1 with epsilon 2: its gradient is (1 + 2 p_y) (p - y)."""
    rows = entropy_rows(m, t)[1:]
    out = []
    for r in rows:
        value, grad = r.value, r.grad
        if isinstance(grad, np.ndarray):
            label = np.argmax(r.others[0])
            p = np.add(grad, r.others[0])[label]
            value, grad = value + 2 * (1 - p), (1 + 2 * p) * grad
        out.append(Row(r.x, r.others, value, grad))
    x, y = np.array([0.3, -1.0, 0.5]), [1, 0, 0]
    p = softmax(x)
    return [Row(x, (y,), -np.log(p[0]) + 2 * (1 - p[0]), (1 + 2 * p[0]) * (p - y)), *out]


def binary_rows(m, t):
    def row(x, y, value, grad, hvp=0):
        return Row([x], ([y],), [value], [grad], [hvp])

    s = sigmoid(0.7)
    return [
        row(0.7, 1, -np.log(s), s - 1, s * (1 - s)),
        row(0.7, 0.25, -0.25 * np.log(s) - 0.75 * np.log(1 - s), s - 0.25, s * (1 - s)),
        row(0, 1, LOG2, -0.5, 0.25),
        row(t, 0, LOG2, 0.5, 0.25),
        row(m, 1, 0, 0),
        row(m, 0, m, 1),
        row(-m, 1, m, -1),
        row(-m, 0, 0, 0),
        row(INF, 1, 0, 0),
        row(INF, 0, INF, 1),
        row(-INF, 1, INF, -1),
        row(-INF, 0, 0, 0),
        row(INF, 0.25, INF, 0.75),
        row(-INF, 0.25, INF, -0.25),
        Row([NAN], ([1],), [NAN]),
        Row([0], ([NAN],), [NAN]),
    ]


def focal_rows(m, t, gamma):
    """The derivative of the loss at label 1: -q^g (q + g p softplus(-x)), with q = 1 - p."""

    def row(x, y, value, grad, hvp=0):
        return Row([x], ([y], gamma), [value], [grad], [hvp])

    p = sigmoid(0.7)
    q, loss = 1 - p, -np.log(p)
    half = 0.5**gamma
    return [
        row(0.7, 1, q**gamma * loss, -(q**gamma) * (q + gamma * p * loss), ANY),
        row(-0.7, 0, q**gamma * loss, q**gamma * (q + gamma * p * loss), ANY),
        row(0, 1, half * LOG2, -half * (0.5 + gamma * 0.5 * LOG2), ANY),
        row(t, 0, half * LOG2, half * (0.5 + gamma * 0.5 * LOG2), ANY),
        row(0, 0.5, half * LOG2, 0, ANY),
        row(m, 1, 0, 0),
        row(-m, 1, m, -1),
        row(m, 0, m, 1),
        row(-m, 0, 0, 0),
        row(INF, 1, 0, 0),
        row(-INF, 1, INF, -1),
        row(INF, 0, INF, 1),
        row(-INF, 0, 0, 0),
        row(INF, 0.5, INF, 0.5 * half),
        Row([NAN], ([1], gamma), [NAN]),
        Row([0], ([NAN], gamma), [NAN]),
    ]


def hinge_rows(m, t, margin):
    def row(x, y, value, grad):
        return Row([x], ([y],), [value], [grad], [0])

    return [
        row(0.3, 1, max(margin - 0.3, 0), -1 if margin else 0),
        row(0.3, -1, margin + 0.3, 1),
        row(m, 1, 0, 0),
        row(-m, 1, m, -1),
        row(INF, 1, 0, 0),
        row(-INF, 1, INF, -1),
        row(INF, -1, INF, 1),
        Row([t], ([1],), [margin]),
        Row([0], ([1],), [margin]),
        Row([INF], ([0],), [margin], [0]),
        Row([NAN], ([1],), [NAN]),
        Row([1], ([NAN],), [NAN]),
    ]


def sparsemax_rows(m, t):
    def row(x, y, value, grad, hvp=0):
        return Row([x], (y,), [value], [grad], [hvp])

    return [
        row(0, 1, 0.25, -0.5, 0.5),
        row(t, 0, 0.25, 0.5, 0.5),
        row(0.5, 0, 0.5625, 0.75, 0.5),
        row(m, 1, 0, 0),
        row(m, 0, m, 1),
        row(INF, 1, 0, 0),
        row(-INF, 1, INF, -1),
        row(INF, 0, INF, 1),
        Row([NAN], (1,), [NAN]),
    ]


def multiclass_rows(m, t, margin):
    def row(x, label, value, grad):
        return Row(x, (label,), value, grad, [0, 0, 0])

    huge = float(m if m < 1e5 else 3.3 * m if m < 1e39 else 1.7e308)  # 2 huge may overflow
    return [
        row([3, 1, 2.5], 1, 2 + margin, [1, -1, 0]),
        row([3, 1, 2.75], 0, margin * 0.75, [-1, 0, 1] if margin else [0, 0, 0]),
        row([3, 1, 1.5], 0, 0, [0, 0, 0]),
        row([m, -m, 0], 0, 0, [0, 0, 0]),
        row([m, -m, 0], 1, 2 * m, [1, -1, 0]),
        row([0.9 * huge, -huge, huge], 1, 2 * huge, [0, -1, 1]),
        row([INF, 0, 1], 0, 0, [0, 0, 0]),
        row([INF, 0, 1], 2, INF, [1, 0, -1]),
        row([-INF, 0, 1], 0, INF, [-1, 0, 1]),
        row([-INF, 0, 1], 2, 0, [0, 0, 0]) if not margin else row([-INF, 0, 2], 2, 0, [0, 0, 0]),
        row([-INF, -INF, 1], 0, INF, [-1, 0, 1]),
        Row([-INF, -INF, -INF], (0,), INF),
        Row([INF, INF, 0], (0,), NAN),
        Row([NAN, 0, 0], (1,), NAN),
        Row([NAN, INF, 0], (1,), NAN),
        Row([NAN, -INF, 0], (1,), NAN),
        Row([t, 0, -t], (1,), margin),
        Row([1, 2, 3], (3,), NAN),
        Row([1, 2, 3], (-1,), NAN),
    ]


def multiclass_sparsemax_rows(m, t):
    def row(x, label, value, grad, hvp=(0, 0, 0)):
        return Row(x, (label,), value, grad, hvp)

    return [
        row([3, 1, 2.5], 0, 0.0625, [-0.25, 0, 0.25], [-1, 0, 1]),
        row([0, 0, 0], 0, 1 / 3, [-2 / 3, 1 / 3, 1 / 3], [-1, 0, 1]),
        row([t, 0, -t], 0, 1 / 3, [-2 / 3, 1 / 3, 1 / 3], [-1, 0, 1]),
        row([1.2e4, 0.3e4, 2.3e4], 0, 1.1e4, [-1, 0, 1]),
        row([1.2 * m, 0.3 * m, 2.3 * m], 0, 1.1 * m, [-1, 0, 1]) if m > 1e5 else None,
        row([m, -m, 0], 0, 0, [0, 0, 0]),
        row([m, -m, 0], 1, 2 * m, [1, -1, 0]),
        row([INF, 0, 1], 0, 0, [0, 0, 0]),
        row([INF, 0, 1], 2, INF, [1, 0, -1]),
        row([-INF, 0, 0], 0, INF, [-1, 0.5, 0.5], [0, -0.5, 0.5]),
        row([-INF, 0, 0], 2, 0.25, [0, 0.5, -0.5], [0, -0.5, 0.5]),
        Row([-INF, -INF, -INF], (0,), INF),
        Row([INF, INF, 0], (0,), NAN),
        Row([NAN, 0, 0], (1,), NAN),
        Row([1, 2, 3], (3,), NAN),
    ]


def squared_rows(m, t, factor):
    def row(x, y, value, grad):
        return Row([x], ([y],), [factor * value], [2 * factor * grad], [2 * factor])

    return [
        row(1.5, 1, 0.25, 0.5),
        row(0, 0, 0, 0),
        row(t, 0, 0, 0),
        row(300, 0, 9e4, 300),
        row(m, 0, np.float64(m) * m if m < 1e5 else INF, m),
        row(INF, 0, INF, INF),
        row(0, INF, INF, -INF),
        Row([INF], ([INF],), [NAN]),
        Row([NAN], ([0],), [NAN]),
        Row([0], ([NAN],), [NAN]),
    ]


def huber_rows(m, t, delta):
    def row(x, y, value, grad, hvp):
        return Row([x], ([y], delta), [value], [grad], [hvp])

    linear = delta * (2 - 0.5 * delta)
    rows = [
        row(2, 0, linear, delta, 0),
        row(0, 2, linear, -delta, 0),
        row(m, 0, delta * m, delta, 0),
        row(INF, 0, INF if delta else 0, delta, 0),
        row(-INF, 0, INF if delta else 0, -delta, 0),
        row(0, 0, 0, 0, 1 if delta else ANY),
        row(t, 0, 0, 0, 1 if delta else ANY),
        Row([INF], ([INF], delta), [NAN]),
        Row([NAN], ([0], delta), [NAN]),
        Row([0], ([NAN], delta), [NAN]),
    ]
    return rows


def log_cosh_rows(m, t):
    def row(x, y, value, grad, hvp):
        return Row([x], ([y],), [value], [grad], [hvp])

    return [
        row(0.75, 0, np.log(np.cosh(0.75)), np.tanh(0.75), 1 / np.cosh(0.75) ** 2),
        row(1.5, 0, np.log(np.cosh(1.5)), np.tanh(1.5), 1 / np.cosh(1.5) ** 2),
        row(0, 0, 0, 0, 1),
        row(t, 0, 0, 0, 1),
        row(m, 0, m, 1, 0),
        row(INF, 0, INF, 1, 0),
        row(0, INF, INF, -1, 0),
        Row([NAN], ([0],), [NAN]),
        Row([INF], ([INF],), [NAN]),
    ]


def cosine_rows(m, t, distance):
    def row(x, y, cosine, grad=ANY, hvp=ANY):
        sign = -1 if distance else 1
        grad, hvp = (g if isinstance(g, str) else sign * np.array(g) for g in (grad, hvp))
        value = 1 - cosine if distance and cosine != ANY else cosine
        return Row(x, (y,), value, grad, hvp)

    return [
        row([3, 4], [1, 0], 0.6, [0.128, -0.096], ANY),
        row([1, 0], [1, 0], 1, [0, 0], [0, -2]),
        row([1, 0], [-1, 0], -1, [0, 0], [0, 2]),
        row([1, 0], [0, 1], 0, [0, 1], [-2, -1]),
        row([m, 0], [m, 0], 1, [0, 0], ANY),
        row([m, m], [-m, -m], -1, [0, 0], ANY),
        row([0, 0], [1, 0], 0, [0, 0], [0, 0]),
        row([t, 0], [1, 0], ANY),
        row([INF, 1], [1, 0], NAN),
        row([NAN, 1], [1, 0], NAN),
        row([0, 0], [NAN, 0], NAN),
    ]


def triplet_rows(m, t):
    """An anchor at 0, distances of norm 2, margin 1, and eps 0."""

    def row(x, y, value, grad):
        return Row(x, ([0.0, 0.0], np.array(y, float)), value, grad, ANY)

    return [
        row([3, 4], [0, 2], 4, [0.6, 0.8]),
        row([0, 2], [3, 4], 0, [0, 0]),
        row([m, 0], [0, 1], m, [1, 0]),
        row([m, 0], [0, m], 1, [1, 0]),
        row([m, 0], [3 * m, 3 * m], 0, [0, 0]) if m > 1e5 else None,
        row([INF, 1], [0, 1], INF, [1, 0]),
        row([0, 1], [INF, 1], 0, [0, 0]),
        row([0, 0], [0, 0.5], 0.5, [0, 0]),
        row([t, 0], [0, 0.5], 0.5, ANY),
        Row([INF, 0], ([0.0, 0.0], [0, INF]), NAN),
        Row([NAN, 0], ([0.0, 0.0], [0.0, 1.0]), NAN),
        Row([1, 0], ([0.0, 0.0], [0, NAN]), NAN),
    ]


def kl_rows(m, t, log_targets=False):
    def row(x, q, value, grad):
        q = np.array(q, float)
        with np.errstate(divide="ignore"):
            given = np.log(q) if log_targets else q
        return Row(x, (given,), value, grad, [0, 0])

    half = np.log(0.5)
    return [
        row([half, half], [0.25, 0.75], 0.25 * np.log(0.5) + 0.75 * np.log(1.5), [-0.25, -0.75]),
        row([half, half], [1, 0], LOG2, [-1, 0]),
        row([0, -INF], [1, 0], 0, [-1, 0]),
        row([-INF, 0], [1, 0], INF, [-1, 0]),
        row([-m, 0], [1, 0], m, [-1, 0]),
        row([-m, 0], [0, 1], 0, [0, -1]),
        row([half, half], [0.5, 0.5], 0, [-0.5, -0.5]),
        Row([0, -INF], ([0, -m] if log_targets else [1, t],), ANY),
        Row([NAN, 0], ([0, 0],), NAN) if log_targets else Row([NAN, 0], ([1, 0],), NAN),
        Row([0, 0], ([NAN, 0],), NAN),
    ]


def generalized_kl_rows(m, t):
    def row(x, q, value, grad, hvp):
        return Row(x, (q,), value, grad, hvp)

    return [
        row([0, LOG2], [1, 1], 1 - LOG2, [0, 1], [1, 4]),
        row([0, 0], [1, 0], 1, [0, 1], [1, 2]),
        row([-INF, 0], [0, 1], 0, [0, 0], [0, 2]),
        row([-INF, 0], [1, 1], INF, [-1, 0], [0, 2]),
        row([-m, 0], [1, 1], m, [-1, 0], [0, 2]),
        row([INF, 0], [1, 1], INF, [INF, 0], ANY),
        row([INF, 0], [0, 1], INF, [INF, 0], ANY),
        Row([NAN, 0], ([1, 0],), NAN),
        Row([0, 0], ([NAN, 0],), NAN),
        Row([INF, 0], ([1, NAN],), NAN),
        Row([0, 0], ([-1, 0],), NAN),
    ]


def js_rows(m, t):
    def row(x, q, value, grad):
        return Row(x, (q,), value, grad, ANY)

    half = np.log(0.5)
    return [
        row([half, half], [0.5, 0.5], 0, [0, 0]),
        row([0, -INF], [0, 1], LOG2, [0.5 * LOG2, 0]),
        row([0, -INF], [1, 0], 0, [0, 0]),
        row([0, -m], [0, 1], LOG2, [0.5 * LOG2, 0]),
        row([-INF, -INF], [0, 0], 0, [0, 0]),
        Row([INF, -INF], ([0, 1],), INF, [INF, 0], None),
        row([0, -INF], [1, t], ANY, [0, 0]),
        Row([NAN, 0], ([1, 0],), NAN),
        Row([0, 0], ([NAN, 0],), NAN),
        Row([0, -INF], ([-1, 0],), NAN),
    ]


def dice_rows(m, t):
    """One pixel, two classes, no smoothing: the losses are 1 - p and 1 - (1 - p) of the label."""

    def row(x, y, value, grad=ANY, hvp=ANY):
        return Row([[x]], ([[y]],), value if value == ANY else [value], grad, hvp)

    return [
        row([0, 0], [1, 0], (1 - 1 / 1.5 + 1) / 2),
        row([m, -m], [1, 0], 0, [[[0, 0]]], [[[0, 0]]]),
        row([m, -m], [0, 1], 1, [[[0, 0]]], [[[0, 0]]]),
        row([INF, 0], [1, 0], 0, [[[0, 0]]], [[[0, 0]]]),
        row([INF, 0], [0, 1], 1, [[[0, 0]]], [[[0, 0]]]),
        row([-INF, 0], [0, 1], 0, [[[0, 0]]], [[[0, 0]]]),
        row([-INF, -INF], [0, 1], ANY, [[[0, 0]]]),
        row([NAN, 0], [0, 1], NAN),
        row([0, 0], [0, NAN], NAN),
    ]


def binary_dice_rows(m, t):
    def row(x, y, value, grad=ANY, hvp=ANY):
        return Row([x], ([y],), [value], grad, hvp)

    return [
        row([0, 0], [1, 0], 0.5),
        row([m, -m], [1, 0], 0, [[0, 0]], [[0, 0]]),
        row([INF, -INF], [1, 0], 0, [[0, 0]], [[0, 0]]),
        row([INF, -INF], [0, 1], 1, [[0, 0]], [[0, 0]]),
        row([-INF, -INF], [0, 0], 0, [[0, 0]], [[0, 0]]),
        row([NAN, 0], [0, 1], NAN),
    ]


def ctc_rows(m, t):
    """Two frames, a blank and one label: 1 - P(blank, blank); log_epsilon is -inf."""

    def row(x, value, grad=ANY, hvp=ANY):
        return Row([x], ([[1]],), [value], grad, hvp)

    zero = [[[0, 0], [0, 0]]]
    return [
        row([[0, 0], [0, 0]], -np.log(0.75), [[[1 / 6, -1 / 6]] * 2]),
        row([[0, 17], [0, 17]], 0, ANY),
        row([[0, m], [0, m]], 0, zero, zero),
        row([[0, INF], [0, INF]], 0, zero, zero),
        row([[0, -INF], [0, 0]], LOG2, [[[0, 0], [0.5, -0.5]]], [[[0, 0], [-0.25, 0.25]]]),
        row([[0, -INF], [0, -INF]], INF, ANY),
        row([[NAN, 0], [0, 0]], NAN),
        row([[INF, INF], [0, 0]], NAN),
    ]


def fenchel_young_rows(m, t):
    rows = entropy_rows(m, t)
    kept = [r for r in rows if not np.any(np.isposinf(r.x)) and np.any(np.isfinite(r.x))]
    # the second derivative of JAX's logsumexp is its own
    return [r if np.all(np.isfinite(r.x)) else r._replace(hvp=ANY) for r in kept]


def ntxent_rows(m, t):
    """Three embeddings, the first two a pair, temperature 1: softplus(s_13 - s_12) and so on."""

    def row(x, value, grad=ANY):
        return Row(x, (), value, grad)

    zeros = np.zeros((3, 2))
    return [
        row([[1, 0], [1, 0], [0, 1]], np.log1p(np.exp(-1))),
        row([[m, 0], [m, 0], [0, m]], np.log1p(np.exp(-1))),
        row([[0, 0], [0, 0], [0, 0]], LOG2, ANY),
        row([[NAN, 0], [1, 0], [0, 1]], NAN),
        row([[1, 0], [1, 0], [NAN, 1]], NAN),
        row([[1, 0], [1, 0], [-1, 0]], np.log1p(np.exp(-2)), zeros),
    ]


def smooth_rows(m, t):
    return [
        Row([1, 0], (0.0,), [1, 0], [1, 1], [0, 0]),
        Row([1, 0], (1.0,), [0.5, 0.5], [0, 0], [0, 0]),
        Row([1, 0], (0.5,), [0.75, 0.25], [0.5, 0.5], [0, 0]),
        Row([NAN, 0], (1.0,), [NAN, 0.5]),
        Row([m, t], (0.5,), [m / 2, 0.25], [0.5, 0.5], [0, 0]),
    ]


def one(loss, **numbers):
    return functools.partial(loss, **numbers)


def chunked(logits, label):
    """The loss of logits that come from the bias."""
    loss = L.chunked_softmax_cross_entropy
    hidden, kernel = (jnp.zeros(s, logits.dtype) for s in ((1,), (1, 3)))
    return loss(hidden, kernel, label, bias=logits, chunk_size=2)


def ctc(x, labels, forward=False):
    pads = jnp.zeros(x.shape[:2], int), jnp.zeros(labels.shape, int)
    both = L.ctc_loss_with_forward_probs if forward else L.ctc_loss
    out = both(x, pads[0], labels, pads[1], log_epsilon=-jnp.inf)
    return out[0] if forward else out


def log_targets(x, q):
    return L.kl_divergence_with_log_targets(x, q)


# the loss, its function of a row, and its rows
TABLE = {
    "chunked_softmax_cross_entropy": (chunked, lambda m, t: with_classes(entropy_rows(m, t))),
    "softmax_cross_entropy": (L.softmax_cross_entropy, entropy_rows),
    "safe_softmax_cross_entropy": (L.safe_softmax_cross_entropy, entropy_rows),
    "softmax_cross_entropy_with_integer_labels": (
        L.softmax_cross_entropy_with_integer_labels,
        lambda m, t: with_classes(entropy_rows(m, t)),
    ),
    "poly_loss_cross_entropy": (L.poly_loss_cross_entropy, poly_rows),
    "sigmoid_binary_cross_entropy": (L.sigmoid_binary_cross_entropy, binary_rows),
    "sigmoid_focal_loss": (
        lambda x, y, gamma: L.sigmoid_focal_loss(x, y, gamma=gamma),
        lambda m, t: [r for g in (0.0, 0.5, 1.0, 2.0, 5.0) for r in focal_rows(m, t, g)],
    ),
    "hinge_loss": (L.hinge_loss, lambda m, t: hinge_rows(m, t, 1)),
    "perceptron_loss": (L.perceptron_loss, lambda m, t: hinge_rows(m, t, 0)),
    "sparsemax_loss": (L.sparsemax_loss, sparsemax_rows),
    "multiclass_hinge_loss": (L.multiclass_hinge_loss, lambda m, t: multiclass_rows(m, t, 1)),
    "multiclass_perceptron_loss": (
        L.multiclass_perceptron_loss,
        lambda m, t: multiclass_rows(m, t, 0),
    ),
    "multiclass_sparsemax_loss": (L.multiclass_sparsemax_loss, multiclass_sparsemax_rows),
    "squared_error": (L.squared_error, lambda m, t: squared_rows(m, t, 1)),
    "l2_loss": (L.l2_loss, lambda m, t: squared_rows(m, t, 0.5)),
    "mean_squared_error": (
        lambda x, y: L.mean_squared_error(x, y)[None],
        lambda m, t: squared_rows(m, t, 1),
    ),
    "huber_loss": (
        lambda x, y, delta: L.huber_loss(x, y, delta=delta),
        lambda m, t: [r for d in (0.0, 0.5, 1.0) for r in huber_rows(m, t, d)],
    ),
    "log_cosh": (L.log_cosh, log_cosh_rows),
    "cosine_similarity": (L.cosine_similarity, lambda m, t: cosine_rows(m, t, False)),
    "cosine_distance": (L.cosine_distance, lambda m, t: cosine_rows(m, t, True)),
    "triplet_margin_loss": (
        lambda x, a, n: L.triplet_margin_loss(a, x, n, eps=0.0),
        triplet_rows,
    ),
    "kl_divergence": (L.kl_divergence, kl_rows),
    "kl_divergence_with_log_targets": (log_targets, lambda m, t: kl_rows(m, t, True)),
    "generalized_kl_divergence": (L.generalized_kl_divergence, generalized_kl_rows),
    "js_divergence": (L.js_divergence, js_rows),
    "ctc_loss": (ctc, ctc_rows),
    "ctc_loss_with_forward_probs": (one(ctc, forward=True), ctc_rows),
    "ntxent": (lambda x: L.ntxent(x, jnp.array([0, 0, 1]), 1.0), ntxent_rows),
    "ranking_softmax_loss": (L.ranking_softmax_loss, entropy_rows),
    "dice_loss": (one(L.dice_loss, smooth=0.0), dice_rows),
    "binary_dice_loss": (one(L.binary_dice_loss, smooth=0.0), binary_dice_rows),
    "multiclass_generalized_dice_loss": (
        lambda x, y: L.multiclass_generalized_dice_loss(x, y, smooth=0.0)[None],
        lambda m, t: [r for r in dice_rows(m, t)[-3:] if r.value != ANY],
    ),
    "smooth_labels": (L.smooth_labels, smooth_rows),
    "make_fenchel_young_loss": (
        L.make_fenchel_young_loss(jax.nn.logsumexp),
        fenchel_young_rows,
    ),
}
REVERSE_ONLY = ["chunked_softmax_cross_entropy"]  # no forward mode: no Hessian-vector products


def test_every_loss_has_a_row():
    public = {k for k, f in vars(L).items() if callable(f) and not k.startswith("_")}
    assert public == set(TABLE)


def rows_of(name, dtype):
    rows = TABLE[name][1](LARGE[dtype], SUBNORMAL[dtype])
    return [r for r in rows if r is not None]


@functools.cache
def results(dtype):
    """Return for each loss the results of all rows: one program for each dtype."""

    def measured(name, x, *others):
        def total(x):
            out = TABLE[name][0](x, *others)
            return jnp.sum(out), out

        v = jnp.arange(1, x.size + 1, dtype=x.dtype).reshape(x.shape)
        grad = jax.grad(total, has_aux=True)
        if name in REVERSE_ONLY:
            grad, out = grad(x)
            return out, grad, None
        (grad, out), (hvp, _) = jax.jvp(grad, (x,), (v,))
        return out, grad, hvp

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def run(inputs):
        return {
            name: jax.vmap(functools.partial(measured, name))(*arrays)
            for name, arrays in inputs.items()
        }

    def stacked(name):
        rows = rows_of(name, dtype)
        columns = [np.array(c) for c in zip(*([r.x, *r.others] for r in rows), strict=True)]
        cast = [c if c.dtype.kind == "i" and i else c.astype(dtype) for i, c in enumerate(columns)]
        return [jnp.asarray(c) for c in cast]

    with enable_x64(), np.errstate(over="ignore"):
        return jax.tree.map(np.asarray, run({name: stacked(name) for name in TABLE}))


def close(actual, expected, dtype, what):
    if np.asarray(expected).dtype.kind == "U":  # ANY
        assert not np.any(np.isnan(actual.astype(float))), what
        return
    with np.errstate(over="ignore"):
        expected = np.asarray(expected, float).astype(actual.dtype).astype(float)
    actual = actual.astype(float)
    rtol = {"float64": 1e-13, "float32": 2e-6, "bfloat16": 1e-2, "float16": 2e-3}[dtype]
    tiny = {"float64": 1e-14, "float32": 3e-7, "bfloat16": 3e-3, "float16": 1e-3}[dtype]
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=tiny, err_msg=what)


@pytest.mark.parametrize("dtype", LARGE)
@pytest.mark.parametrize("name", TABLE)
def test_values_and_derivatives_are_the_limits(name, dtype):
    values, grads, hvps = results(dtype)[name]
    assert values.dtype == ("float64" if dtype == "float64" else "float32")
    assert grads.dtype == dtype
    for i, row in enumerate(rows_of(name, dtype)):
        what = f"{name}{row.x, *row.others}"
        close(values[i], row.value, dtype, what)
        nan = not isinstance(row.value, str) and np.any(np.isnan(row.value))
        if not nan:
            close(grads[i], row.grad, dtype, f"gradient of {what}")
            if hvps is not None and row.hvp is not None:
                close(hvps[i], row.hvp, dtype, f"Hessian of {what}")


# Losses that are >= 0 by definition, for predictions from `never_negative_inputs`.
NEVER_NEGATIVE = {
    "softmax": lambda x, z, q, c: L.softmax_cross_entropy(x, q),
    "integer": lambda x, z, q, c: L.softmax_cross_entropy_with_integer_labels(x, c),
    "chunked": lambda x, z, q, c: chunked_rows(x, c),
    "poly": lambda x, z, q, c: L.poly_loss_cross_entropy(x, q),
    "poly -1": lambda x, z, q, c: L.poly_loss_cross_entropy(x, q, epsilon=-1.0),
    "ranking": lambda x, z, q, c: L.ranking_softmax_loss(x, q),
    "binary": lambda x, z, q, c: L.sigmoid_binary_cross_entropy(x, q),
    "focal": lambda x, z, q, c: L.sigmoid_focal_loss(x, q, gamma=0.5, alpha=0.3),
    "hinge": lambda x, z, q, c: L.hinge_loss(x, jnp.sign(z)),
    "perceptron": lambda x, z, q, c: L.perceptron_loss(x, jnp.sign(z)),
    "sparsemax": lambda x, z, q, c: L.sparsemax_loss(x, z > 0),
    "multiclass hinge": lambda x, z, q, c: L.multiclass_hinge_loss(x, c),
    "multiclass perceptron": lambda x, z, q, c: L.multiclass_perceptron_loss(x, c),
    "multiclass sparsemax": lambda x, z, q, c: L.multiclass_sparsemax_loss(x, c),
    "squared": lambda x, z, q, c: L.squared_error(x, z),
    "huber": lambda x, z, q, c: L.huber_loss(x, z, delta=0.3),
    "log_cosh": lambda x, z, q, c: L.log_cosh(x, z),
    "cosine": lambda x, z, q, c: L.cosine_distance(x, z),
    "triplet": lambda x, z, q, c: L.triplet_margin_loss(x, z, q, margin=0.0),
    "kl": lambda x, z, q, c: L.kl_divergence(jax.nn.log_softmax(x), q),
    "log targets": lambda x, z, q, c: L.kl_divergence_with_log_targets(
        jax.nn.log_softmax(x), jax.nn.log_softmax(z)
    ),
    "generalized kl": lambda x, z, q, c: L.generalized_kl_divergence(jax.nn.log_softmax(x), q),
    "js": lambda x, z, q, c: L.js_divergence(jax.nn.log_softmax(x), q),
    "dice": lambda x, z, q, c: L.dice_loss(x[:, None], q[:, None], smooth=0.0),
    "generalized dice": lambda x, z, q, c: L.multiclass_generalized_dice_loss(x, q),
    "binary dice": lambda x, z, q, c: L.binary_dice_loss(x, (z > 0).astype(x.dtype)),
    "ntxent": lambda x, z, q, c: L.ntxent(x[:20], c[:20]),
    "ctc": lambda x, z, q, c: ctc_rows_of(x),
    "fenchel young": lambda x, z, q, c: L.make_fenchel_young_loss(jax.nn.logsumexp)(
        x, jax.nn.one_hot(c, 4, dtype=x.dtype)
    ),
}


def chunked_rows(x, labels):
    return L.chunked_softmax_cross_entropy(x, jnp.eye(4, dtype=x.dtype), labels, chunk_size=3)


def ctc_rows_of(x):
    """Two frames of the first two classes each, the blank and a label."""
    frames = jnp.stack([x[:, :2], x[:, 2:]], axis=1)
    pads = jnp.zeros(frames.shape[:2], int), jnp.zeros((len(x), 1), int)
    return L.ctc_loss(frames, pads[0], jnp.ones((len(x), 1), int), pads[1])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rounding_makes_no_loss_negative(dtype):
    """Also where prediction and target nearly agree, and for confident predictions."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, 4)) * 10.0 ** rng.uniform(-3, 2, (2000, 1))
    z = x + rng.normal(size=x.shape) * 10.0 ** rng.uniform(-9, -1, (2000, 1))

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def run(x, z):
        q, c = jax.nn.softmax(z), jnp.argmax(z, axis=-1)
        return {name: jnp.min(loss(x, z, q, c)) for name, loss in NEVER_NEGATIVE.items()}

    with enable_x64():
        lowest = jax.tree.map(np.asarray, run(jnp.asarray(x, dtype), jnp.asarray(z, dtype)))
    for name, value in lowest.items():
        assert value >= 0, (name, value)


def test_the_reported_ctc_loss():
    """optax#1771: -8.28e-8; the exact value is 1.7e-15."""
    x = jnp.array([[[0.0, 17.0], [0.0, 17.0]]])
    loss = gdjax.ctc_loss(x, jnp.zeros((1, 2)), jnp.array([[1]]), jnp.zeros((1, 1)))
    assert 0 <= loss[0] < 1e-12


MASK = np.array([[True, False, True], [False, False, False], [True, True, False]])
LABELS = np.array([2, 0, 1])


def masked_hidden(hidden, where):
    kernel = jnp.arange(6.0).reshape(2, 3)
    loss = L.chunked_softmax_cross_entropy(hidden[:, :2], kernel, LABELS, where=where[:, 0])
    return jnp.where(where[:, 0], loss, 0)


# losses with `where` -> their function of (first, second, mask), arrays [3, 3]
WITH_MASK = {
    "softmax_cross_entropy": lambda x, y, m: L.softmax_cross_entropy(x, y, where=m),
    "softmax_cross_entropy_with_integer_labels": (
        lambda x, y, m: L.softmax_cross_entropy_with_integer_labels(x, LABELS, where=m)
    ),
    "poly_loss_cross_entropy": lambda x, y, m: L.poly_loss_cross_entropy(x, y, where=m),
    "kl_divergence": lambda x, y, m: L.kl_divergence(x, y, where=m),
    "kl_divergence_with_log_targets": (
        lambda x, y, m: L.kl_divergence_with_log_targets(x, -y, where=m)
    ),
    "generalized_kl_divergence": lambda x, y, m: L.generalized_kl_divergence(x, y, where=m),
    "js_divergence": lambda x, y, m: L.js_divergence(x, y, where=m),
    "cosine_similarity": lambda x, y, m: L.cosine_similarity(x, y, where=m),
    "cosine_distance": lambda x, y, m: L.cosine_distance(x, y, where=m),
    "ranking_softmax_loss": lambda x, y, m: L.ranking_softmax_loss(x, y, weights=y, where=m),
    "smooth_labels": lambda x, y, m: L.smooth_labels(x, 0.1, where=m),
    "chunked_softmax_cross_entropy": lambda x, y, m: masked_hidden(x, m),
}


def test_what_a_mask_excludes_does_not_matter_even_if_infinite():
    """Neither for the value nor for the gradients: NaN, inf and -inf in either argument."""
    having = {k for k in TABLE if "where" in inspect.signature(getattr(L, k)).parameters}
    assert having == set(WITH_MASK)

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    @functools.partial(jax.vmap, in_axes=(0, None, None))
    def run(fill, x, y):
        def measured(name, loss):
            mask = jnp.asarray(MASK) if "chunked" not in name else jnp.asarray(MASK[:, [0, 0, 0]])
            bad = [jnp.where(mask, z, fill) for z in (x, y)]

            def total(*arrays):
                return jnp.sum(loss(*arrays, mask))

            return jax.value_and_grad(total, (0, 1))(*bad)

        return {name: measured(name, loss) for name, loss in WITH_MASK.items()}

    x = np.log([[0.2, 0.3, 0.5], [0.1, 0.1, 0.8], [0.3, 0.3, 0.4]])
    y = np.array([[0.1, 0.5, 0.4], [0.6, 0.2, 0.2], [0.7, 0.2, 0.1]])
    fills = jnp.array([0.5, NAN, INF, -INF, 1e38])
    for name, out in run(fills, jnp.asarray(x, "float32"), jnp.asarray(y, "float32")).items():
        for leaf in jax.tree.leaves(out):
            assert np.all(np.isfinite(leaf[0])), name
            np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[0], leaf.shape), err_msg=name)
