"""Least-squares problems of More, Garbow & Hillstrom (1981), "Testing unconstrained optimization".

Written from the paper, number by number; the values are half the sum of squares at the minima that
the paper states.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np


class Problem(NamedTuple):
    name: str
    residual: Callable
    start: list
    values: tuple  # 0.5 sum of squares at the minima that the paper states


def rosenbrock(x):  # (1)
    return jnp.array([10 * (x[1] - x[0] ** 2), 1 - x[0]])


def freudenstein_roth(x):  # (2)
    a, b = x
    return jnp.array([-13 + a + ((5 - b) * b - 2) * b, -29 + a + ((b + 1) * b - 14) * b])


def powell_badly_scaled(x):  # (3)
    return jnp.array([1e4 * x[0] * x[1] - 1, jnp.exp(-x[0]) + jnp.exp(-x[1]) - 1.0001])


def brown_badly_scaled(x):  # (4)
    return jnp.array([x[0] - 1e6, x[1] - 2e-6, x[0] * x[1] - 2])


def beale(x):  # (5)
    return jnp.stack([y - x[0] * (1 - x[1] ** i) for i, y in ((1, 1.5), (2, 2.25), (3, 2.625))])


def jennrich_sampson(x):  # (6), m = 10
    i = jnp.arange(1.0, 11.0, dtype=x.dtype)
    return 2 + 2 * i - (jnp.exp(i * x[0]) + jnp.exp(i * x[1]))


def helical_valley(x):  # (7)
    angle = jnp.arctan(x[1] / x[0]) / (2 * jnp.pi) + jnp.where(x[0] > 0, 0, 0.5)
    radius = jnp.sqrt(x[0] ** 2 + x[1] ** 2)
    return jnp.array([10 * (x[2] - 10 * angle), 10 * (radius - 1), x[2]])


BARD = [0.14, 0.18, 0.22, 0.25, 0.29, 0.32, 0.35, 0.39, 0.37, 0.58, 0.73, 0.96, 1.34, 2.10, 4.39]


def bard(x):  # (8)
    u = jnp.arange(1.0, 16.0, dtype=x.dtype)
    v = 16 - u
    return jnp.asarray(BARD, x.dtype) - (x[0] + u / (v * x[1] + jnp.minimum(u, v) * x[2]))


GAUSSIAN = [0.0009, 0.0044, 0.0175, 0.0540, 0.1295, 0.2420, 0.3521, 0.3989]


def gaussian(x):  # (9)
    t = (8 - jnp.arange(1.0, 16.0, dtype=x.dtype)) / 2
    y = jnp.asarray(GAUSSIAN + GAUSSIAN[-2::-1], x.dtype)
    return x[0] * jnp.exp(-x[1] * (t - x[2]) ** 2 / 2) - y


MEYER = [34780, 28610, 23650, 19630, 16370, 13720, 11540, 9744, 8261, 7030, 6005, 5147, 4427]
MEYER += [3820, 3307, 2872]


def meyer(x):  # (10)
    t = 45 + 5 * jnp.arange(1.0, 17.0, dtype=x.dtype)
    return x[0] * jnp.exp(x[1] / (t + x[2])) - jnp.asarray(MEYER, x.dtype)


def box_3d(x):  # (12), m = 10
    t = 0.1 * jnp.arange(1.0, 11.0, dtype=x.dtype)
    return jnp.exp(-t * x[0]) - jnp.exp(-t * x[1]) - x[2] * (jnp.exp(-t) - jnp.exp(-10 * t))


def powell_singular(x):  # (13)
    return jnp.array(
        [
            x[0] + 10 * x[1],
            5**0.5 * (x[2] - x[3]),
            (x[1] - 2 * x[2]) ** 2,
            10**0.5 * (x[0] - x[3]) ** 2,
        ]
    )


def wood(x):  # (14)
    a, b, c, d = x
    r, s = 90**0.5, 10**0.5
    return jnp.array([10 * (b - a**2), 1 - a, r * (d - c**2), 1 - c, s * (b + d - 2), (b - d) / s])


KOWALIK_Y = [0.1957, 0.1947, 0.1735, 0.1600, 0.0844, 0.0627, 0.0456, 0.0342, 0.0323, 0.0235, 0.0246]
KOWALIK_U = [4.0, 2.0, 1.0, 0.5, 0.25, 0.167, 0.125, 0.1, 0.0833, 0.0714, 0.0625]


def kowalik_osborne(x):  # (15)
    u = jnp.asarray(KOWALIK_U, x.dtype)
    return jnp.asarray(KOWALIK_Y, x.dtype) - x[0] * (u**2 + u * x[1]) / (u**2 + u * x[2] + x[3])


def brown_dennis(x):  # (16), m = 20
    t = jnp.arange(1.0, 21.0, dtype=x.dtype) / 5
    return (x[0] + t * x[1] - jnp.exp(t)) ** 2 + (x[2] + x[3] * jnp.sin(t) - jnp.cos(t)) ** 2


def biggs_exp6(x):  # (18), m = 13
    t = 0.1 * jnp.arange(1.0, 14.0, dtype=x.dtype)
    y = jnp.exp(-t) - 5 * jnp.exp(-10 * t) + 3 * jnp.exp(-4 * t)
    parts = x[2] * jnp.exp(-t * x[0]) - x[3] * jnp.exp(-t * x[1]) + x[5] * jnp.exp(-t * x[4])
    return parts - y


def watson(x):  # (20), n = 6
    t = jnp.arange(1.0, 30.0, dtype=x.dtype)[:, None] / 29
    j, x = jnp.arange(x.size, dtype=x.dtype)[None], x[None]
    above = (
        jnp.sum(j[:, 1:] * x[:, 1:] * t ** (j[:, 1:] - 1), axis=1)
        - jnp.sum(x * t**j, axis=1) ** 2
        - 1
    )
    return jnp.concatenate([above, jnp.array([x[0, 0], x[0, 1] - x[0, 0] ** 2 - 1])])


def linear_rank_1(x):  # (33), n = 5, m = 10
    i, j = jnp.arange(1.0, 11.0, dtype=x.dtype), jnp.arange(1.0, 6.0, dtype=x.dtype)
    return i * jnp.sum(j * x) - 1


PROBLEMS = [
    Problem("rosenbrock", rosenbrock, [-1.2, 1.0], (0.0,)),
    Problem("freudenstein_roth", freudenstein_roth, [0.5, -2.0], (0.0, 48.9842 / 2)),
    Problem("powell_badly_scaled", powell_badly_scaled, [0.0, 1.0], (0.0,)),
    Problem("brown_badly_scaled", brown_badly_scaled, [1.0, 1.0], (0.0,)),
    Problem("beale", beale, [1.0, 1.0], (0.0,)),
    Problem("jennrich_sampson", jennrich_sampson, [0.3, 0.4], (124.362 / 2,)),
    Problem("helical_valley", helical_valley, [-1.0, 0.0, 0.0], (0.0,)),
    Problem("bard", bard, [1.0, 1.0, 1.0], (8.21487e-3 / 2, 17.4286 / 2)),
    Problem("gaussian", gaussian, [0.4, 1.0, 0.0], (1.12793e-8 / 2,)),
    Problem("meyer", meyer, [0.02, 4000.0, 250.0], (87.9458 / 2,)),
    Problem("box_3d", box_3d, [0.0, 10.0, 20.0], (0.0,)),
    Problem("powell_singular", powell_singular, [3.0, -1.0, 0.0, 1.0], (0.0,)),
    Problem("wood", wood, [-3.0, -1.0, -3.0, -1.0], (0.0,)),
    Problem(
        "kowalik_osborne",
        kowalik_osborne,
        [0.25, 0.39, 0.415, 0.39],
        (3.07505e-4 / 2, 1.02734e-3 / 2),
    ),
    Problem("brown_dennis", brown_dennis, [25.0, 5.0, -5.0, -1.0], (85822.2 / 2,)),
    Problem("biggs_exp6", biggs_exp6, [1.0, 2.0, 1.0, 1.0, 1.0, 1.0], (0.0, 5.65565e-3 / 2)),
    Problem("watson", watson, list(np.zeros(6)), (2.28767e-3 / 2,)),
    Problem("linear_rank_1", linear_rank_1, list(np.ones(5)), (10 * 9 / (2 * 21) / 2,)),
]  # fmt: skip
