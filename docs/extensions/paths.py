"""The path of every optimizer on two functions of two numbers, for the pages of the reference.

All runs of one optimizer, with each learning rate and on both functions, are lanes of one program.
"""

import functools
import inspect

import contourpy
import jax
import jax.numpy as jnp
import numpy as np
from factories import SOLVERS

import gdjax

STEPS = 100
LAST = 10  # the steps at the end by which runs are compared
RATES = np.logspace(-5, 2, 22)
NOISE = 1.0  # standard deviation of each element of a gradient of the bowl

# Two functions: Rosenbrock's, and a quadratic with curvatures 1 and 20 along axes at 30 degrees.
FUNCTIONS = ("valley", "bowl")
COS, SIN = np.cos(np.pi / 6), np.sin(np.pi / 6)
BOWL = np.diag([1.0, np.sqrt(20.0)]) @ np.array([[COS, SIN], [-SIN, COS]])
LOWEST = {"valley": (1.0, 1.0), "bowl": (0.5, 0.2)}
LEVELS = {"valley": np.logspace(-0.5, 3, 8), "bowl": np.logspace(-1, 1.8, 8)}
WEST, EAST, SOUTH, NORTH = -1.7, 1.7, -0.9, 1.7  # what the pictures show
START = (-1.2, 1.0)

# How a factory is called, besides its learning rate, and what readers must know of it.
OPTIONS = {
    "default_optimizer": dict(steps=STEPS),
    "dpsgd": dict(l2_norm_clip=5.0, noise_multiplier=0.1, seed=0),
    "fista": dict(prox=gdjax.proximal.prox_none),
    "galore": dict(rank=1),
    "mirror_descent": dict(to_dual=jnp.log, to_primal=jnp.exp),
    "projected_gradient": dict(projection=gdjax.projections.projection_box, numbers=(-2.0, 0.8)),
    "proximal_gradient": dict(prox=gdjax.proximal.prox_none),
    "sgd": dict(momentum=0.9),
}
STARTS = {"mirror_descent": (0.2, 1.6)}
REMARKS = {
    "default_optimizer": "A matrix of one column is not rotated: this is Adam with its schedule.",
    "dpsgd": "Each gradient is that of one example, clipped to norm 5.",
    "galore": "A 2 x 1 matrix has rank 1, so that the projection loses nothing: this is Adam.",
    "l_dog": "There is only one array, so that this is `dog`.",
    "sgd": "The momentum is 0.9.",
    "fista": "There is no penalty: this is an accelerated gradient method with a line search.",
    "mirror_descent": "Its mirror map is the logarithm, so that both numbers are positive.",
    "projected_gradient": "Both numbers are kept below 0.8, so that it cannot reach the minimum of "
    "the valley.",
    "proximal_gradient": "There is no penalty: this is gradient descent with a line search.",
    **dict.fromkeys(
        ("muon", "normuon", "adamuon", "soap_muon", "dion", "dion2", "scion"),
        "The polar factor of a 2 x 1 matrix is the matrix over its norm.",
    ),
}
# These find the rate themselves; where they have an argument for it, it is left at its default.
OWN_RATE = {
    *("cocob", "dadapt_adamw", "dog", "dowg", "l_dog", "prodigy"),
    *(name for name in SOLVERS if name != "mirror_descent"),
}


def residuals(params, bowl):
    """Return two numbers; a function is half of the sum of their squares."""
    x, y = params[:, 0]
    valley = jnp.stack([10 * (y - x**2), 1 - x])
    return jnp.where(bowl, BOWL @ (params[:, 0] - jnp.array(LOWEST["bowl"])), valley)


def value_of(params, bowl):
    """Return the value of a function; `bowl` is whether it is the quadratic one."""
    return 0.5 * jnp.sum(residuals(params, bowl) ** 2)


def samples(bowl):
    """Return four samples with mean 0 whose metric is the Gauss-Newton matrix."""
    weights = np.sqrt(2) * jnp.concatenate([jnp.eye(2), -jnp.eye(2)])
    return {"weights": weights, "bowl": jnp.full(4, bowl)}


def output_fn(params, batch):
    """Return the outputs of samples, for methods that need outputs."""
    return jax.vmap(lambda w, bowl: w @ residuals(params, bowl))(batch["weights"], batch["bowl"])


def residual_fn(params, batch):
    """Return the residuals, for methods that need those."""
    return residuals(params, batch["bowl"][0])


