"""NIST's Statistical Reference Datasets for nonlinear regression, with certified values.

https://www.itl.nist.gov/div898/strd/nls/nls_main.shtml: 27 models, each with two starts, certified
to 11 digits (of Lanczos1's sum of squares, 1e-25, less is true); a work of the United States
government, in the public domain. nist_strd.txt has what the files of NIST state. Models of one form
are one function with other constants, so that they share a program.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np


class Dataset(NamedTuple):
    name: str
    starts: np.ndarray  # (2, n)
    certified: np.ndarray  # (n,)
    sum_of_squares: float
    x: np.ndarray  # (m,), or (m, 2)
    y: np.ndarray


def read() -> dict[str, Dataset]:
    sets = {}
    for block in Path(__file__).with_suffix(".txt").read_text().split("# ")[1:]:
        head, *lines = block.splitlines()
        row = {line.split()[0]: np.array(line.split()[1:], float) for line in lines}
        x = row["x"] if "x" in row else np.stack([row["x1"], row["x2"]], axis=1)
        starts = np.stack([row["start_1"], row["start_2"]])
        name, value = head.split(":")[0], float(head.split()[-1])
        sets[name] = Dataset(name, starts, row["certified"], value, x, row["y"])
    return sets


def power(b, x, c):
    return b[0] * x ** b[1]


def shifted_power(b, x, c):
    return b[0] * (b[1] + x) ** (-1 / b[2])


def decay(b, x, c):
    return jnp.exp(-b[0] * x) / (b[1] + b[2] * x)


def saturation(b, x, c):
    return b[0] * (1 - jnp.exp(-b[1] * x))


def hyperbola(b, x, c):
    return b[0] * (1 - (1 + c[0] * b[1] * x) ** c[1])


def bell(b, x, c):
    return b[0] / b[1] * jnp.exp(-0.5 * ((x - b[2]) / b[1]) ** 2)


def two_bells(b, x, c):
    bells = [b[i] * jnp.exp(-((x - b[i + 1]) ** 2) / b[i + 2] ** 2) for i in (2, 5)]
    return b[0] * jnp.exp(-b[1] * x) + bells[0] + bells[1]


def three_decays(b, x, c):
    return sum(b[i] * jnp.exp(-b[i + 1] * x) for i in (0, 2, 4))


def two_decays(b, x, c):
    return b[0] + b[1] * jnp.exp(-x * b[3]) + b[2] * jnp.exp(-x * b[4])


def cubics(b, x, c):
    return (b[0] + b[1] * x + b[2] * x**2 + b[3] * x**3) / (
        1 + b[4] * x + b[5] * x**2 + b[6] * x**3
    )


def quadratics(b, x, c):
    return (b[0] + b[1] * x + b[2] * x**2) / (1 + b[3] * x + b[4] * x**2)


def enzyme(b, x, c):
    return b[0] * (x**2 + x * b[1]) / (x**2 + x * b[2] + b[3])


def arrhenius(b, x, c):
    return b[0] * jnp.exp(b[1] / (x + b[2]))


def breakdown(b, x, c):  # of the logarithm of y
    return b[0] - b[1] * x[:, 0] * jnp.exp(-b[2] * x[:, 1])


def logistic(b, x, c):
    return b[0] / (1 + jnp.exp(b[1] - b[2] * x))


def general_logistic(b, x, c):
    return b[0] / (1 + jnp.exp(b[1] - b[2] * x)) ** (1 / b[3])


def quantum_defect(b, x, c):
    return b[0] - b[1] * x - jnp.arctan(b[2] / (x - b[3])) / jnp.pi


def oscillation(b, x, c):
    year = 2 * jnp.pi * x / 12
    waves = [
        b[i + 1] * jnp.cos(2 * jnp.pi * x / b[i]) + b[i + 2] * jnp.sin(2 * jnp.pi * x / b[i])
        for i in (3, 6)
    ]
    return b[0] + b[1] * jnp.cos(year) + b[2] * jnp.sin(year) + waves[0] + waves[1]


class Group(NamedTuple):
    """Data sets of one model, and the constants in it."""

    model: Callable
    names: tuple[str, ...]
    constants: tuple[tuple[float, ...], ...] = ((),)


GROUPS = (
    Group(power, ("DanWood",)),
    Group(shifted_power, ("Bennett5",)),
    Group(decay, ("Chwirut1", "Chwirut2")),
    Group(saturation, ("Misra1a", "BoxBOD")),
    Group(hyperbola, ("Misra1b", "Misra1c", "Misra1d"), ((0.5, -2.0), (2.0, -0.5), (1.0, -1.0))),
    Group(bell, ("Eckerle4",)),
    Group(two_bells, ("Gauss1", "Gauss2", "Gauss3")),
    Group(three_decays, ("Lanczos1", "Lanczos2", "Lanczos3")),
    Group(two_decays, ("MGH17",)),
    Group(cubics, ("Hahn1", "Thurber")),
    Group(quadratics, ("Kirby2",)),
    Group(enzyme, ("MGH09",)),
    Group(arrhenius, ("MGH10",)),
    Group(breakdown, ("Nelson",)),
    Group(logistic, ("Rat42",)),
    Group(general_logistic, ("Rat43",)),
    Group(quantum_defect, ("Roszman1",)),
    Group(oscillation, ("ENSO",)),
)


def lanes(group: Group, sets: dict[str, Dataset]) -> tuple[np.ndarray, tuple]:
    """Return all starts of a group, (lanes, n), and args of `residual`, with an axis of lanes.

    Shorter data sets are filled up with points of no weight.
    """
    chosen = [sets[name] for name in group.names]
    most = max(s.y.size for s in chosen)
    rows = []
    for i, s in enumerate(chosen):
        y = np.log(s.y) if group.model is breakdown else s.y
        fill = most - y.size
        x = np.concatenate([s.x, np.repeat(s.x[-1:], fill, axis=0)])
        y, weight = np.pad(y, (0, fill)), np.pad(np.ones(y.size), (0, fill))
        rows += [(x, y, weight, np.array(group.constants[i % len(group.constants)]))] * 2
    args = tuple(np.stack(column) for column in zip(*rows, strict=True))
    return np.concatenate([s.starts for s in chosen]), args


def residual(model: Callable) -> Callable:
    def of_model(b, x, y, weight, constants):
        return jnp.where(weight > 0, model(b, x, constants) - y, 0)

    return of_model
