"""Beck & Teboulle (2003), (3.11), with the mirror map whose gradient is arcsinh."""

from functools import partial

import jax.numpy as jnp
import numpy as np

import gdjax
from oracles.case import REAL, Case


def hyperbolic(learning_rate):
    dual = {}

    def step(theta, g, t):
        for k in theta:
            dual[k] = dual.get(k, np.arcsinh(theta[k])) - learning_rate * g[k]
        return {k: np.sinh(z) for k, z in dual.items()}

    return step


CASES = [
    Case(
        "mirror_descent",
        partial(gdjax.mirror_descent, to_dual=jnp.arcsinh, to_primal=jnp.sinh),
        dict(learning_rate=0.05),
        hyperbolic,
        dtypes=REAL,
    ),
]
