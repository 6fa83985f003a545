"""Least-squares problems of More, Garbow & Hillstrom (1981), "Testing unconstrained optimization".

Written from the paper, number by number; the values are half the sum of squares at the minima that
the paper states.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
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


def gulf(x):  # (11), m = 99
    t = jnp.arange(1.0, 100.0, dtype=x.dtype) / 100
    y = 25 + (-50 * jnp.log(t)) ** (2 / 3)
    return jnp.exp(-(jnp.abs(y - x[1]) ** x[2]) / x[0]) - t


OSBORNE_1 = [0.844, 0.908, 0.932, 0.936, 0.925, 0.908, 0.881, 0.850, 0.818, 0.784, 0.751, 0.718]
OSBORNE_1 += [0.685, 0.658, 0.628, 0.603, 0.580, 0.558, 0.538, 0.522, 0.506, 0.490, 0.478, 0.467]
OSBORNE_1 += [0.457, 0.448, 0.438, 0.431, 0.424, 0.420, 0.414, 0.411, 0.406]


def osborne_1(x):  # (17)
    t = 10 * jnp.arange(33.0, dtype=x.dtype)
    y = jnp.asarray(OSBORNE_1, x.dtype)
    return y - (x[0] + x[1] * jnp.exp(-t * x[3]) + x[2] * jnp.exp(-t * x[4]))


OSBORNE_2 = [1.366, 1.191, 1.112, 1.013, 0.991, 0.885, 0.831, 0.847, 0.786, 0.725, 0.746, 0.679]
OSBORNE_2 += [0.608, 0.655, 0.616, 0.606, 0.602, 0.626, 0.651, 0.724, 0.649, 0.649, 0.694, 0.644]
OSBORNE_2 += [0.624, 0.661, 0.612, 0.558, 0.533, 0.495, 0.500, 0.423, 0.395, 0.375, 0.372, 0.391]
OSBORNE_2 += [0.396, 0.405, 0.428, 0.429, 0.523, 0.562, 0.607, 0.653, 0.672, 0.708, 0.633, 0.668]
OSBORNE_2 += [0.645, 0.632, 0.591, 0.559, 0.597, 0.625, 0.739, 0.710, 0.729, 0.720, 0.636, 0.581]
OSBORNE_2 += [0.428, 0.292, 0.162, 0.098, 0.054]


def osborne_2(x):  # (19)
    t = jnp.arange(65.0, dtype=x.dtype) / 10
    bells = [x[i] * jnp.exp(-((t - x[i + 7]) ** 2) * x[i + 4]) for i in (1, 2, 3)]
    return jnp.asarray(OSBORNE_2, x.dtype) - (x[0] * jnp.exp(-t * x[4]) + sum(bells))


def extended_rosenbrock(x):  # (21)
    a, b = x[::2], x[1::2]
    return jnp.concatenate([10 * (b - a**2), 1 - a])


def extended_powell(x):  # (22)
    return jax.vmap(powell_singular)(x.reshape(-1, 4)).ravel()


def penalty_1(x):  # (23)
    return jnp.append(1e-5**0.5 * (x - 1), jnp.sum(x**2) - 0.25)


def penalty_2(x):  # (24)
    n, root = x.size, 1e-5**0.5
    e = jnp.exp(x / 10)
    i = jnp.arange(2.0, n + 1, dtype=x.dtype)
    y = jnp.exp(i / 10) + jnp.exp((i - 1) / 10)
    last = jnp.sum((n - jnp.arange(n, dtype=x.dtype)) * x**2) - 1
    parts = [x[:1] - 0.2, root * (e[1:] + e[:-1] - y), root * (e[1:] - jnp.exp(-0.1)), last[None]]
    return jnp.concatenate(parts)


def variably_dimensioned(x):  # (25)
    total = jnp.sum(jnp.arange(1.0, x.size + 1, dtype=x.dtype) * (x - 1))
    return jnp.concatenate([x - 1, total[None], total[None] ** 2])


def trigonometric(x):  # (26)
    i = jnp.arange(1.0, x.size + 1, dtype=x.dtype)
    return x.size - jnp.sum(jnp.cos(x)) + i * (1 - jnp.cos(x)) - jnp.sin(x)


def brown_almost_linear(x):  # (27)
    return jnp.append(x[:-1] + jnp.sum(x) - (x.size + 1), jnp.prod(x) - 1)


def discrete_boundary(x):  # (28)
    h = 1 / (x.size + 1)
    t = h * jnp.arange(1.0, x.size + 1, dtype=x.dtype)
    wide = jnp.pad(x, 1)
    return 2 * x - wide[:-2] - wide[2:] + h**2 * (x + t + 1) ** 3 / 2


def discrete_integral(x):  # (29)
    h = 1 / (x.size + 1)
    t = h * jnp.arange(1.0, x.size + 1, dtype=x.dtype)
    cubes = (x + t + 1) ** 3
    below = jnp.cumsum(t * cubes)
    above = jnp.sum((1 - t) * cubes) - jnp.cumsum((1 - t) * cubes)
    return x + h * ((1 - t) * below + t * above) / 2


def broyden_tridiagonal(x):  # (30)
    wide = jnp.pad(x, 1)
    return (3 - 2 * x) * x - wide[:-2] - 2 * wide[2:] + 1


def broyden_banded(x):  # (31)
    i = np.arange(x.size)
    near = (i[None] != i[:, None]) & (i[None] >= i[:, None] - 5) & (i[None] <= i[:, None] + 1)
    return x * (2 + 5 * x**2) + 1 - jnp.asarray(near, x.dtype) @ (x * (1 + x))


def linear_full_rank(x):  # (32), m = 10
    rest = jnp.zeros(10 - x.size, x.dtype)
    return jnp.concatenate([x, rest]) - 2 / 10 * jnp.sum(x) - 1


def linear_rank_1_zeros(x):  # (34), n = 5, m = 10
    i = jnp.arange(10.0, dtype=x.dtype)
    inner = jnp.sum(jnp.arange(2.0, x.size, dtype=x.dtype) * x[1:-1])
    return jnp.where((i == 0) | (i == 9), 0, i * inner) - 1


def chebyquad(x):  # (35), m = n
    t = [jnp.ones_like(x), 2 * x - 1]
    for _ in range(x.size - 1):
        t.append(2 * t[1] * t[-1] - t[-2])
    i = np.arange(1, x.size + 1)
    exact = np.where(i % 2 == 0, -1.0 / np.where(i % 2 == 0, i**2 - 1, 1), 0)
    return jnp.stack([jnp.mean(row) for row in t[1:]]) - jnp.asarray(exact, x.dtype)


def cut(n):
    """Return the inner points that cut [0, 1] into n + 1 parts."""
    return np.arange(1, n + 1) / (n + 1)


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
    Problem("gulf", gulf, [5.0, 2.5, 0.15], (0.0,)),
    Problem("osborne_1", osborne_1, [0.5, 1.5, -1, 0.01, 0.02], (5.46489e-5 / 2,)),
    Problem(
        "osborne_2",
        osborne_2,
        [1.3, 0.65, 0.65, 0.7, 0.6, 3, 5, 7, 2, 4.5, 5.5],
        (4.01377e-2 / 2,),
    ),
    Problem("watson_9", watson, list(np.zeros(9)), (1.39976e-6 / 2,)),
    Problem("watson_12", watson, list(np.zeros(12)), (4.72238e-10 / 2,)),
    Problem("extended_rosenbrock", extended_rosenbrock, [-1.2, 1.0] * 5, (0.0,)),
    Problem("extended_powell", extended_powell, [3.0, -1.0, 0.0, 1.0] * 3, (0.0,)),
    Problem("penalty_1_4", penalty_1, [1.0, 2.0, 3.0, 4.0], (2.24997e-5 / 2,)),
    Problem("penalty_1_10", penalty_1, list(np.arange(1.0, 11.0)), (7.08765e-5 / 2,)),
    Problem("penalty_2_4", penalty_2, [0.5] * 4, (9.37629e-6 / 2,)),
    Problem("penalty_2_10", penalty_2, [0.5] * 10, (2.93660e-4 / 2,)),
    Problem("variably_dimensioned", variably_dimensioned, list(1 - np.arange(1, 11) / 10), (0.0,)),
    Problem("trigonometric", trigonometric, [0.1] * 10, (0.0, 2.79506e-5 / 2)),
    Problem("brown_almost_linear", brown_almost_linear, [0.5] * 10, (0.0, 1 / 2)),
    Problem("discrete_boundary", discrete_boundary, list(cut(10) * (cut(10) - 1)), (0.0,)),
    Problem("discrete_integral", discrete_integral, list(cut(10) * (cut(10) - 1)), (0.0,)),
    Problem("broyden_tridiagonal", broyden_tridiagonal, [-1.0] * 10, (0.0,)),
    Problem("broyden_banded", broyden_banded, [-1.0] * 10, (0.0,)),
    Problem("linear_full_rank", linear_full_rank, [1.0] * 5, (5 / 2,)),
    Problem("linear_rank_1_zeros", linear_rank_1_zeros, [1.0] * 5, ((100 + 30 - 6) / 34 / 2,)),
    Problem("chebyquad_8", chebyquad, list(cut(8)), (3.51687e-3 / 2,)),
    Problem("chebyquad_9", chebyquad, list(cut(9)), (0.0,)),
    Problem("chebyquad_10", chebyquad, list(cut(10)), (6.50395e-3 / 2,)),
]  # fmt: skip


def reached(value: float, problem: Problem) -> bool:
    """Return whether half a sum of squares is that of a minimum which the paper states."""
    return any(abs(value - known) <= 1e-4 * known + 1e-10 for known in problem.values)


def bounded_problem(index):
    """Return residuals of an MGH problem, a start, and a box of which some bounds are active."""
    problem = PROBLEMS[index]
    rng = np.random.default_rng(index)
    start = np.array(problem.start)
    lower = start - 0.3 * (1 + np.abs(start)) * rng.uniform(size=start.size)
    upper = start + 2 * (1 + np.abs(start)) * rng.uniform(size=start.size)
    lower[rng.uniform(size=start.size) < 0.4] = -np.inf
    return problem, start, lower, upper
