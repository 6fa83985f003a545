"""Radial brake, floor of each output's update, pinned radius: modded-nanogpt, result 46."""

import numpy as np

import gdjax
from oracles import sgd
from oracles.case import Case


def _floor(W, u, ratio, min_norm):
    """For each slice of the last axis, or of the last two of three: what feeds one output."""
    axes = 0 if W.ndim == 3 else tuple(range(W.ndim - 1))
    weight = np.maximum(np.sqrt(np.sum(W**2, axes, keepdims=True)), min_norm)
    size = np.sqrt(np.sum(u**2, axes, keepdims=True))
    return u * np.maximum(ratio * weight / np.where(size > 0, size, np.inf), 1.0)


def radius(learning_rate, momentum, outward, inward, ratio, min_norm):
    base = sgd.sgd(learning_rate, momentum)

    def moved(W, new):
        if W.ndim < 2:
            return new
        u = W - new  # as in the records: subtracted from W
        radial = np.sum(u * W) / np.sum(W**2) * W
        u = (u - radial) + (outward if np.sum(u * W) < 0 else inward) * radial
        u = _floor(W, u, ratio, min_norm)
        norm = np.linalg.norm(W.ravel())
        target = norm - np.sum(u * W) / norm
        return target * (W - u) / np.linalg.norm((W - u).ravel())

    def step(theta, g, t):
        new = base(theta, g, t)
        return {k: moved(theta[k], new[k]) for k in theta}

    return step


def _radius(learning_rate, momentum, outward, inward, ratio, min_norm):
    return gdjax.chain(
        gdjax.sgd(learning_rate, momentum),
        gdjax.radial_brake(outward, inward),
        gdjax.update_floor(ratio, min_norm),
        gdjax.pin_radius(),
    )


CASES = [
    Case(
        "radial_brake",
        _radius,
        dict(learning_rate=0.02, momentum=0.8, outward=0.4, inward=0.9, ratio=0.05, min_norm=1.7),
        radius,
        valley=25.0,  # its parameters are vectors, or the floor keeps it moving
    ),
]
