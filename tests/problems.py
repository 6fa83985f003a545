"""An asymmetric problem in NumPy: gradients on which a sign or transpose error cannot cancel."""

import numpy as np

SHAPES = {
    "scalar": (),
    "vector": (5,),
    "tall": (6, 3),
    "wide": (3, 7),
    "kernel": (2, 3, 2, 4),
    "still": (4,),  # its gradient is always zero
}


def parameters(seed=0):
    """Return a dict of float64 arrays, one for each shape of interest."""
    rng = np.random.default_rng(seed)
    return {k: rng.normal(0.3, 1.0, s) for k, s in SHAPES.items()}


def gradients(params, t, seed=1):
    """Return a noisy gradient of an ill-conditioned, non-convex function at step t = 1, 2, ..."""
    rng = np.random.default_rng([seed, t])
    out = {}
    for k in SHAPES:  # a fixed order, since the noise is drawn in it
        x = params[k]
        scale = np.linspace(0.1, 3.0, x.size).reshape(x.shape)
        out[k] = scale * x + 0.7 * np.cos(1.7 * x + 0.2) + rng.normal(0.05, 0.1, x.shape)
    out["still"] = np.zeros_like(params["still"])
    return out


def value(params, t=0):
    """Return a positive loss-like number that goes with the gradients; for `value=`."""
    return float(sum(np.sum(0.5 * x * x) for x in params.values()) + 1.0)
