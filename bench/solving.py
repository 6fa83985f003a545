"""Optimization to convergence: L-BFGS, compared with SciPy and the documented loop of optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.optimize
from harness import Row, interleaved, seconds

import gdjax

TOL, STEPS = 1e-5, 1000


def rosenbrock(x):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def by_optax(fun, start, args, compiled=True):
    """Return `run_opt` of optax's documentation, with a new state in each call.

    The documentation does not compile it as a whole, so every call traces and compiles its
    `while_loop` again.
    """
    opt = optax.lbfgs()

    def run(start, state, args):
        def value_fn(x):
            return fun(x, *args)

        value_and_grad = optax.value_and_grad_from_state(value_fn)

        def step(carry):
            x, state = carry
            value, grad = value_and_grad(x, state=state)
            more = dict(value=value, grad=grad, value_fn=value_fn)
            updates, state = opt.update(grad, state, x, **more)
            return optax.apply_updates(x, updates), state

        def unfinished(carry):
            count, grad = (optax.tree.get(carry[1], k) for k in ("count", "grad"))
            return (count == 0) | ((count < STEPS) & (jnp.max(jnp.abs(grad)) > TOL))

        return jax.lax.while_loop(unfinished, step, (start, state))[0]

    run = jax.jit(run) if compiled else run
    return lambda: run(start, opt.init(start), args)


def sides(fun, start, args=()):
    """Return three ways to minimize, each compiled once, in float64."""
    opt = gdjax.lbfgs()
    both = jax.jit(jax.value_and_grad(fun))
    at = np.asarray(start)

    def value_and_grad(x):
        value, grad = both(x, *args)
        return float(value), np.asarray(grad)

    def by_scipy():
        limits = dict(maxiter=STEPS, gtol=TOL, ftol=0.0, maxfun=10**6)
        return scipy.optimize.minimize(
            value_and_grad, at, jac=True, method="L-BFGS-B", options=limits
        ).x

    return {
        "gdjax": lambda: (
            gdjax.minimize(fun, start, opt, args=args, tol=TOL, max_steps=STEPS).params
        ),
        "SciPy": by_scipy,
        "optax": by_optax(fun, start, args),
    }


def compared(name, options, fun, start, args=()):
    ways = sides(fun, start, args)
    reached = {k: float(fun(jnp.asarray(way()), *args)) for k, way in ways.items()}
    least = min(reached.values())
    for k, value in reached.items():  # do not time wrong results
        assert value - least <= 1e-6 * max(1, abs(least)), (name, k, reached)
    times = interleaved(ways, min(options.repeats, 5))
    yield Row(name, times["gdjax"], "SciPy", times["SciPy"], 1.0)
    yield Row(name, times["gdjax"], "optax, its loop under jit", times["optax"], 3.0)
    documented = by_optax(fun, start, args, compiled=False)
    yield Row(name, times["gdjax"], "optax, as documented", [seconds(documented)[0]], 3.0)


def valley(options):
    """100-dimensional Rosenbrock."""
    with jax.enable_x64(True):
        start = jnp.tile(jnp.array([-1.2, 1.0]), 50)
        yield from compared("L-BFGS, Rosenbrock in 100 dimensions", options, rosenbrock, start)


def classifier(options):
    """Logistic regression on synthetic data."""
    examples = 2_000 if options.quick else 100_000
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x = jnp.asarray(rng.normal(size=(examples, 50)) * np.linspace(0.1, 3, 50))
        y = jnp.asarray(rng.random(examples) < 1 / (1 + np.exp(-x @ rng.normal(size=50))), float)

        def loss(w, x, y):
            z = x @ w
            return jnp.mean(jnp.logaddexp(0, z) - y * z) + 1e-4 * jnp.sum(w**2)

        name = f"L-BFGS, logistic regression, {examples} x 50"
        yield from compared(name, options, loss, jnp.zeros(50), (x, y))


def problems(options):
    """Many small problems in one call, compared with SciPy one by one."""
    count = 50 if options.quick else 1000
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        starts = jnp.asarray(rng.uniform(-2, 2, (count, 4)))
        many = jax.jit(
            jax.vmap(lambda x: gdjax.minimize(rosenbrock, x, gdjax.lbfgs(), tol=TOL).params)
        )
        both = jax.jit(jax.value_and_grad(rosenbrock))

        def one_by_one():
            def value_and_grad(x):
                value, grad = both(x)
                return float(value), np.asarray(grad)

            for x in np.asarray(starts):
                scipy.optimize.minimize(value_and_grad, x, jac=True, method="L-BFGS-B")

        times = interleaved({"gdjax": lambda: many(starts), "SciPy": one_by_one}, 3)
        name = f"{count} problems at once"
        yield Row(name, times["gdjax"], "SciPy, one by one", times["SciPy"], 10.0)


def curves(options):
    """Many fits of a curve in one call, with standard errors, compared with SciPy one by one."""
    count = 50 if options.quick else 1000
    rng = np.random.default_rng(0)
    t, start = np.linspace(0, 4, 40), np.array([1.0, 1.0, 0.1])
    truth = rng.uniform([1, 0.5, -0.02], [4, 3, 0.22], (count, 3))
    noise = rng.normal(0, 0.05, (count, t.size))
    y = truth[:, :1] * np.exp(-truth[:, 1:2] * t) + truth[:, 2:] + noise
    low, high = np.zeros(3), np.array([3.0, np.inf, 0.2])

    def residuals(p, y):
        return p[0] * np.exp(-p[1] * t) + p[2] - y

    def slopes(p, y):
        return np.stack([np.exp(-p[1] * t), -p[0] * t * np.exp(-p[1] * t), np.ones_like(t)], 1)

    kinds = {"": {}, ", bounded": dict(bounds=(low, high)), ", soft-L1": dict(loss="soft_l1")}
    with jax.enable_x64(True):
        for kind, more in kinds.items():
            more = more | dict(f_scale=0.1)

            def fit(y, more=more):
                def residual_fn(p):
                    return p[0] * jnp.exp(-p[1] * jnp.asarray(t)) + p[2] - y

                result = gdjax.least_squares(residual_fn, jnp.asarray(start), **more)
                return result.params, result.value, result.standard_errors()

            many = jax.jit(jax.vmap(fit))

            def one_by_one(more=more):
                peers = [
                    scipy.optimize.least_squares(residuals, start, slopes, args=(row,), **more)
                    for row in y
                ]
                return np.array([peer.cost for peer in peers])

            best = one_by_one()
            worse = np.asarray(many(y)[1]) > best * (1 + 1e-7)
            assert worse.mean() <= 0.01, (kind, worse.sum())  # other minima
            times = interleaved({"gdjax": lambda f=many: f(y), "SciPy": one_by_one}, 3)
            name = f"{count} fits of 3 parameters at once{kind}"
            yield Row(name, times["gdjax"], "SciPy, one by one", times["SciPy"], 1.0)


WORKLOADS = {f.__name__: f for f in (valley, classifier, problems, curves)}
