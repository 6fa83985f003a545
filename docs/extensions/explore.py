"""Compute the paths that docs/explore.md shows, into docs/generated/static/; a Sphinx extension.

All rates and all functions of an optimizer are one compiled program: the learning rate is a leaf of
its state, and so it is mapped over. docs/static/explore.js draws what is written here.
"""

import base64
import functools
import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gdjax

OUTPUT = Path(__file__).parent.parent / "generated" / "static" / "explore_paths.js"
STEPS = 200
RATES = np.logspace(0, 4, 21)  # times the least rate of a function
SPREAD = 9  # positions are kept within this many times the width of the picture, and clipped there
HOPELESS = 1e6  # a loss of this many times that at the start counts as diverged
DECADES = -10, 10  # of losses above the minimum


class Function(NamedTuple):
    """A function to go down on.

    Attributes:
      value: from an array of two numbers to a number that is 0 at the minimum.
      title: its name on the page.
      centre: the middle of the picture, which is 4 wide and 3 high.
      start: where all paths begin.
      least_rate: the lowest learning rate.
      minima: where the value is 0.
      noise: the standard deviation of what is added to each element of the gradient.
    """

    value: object
    title: str
    centre: tuple
    start: tuple
    least_rate: float
    minima: tuple
    noise: float = 0.0


def _valley(p):
    return (1 - p[0]) ** 2 + 100 * (p[1] - p[0] ** 2) ** 2


def _saddle(p):
    return (p[0] ** 2 + (p[1] ** 2 - 1) ** 2 / 2) / 2


def _stretched(p):
    return (p[0] ** 2 + 50 * p[1] ** 2) / 2


def _turned(p):
    return _stretched(jnp.array([p[0] + p[1], p[1] - p[0]]) / 2**0.5)


def _noisy(p):
    return (p[0] ** 2 + 4 * p[1] ** 2) / 2


CENTRE = ((0.0, 0.0),)
TURNED_START = -2.6 / 2**0.5, -1.0 / 2**0.5  # (-1.8, 0.8), turned
FUNCTIONS = {
    "valley": Function(
        _valley, "A curved valley (Rosenbrock)", (0, 0.5), (-1.2, 1), 1e-4, ((1, 1),)
    ),
    "saddle": Function(_saddle, "A saddle", (0, 0), (1.5, 0.001), 1e-3, ((0, 1), (0, -1))),
    "stretched": Function(
        _stretched, "A badly scaled quadratic", (0, 0), (-1.8, 0.8), 1e-3, CENTRE
    ),
    "turned": Function(
        _turned,
        "The badly scaled quadratic, turned by 45°",
        (-0.2, -0.5),
        TURNED_START,
        1e-3,
        CENTRE,
    ),
    "noisy": Function(
        _noisy, "A quadratic with noisy gradients", (0, 0), (-1.7, 1.2), 1e-3, CENTRE, 1.0
    ),
}
# name on the page -> (what makes the optimizer from a rate, whether it is shown at first)
OPTIMIZERS = {
    "gradient descent": (gdjax.gradient_descent, True),
    "momentum": (functools.partial(gdjax.sgd, momentum=0.9), True),
    "Nesterov": (functools.partial(gdjax.sgd, momentum=0.9, nesterov=True), False),
    "RMSProp": (gdjax.rmsprop, False),
    "Adam": (gdjax.adam, True),
    "Lion": (gdjax.lion, True),
    "schedule-free": (gdjax.schedule_free_sgd, False),
    "L-BFGS": (lambda rate: gdjax.lbfgs(), False),
}
LINE_SEARCH = ("L-BFGS",)  # have no learning rate, and need exact gradients


def value(which, point):
    """Return a function's value, by its number."""
    return jax.lax.switch(which, [f.value for f in FUNCTIONS.values()], point)


def path(make, which, start, rate):
    """Return the points of a path, (STEPS + 1, 2), and the value at each.

    The points are those to evaluate at: of schedule-free gradient descent, the average.
    """
    functions = FUNCTIONS.values()
    scale = jnp.array([f.least_rate for f in functions])[which]
    noise = jnp.array([f.noise for f in functions])[which]
    fun = functools.partial(value, which)
    optimizer = gdjax.with_extra_args_support(make(scale * rate))

    def step(carry, noise):
        point, state = carry
        height, grad = jax.value_and_grad(fun)(point)
        grad += noise
        updates, state = optimizer.update(grad, state, point, value=height, grad=grad, value_fn=fun)
        point = gdjax.apply_updates(point, updates)
        shown = gdjax.eval_params(state, point)
        return (point, state), (shown, fun(shown))

    noise *= jax.random.normal(jax.random.key(0), (STEPS, 2))
    _, (points, values) = jax.lax.scan(step, (start, optimizer.init(start)), noise)
    return jnp.vstack([start, points]), jnp.append(fun(start), values)


def computed():
    """Return what the page needs, as a dict of numbers, texts and base64."""
    functions = list(FUNCTIONS.values())
    starts = jnp.array([f.start for f in functions], jnp.float32)
    centres = np.array([f.centre for f in functions])[:, None, None]
    codes = []
    for name, (make, _) in OPTIMIZERS.items():
        rates = jax.vmap(functools.partial(path, make), (None, None, 0))
        program = jax.jit(jax.vmap(rates, (0, 0, None)))
        varied = RATES if name not in LINE_SEARCH else RATES[:1]
        points, values = map(np.asarray, program(np.arange(len(functions)), starts, varied))
        unit = (points - centres) / (np.array([4, 3]) * SPREAD) + 0.5
        with np.errstate(divide="ignore", invalid="ignore"):
            height = (np.log10(values) - DECADES[0]) / (DECADES[1] - DECADES[0])
            lost = ~(values <= HOPELESS * values[..., :1])
        code = np.concatenate([unit, height[..., None]], -1)
        code = np.round(np.clip(np.nan_to_num(code), 0, 1) * 65534).astype("<u2")
        code[np.logical_or.accumulate(lost, -1)] = 65535
        codes.append(np.broadcast_to(code, (len(functions), len(RATES), STEPS + 1, 3)))
    return {
        "steps": STEPS,
        "spread": SPREAD,
        "decades": DECADES,
        "rates": [float(f"{r:.3g}") for r in RATES],
        "functions": [
            {
                "name": name,
                "title": f.title,
                "centre": f.centre,
                "start": f.start,
                "leastRate": f.least_rate,
                "minima": f.minima,
                "noisy": f.noise > 0,
            }
            for name, f in FUNCTIONS.items()
        ],
        "optimizers": [
            {"name": name, "shown": shown, "lineSearch": name in LINE_SEARCH}
            for name, (_, shown) in OPTIMIZERS.items()
        ],
        "paths": base64.b64encode(np.stack(codes, 1).tobytes()).decode(),
    }


def write(app, config):
    """Write the paths, unless they are there and the same code made them."""
    config.html_static_path.append("generated/static")
    made_by = hashlib.sha256(Path(__file__).read_bytes())
    for file in sorted(Path(gdjax.__file__).parent.rglob("*.py")):
        made_by.update(file.read_bytes())
    first_line = f"// {made_by.hexdigest()} jax {jax.__version__}\n"
    if OUTPUT.exists() and OUTPUT.read_text().startswith(first_line):
        return
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(f"{first_line}const gdjaxPaths = {json.dumps(computed())};\n")


def setup(app):
    """Register the extension."""
    app.connect("config-inited", write, priority=100)  # before the HTML builder looks for folders
    return {"parallel_read_safe": True}