def make(name, rate=1.0):
    """Return an optimizer; the rate is not used where it finds one itself."""
    factory = getattr(gdjax, name)
    parameters = inspect.signature(factory).parameters
    given = {"output_fn": output_fn, "residual_fn": residual_fn}
    options = {k: v for k, v in given.items() if k in parameters} | OPTIONS.get(name, {})
    if name not in OWN_RATE:
        first = next(iter(parameters))
        options["learning_rate" if "learning_rate" in parameters else first] = rate
    return factory(**options)


def run(name, rate, bowl):
    """Return the points of one run, and the values of the function there."""
    optimizer = make(name, rate)
    start = jnp.array(STARTS.get(name, START))[:, None]
    noise = 0.0 if name in SOLVERS else NOISE
    slopes = noise * np.random.default_rng(0).normal(size=(STEPS, 2, 1)).astype(np.float32)

    def step(carry, slope):
        params, state = carry

        def value_fn(params, **_):
            return value_of(params, bowl) + bowl * jnp.sum(slope * params)

        value, grad = jax.value_and_grad(value_fn)(params)
        more = dict(value=value, grad=grad, value_fn=value_fn, obj_fn=value_fn, batch=samples(bowl))
        grads = grad[None] if name == "dpsgd" else grad
        updates, state = optimizer.update(grads, state, params, **more)
        params = gdjax.apply_updates(params, updates)
        shown = gdjax.eval_params(state, params)
        return (params, state), (shown[:, 0], value_of(shown, bowl))

    _, (points, values) = jax.lax.scan(step, (start, optimizer.init(start)), slopes)
    return jnp.concatenate([start.T, points]), values


def paths(name):
    """Return function -> the path with the best learning rate, and that rate, or None."""
    rates = np.ones(1) if name in OWN_RATE else RATES
    lanes = jax.vmap(jax.vmap(functools.partial(run, name), (0, None)), (None, 0))
    given = jnp.float32(rates), jnp.array([False, True])
    points, values = jax.device_get(_compiled(jax.jit(lanes).lower(*given))(*given))
    ends = np.nan_to_num(values[:, :, -LAST:].astype(float).mean(2), nan=np.inf)
    best = ends.argmin(1)
    return {
        function: {
            "rate": None if name in OWN_RATE else float(f"{rates[best[i]]:.2g}"),
            "points": points[i, best[i]].astype(float).round(4).tolist(),
        }
        for i, function in enumerate(FUNCTIONS)
    }


def _compiled(lowered):
    """Compile in a quarter of the time, with options that not all versions of XLA have."""
    try:
        return lowered.compile({"xla_cpu_use_fusion_emitters": False})
    except jax.errors.JaxRuntimeError:
        return lowered.compile()


# --- the pictures ---

SCALE = 100


def _line(points):
    """Return the coordinates of points up to the first that is not finite, for SVG."""
    points = np.asarray(points, float)
    last = np.argmin(np.append(np.isfinite(points).all(1), False))
    points = points[:last].clip(-1e3, 1e3)
    x, y = SCALE * (points[:, 0] - WEST), SCALE * (NORTH - points[:, 1])
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))


@functools.cache
def _contours(function):
    x, y = np.meshgrid(np.linspace(WEST, EAST, 160), np.linspace(SOUTH, NORTH, 160))
    points = jnp.stack([x, y], -1).reshape(-1, 2, 1)
    values = jax.vmap(value_of, (0, None))(points, function == "bowl").reshape(x.shape)
    generator = contourpy.contour_generator(x, y, np.asarray(values))
    lines = [line for level in LEVELS[function] for line in generator.lines(level)]
    return "".join(f'<polyline class="contour" points="{_line(x)}"/>' for x in lines)


def picture(function, path, compared, text):
    """Return an SVG element, whose colors are those of the page.

    Args:
      function: the name of the function.
      path: the points of the optimizer.
      compared: the points of gradient descent.
      text: what the picture shows, for those who cannot see it.
    """
    (cross,) = [_line([LOWEST[function]]).split(",")]
    dots = "".join(
        '<circle class="point" cx="{}" cy="{}" r="2.2"/>'.format(*point.split(","))
        for point in _line(path).split()
    )
    start = '<circle class="start" cx="{}" cy="{}" r="5"/>'.format(*_line(path[:1]).split(","))
    return (
        f'<svg role="img" viewBox="0 0 {SCALE * (EAST - WEST):g} {SCALE * (NORTH - SOUTH):g}">'
        f"<title>{text}</title>{_contours(function)}"
        f'<polyline class="compared" points="{_line(compared)}"/>'
        f'<polyline class="path" points="{_line(path)}"/>{dots}{start}'
        f'<path class="lowest" d="M{cross[0]},{cross[1]}m-6,0h12m-6,-6v12"/></svg>'
    )
