"""Beck & Teboulle (2003), (3.11), with the mirror map whose gradient is arcsinh."""

import numpy as np


def hyperbolic(learning_rate):
    dual = {}

    def step(theta, g, t):
        for k in theta:
            dual[k] = dual.get(k, np.arcsinh(theta[k])) - learning_rate * g[k]
        return {k: np.sinh(z) for k, z in dual.items()}

    return step
