"""NIST's Statistical Reference Datasets for nonlinear regression, with certified values.

https://www.itl.nist.gov/div898/strd/nls/nls_main.shtml: 27 models, each with two starts, certified
to 11 digits (of Lanczos1's sum of squares, 1e-25, less is true); a work of the United States
government, in the public domain. nist_strd.txt has what the files of NIST state.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np


class Dataset(NamedTuple):
    name: str
    starts: np.ndarray  # (2, n)
    certified: np.ndarray  # (n,)
    deviations: np.ndarray  # (n,), the certified standard deviations of the parameters
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
        certified = row["certified"], row["deviations"]
        sets[name] = Dataset(name, starts, *certified, value, x, row["y"])
    return sets


def power(b, x):
    return b[0] * x ** b[1]


def shifted_power(b, x):
    return b[0] * (b[1] + x) ** (-1 / b[2])


def decay(b, x):
    return jnp.exp(-b[0] * x) / (b[1] + b[2] * x)


def saturation(b, x):
    return b[0] * (1 - jnp.exp(-b[1] * x))


def hyperbola(b, x, c):
    return b[0] * (1 - (1 + c[0] * b[1] * x) ** c[1])


def bell(b, x):
    return b[0] / b[1] * jnp.exp(-0.5 * ((x - b[2]) / b[1]) ** 2)


def two_bells(b, x):
    bells = [b[i] * jnp.exp(-((x - b[i + 1]) ** 2) / b[i + 2] ** 2) for i in (2, 5)]
    return b[0] * jnp.exp(-b[1] * x) + bells[0] + bells[1]


def three_decays(b, x):
    return sum(b[i] * jnp.exp(-b[i + 1] * x) for i in (0, 2, 4))


def two_decays(b, x):
    return b[0] + b[1] * jnp.exp(-x * b[3]) + b[2] * jnp.exp(-x * b[4])


def cubics(b, x):
    return (b[0] + b[1] * x + b[2] * x**2 + b[3] * x**3) / (
        1 + b[4] * x + b[5] * x**2 + b[6] * x**3
    )


def quadratics(b, x):
    return (b[0] + b[1] * x + b[2] * x**2) / (1 + b[3] * x + b[4] * x**2)


def enzyme(b, x):
    return b[0] * (x**2 + x * b[1]) / (x**2 + x * b[2] + b[3])


def arrhenius(b, x):
    return b[0] * jnp.exp(b[1] / (x + b[2]))


def breakdown(b, x):  # of the logarithm of y
    return b[0] - b[1] * x[:, 0] * jnp.exp(-b[2] * x[:, 1])


def logistic(b, x):
    return b[0] / (1 + jnp.exp(b[1] - b[2] * x))


def general_logistic(b, x):
    return b[0] / (1 + jnp.exp(b[1] - b[2] * x)) ** (1 / b[3])


def quantum_defect(b, x):
    return b[0] - b[1] * x - jnp.arctan(b[2] / (x - b[3])) / jnp.pi


def oscillation(b, x):
    year = 2 * jnp.pi * x / 12
    waves = [
        b[i + 1] * jnp.cos(2 * jnp.pi * x / b[i]) + b[i + 2] * jnp.sin(2 * jnp.pi * x / b[i])
        for i in (3, 6)
    ]
    return b[0] + b[1] * jnp.cos(year) + b[2] * jnp.sin(year) + waves[0] + waves[1]


MODELS = {
    "DanWood": power,
    "Bennett5": shifted_power,
    "Chwirut1": decay,
    "Chwirut2": decay,
    "Misra1a": saturation,
    "BoxBOD": saturation,
    "Misra1b": functools.partial(hyperbola, c=(0.5, -2.0)),
    "Misra1c": functools.partial(hyperbola, c=(2.0, -0.5)),
    "Misra1d": functools.partial(hyperbola, c=(1.0, -1.0)),
    "Eckerle4": bell,
    "Gauss1": two_bells,
    "Gauss2": two_bells,
    "Gauss3": two_bells,
    "Lanczos1": three_decays,
    "Lanczos2": three_decays,
    "Lanczos3": three_decays,
    "MGH17": two_decays,
    "Hahn1": cubics,
    "Thurber": cubics,
    "Kirby2": quadratics,
    "MGH09": enzyme,
    "MGH10": arrhenius,
    "Nelson": breakdown,
    "Rat42": logistic,
    "Rat43": general_logistic,
    "Roszman1": quantum_defect,
    "ENSO": oscillation,
}


def residual(data: Dataset) -> Callable:
    """Return the residuals of a data set as a function of the parameters."""
    y = np.log(data.y) if data.name == "Nelson" else data.y
    return lambda b: MODELS[data.name](b, data.x) - y
