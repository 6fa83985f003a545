"""Solvers to convergence: CUTEst problems, and the time of two problems after compilation.

`cutest` runs every unconstrained problem of sif2jax with at most 200 variables in float64. The
reference is the least value that any of SciPy's L-BFGS-B, BFGS and trust-exact reaches from the
same start: sif2jax's own optima are not all right. A problem counts as solved at 1e-6 above it.
"""

import functools
import importlib
import json
import statistics
import sys
import types
import warnings
from importlib.util import find_spec
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.optimize
from harness import Row, interleaved

import gdjax

OUTPUT = Path(__file__).parent / "output"
STEPS, LARGEST, RTOL = 500, 200, 1e-6


def enable_x64():
    """Return the context manager, under its new or its old name."""
    return jax.enable_x64(True) if hasattr(jax, "enable_x64") else jax.experimental.enable_x64()


@functools.cache
def problems():
    """Return the unconstrained problems of sif2jax; its other parts take a minute to import."""
    spec = find_spec("sif2jax")
    if spec is None:
        return []
    root = Path(spec.submodule_search_locations[0])
    for name, path in (("sif2jax", root), ("sif2jax.cutest", root / "cutest")):
        stub = types.ModuleType(name)
        stub.__path__ = [str(path)]
        sys.modules[name] = stub
    part = importlib.import_module("sif2jax.cutest._unconstrained_minimisation")
    found = []
    for problem in part.unconstrained_minimisation_problems:
        start = np.asarray(problem.y0, float)
        if start.ndim == 1 and start.size <= LARGEST:
            found.append((problem.name, functools.partial(objective, problem), start))
    return found


def objective(problem, x):
    return jnp.sum(jnp.asarray(problem.objective(x, problem.args)))


def by_scipy(method, fun, start):
    """Return value and evaluations of one of SciPy's methods."""
    value_and_grad = jax.jit(jax.value_and_grad(fun))
    options = dict(maxiter=STEPS)
    if method == "L-BFGS-B":
        options |= dict(gtol=1e-8, ftol=0, maxfun=20 * STEPS)
    more = dict(hess=jax.jit(jax.hessian(fun))) if method == "trust-exact" else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = scipy.optimize.minimize(
            lambda x: jax.tree.map(np.asarray, value_and_grad(x)),
            start, jac=True, method=method, options=options, **more,
        )  # fmt: skip
    return float(result.fun), int(result.nfev)


def by_gdjax(make, fun, start):
    result = gdjax.minimize(fun, jnp.asarray(start), make(), tol=1e-8, max_steps=STEPS)
    return float(result.value), int(result.evaluations)


def by_optax(fun, start):
    opt = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(fun)

    def step(carry):
        x, state, i, evals, _ = carry
        value, grad = value_and_grad(x, state=state)
        updates, state = opt.update(grad, state, x, value=value, grad=grad, value_fn=fun)
        evals += state[-1].info.num_linesearch_steps.astype(jnp.int32)
        return optax.apply_updates(x, updates), state, i + 1, evals, jnp.max(jnp.abs(grad))

    @jax.jit
    def run(x):
        begin = (x, opt.init(x), 0, jnp.int32(1), jnp.inf)
        return jax.lax.while_loop(lambda c: (c[2] < STEPS) & (c[4] > 1e-8), step, begin)

    x, _, _, evals, _ = run(jnp.asarray(start))
    return float(fun(x)), int(evals)


def by_jaxopt(fun, start):
    import jaxopt

    result = jaxopt.LBFGS(fun, maxiter=STEPS, tol=1e-8).run(jnp.asarray(start))
    return float(fun(result.params)), int(result.state.num_fun_eval)


def by_optimistix(fun, start):
    import optimistix

    solver = optimistix.BFGS(rtol=1e-10, atol=1e-10)
    result = optimistix.minimise(
        lambda x, _: fun(x), solver, jnp.asarray(start), max_steps=4 * STEPS, throw=False
    )
    return float(fun(result.value)), int(result.stats["num_steps"])


SOLVERS = {
    "gdjax lbfgs": functools.partial(by_gdjax, gdjax.lbfgs),
    "SciPy L-BFGS-B": functools.partial(by_scipy, "L-BFGS-B"),
    "SciPy BFGS": functools.partial(by_scipy, "BFGS"),
    "SciPy trust-exact": functools.partial(by_scipy, "trust-exact"),
    "gdjax bfgs": functools.partial(by_gdjax, gdjax.bfgs),
    "gdjax nonlinear_cg": functools.partial(by_gdjax, gdjax.nonlinear_cg),
    "optax lbfgs": by_optax,
    "jaxopt LBFGS": by_jaxopt,
    "optimistix BFGS": by_optimistix,
}


def measure(names, wanted):
    """Return solver -> problem -> [value, evaluations]; what is in the output already is kept."""
    OUTPUT.mkdir(exist_ok=True)
    path = OUTPUT / "cutest.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    with enable_x64():
        for number, (problem, fun, start) in enumerate(wanted):
            for solver in names:
                done = found.setdefault(solver, {})
                if problem in done:
                    continue
                try:
                    done[problem] = SOLVERS[solver](fun, start)
                except Exception as error:  # a peer that cannot do a problem has not solved it
                    print(f"{solver} on {problem}: {error}"[:200], file=sys.stderr)
                    done[problem] = [float("inf"), 0]
            if number % 10 == 9:
                jax.clear_caches()
                path.write_text(json.dumps(found))
                print(f"{number + 1} of {len(wanted)} problems", file=sys.stderr, flush=True)
    path.write_text(json.dumps(found))
    return found


def solved(found, solver, references):
    """Return problem -> evaluations of what a solver solved."""
    return {
        p: evals
        for p, (value, evals) in found[solver].items()
        if p in references and value <= references[p] + RTOL * max(1, abs(references[p]))
    }


def profile(counts, total):
    """Draw the share of the problems that are solved within so many evaluations."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    ax = plt.figure(layout="constrained").add_subplot()
    for solver, evals in counts.items():
        at = np.sort(list(evals.values()))
        ax.step(at, np.arange(1, at.size + 1) / total, where="post", label=solver)
    ax.set(xscale="log", xlabel="evaluations", ylabel="share of the problems solved", ylim=(0, 1))
    ax.legend(fontsize="small")
    ax.figure.savefig(OUTPUT / "cutest.png", dpi=150)


def cutest(options):
    """Unconstrained CUTEst problems of at most 200 variables, solved and evaluations needed."""
    with enable_x64():
        wanted = problems()[: 3 if options.quick else None]
    if not wanted:
        return
    known = [s for s in SOLVERS if find_spec(s.split()[0].lower())]
    found = measure(known, wanted)
    judges = [s for s in known if s.startswith("SciPy")]
    references = {}
    for problem, *_ in wanted:
        values = [found[s][problem][0] for s in judges]
        finite = [v for v in values if np.isfinite(v)]
        if finite:
            references[problem] = min(finite)
    counts = {s: solved(found, s, references) for s in known}
    profile(counts, len(references))
    ours, theirs = counts["gdjax lbfgs"], counts["SciPy L-BFGS-B"]
    title = f"lbfgs, CUTEst problems not solved, of {len(references)}"
    for peer in known[1:]:
        left = len(references) - len(ours), len(references) - len(counts[peer])
        yield Row(title, float(left[0]), peer, float(left[1]), 1.0, unit="")
    both = ours.keys() & theirs.keys()
    ratio = statistics.median(ours[p] / theirs[p] for p in both)
    yield Row(
        "lbfgs, evaluations over SciPy's, median", ratio, "SciPy L-BFGS-B", 1.0, 0.91, unit=""
    )


def rosenbrock(x):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def logistic(features, labels, w):
    return jnp.mean(jax.nn.softplus(-labels * (features @ w))) + 1e-4 * jnp.sum(w**2)


def convergence(options):
    """Seconds to convergence after compilation: 100-d Rosenbrock, logistic regression."""
    rng = np.random.default_rng(0)
    rows = 1000 if options.quick else 100_000
    features = rng.normal(size=(rows, 50)) * np.logspace(0, 1, 50)
    labels = np.sign(features @ rng.normal(size=50) + rng.normal(size=rows))
    with enable_x64():
        tasks = {
            "100-d Rosenbrock": (rosenbrock, np.tile([-1.2, 1.0], 50)),
            f"logistic regression, {rows} x 50": (
                functools.partial(logistic, jnp.asarray(features), jnp.asarray(labels)),
                np.zeros(50),
            ),
        }
        for name, (fun, start) in tasks.items():
            x = jnp.asarray(start)
            value_and_grad = jax.jit(jax.value_and_grad(fun))
            opt, known = optax.lbfgs(), optax.value_and_grad_from_state(fun)

            @jax.jit
            def loop(x, fun=fun, opt=opt, known=known):
                def step(carry):
                    x, state, i, _ = carry
                    value, grad = known(x, state=state)
                    updates, state = opt.update(
                        grad, state, x, value=value, grad=grad, value_fn=fun
                    )
                    return optax.apply_updates(x, updates), state, i + 1, jnp.max(jnp.abs(grad))

                begin = (x, opt.init(x), 0, jnp.inf)
                return jax.lax.while_loop(lambda c: (c[2] < 2000) & (c[3] > 1e-6), step, begin)[0]

            def by_host(start=start, value_and_grad=value_and_grad):
                return scipy.optimize.minimize(
                    lambda at: jax.tree.map(np.asarray, value_and_grad(at)),
                    start, jac=True, method="L-BFGS-B",
                    options=dict(gtol=1e-6, ftol=0, maxiter=2000, maxfun=10**5),
                ).x  # fmt: skip

            sides = {
                "gdjax": lambda fun=fun, x=x: (
                    gdjax.minimize(fun, x, tol=1e-6, max_steps=2000).params
                ),
                "scipy": by_host,
                "optax": lambda loop=loop, x=x: loop(x),
            }
            values = {k: float(fun(jnp.asarray(run()))) for k, run in sides.items()}
            best = min(values.values())
            for side, value in values.items():
                if value > best + 1e-6 * max(1, abs(best)):
                    raise AssertionError(f"{side} ends at {value} on {name}, others at {best}")
            times = interleaved(sides, max(3, options.repeats // 3))
            yield Row(f"lbfgs, {name}", times["gdjax"], "SciPy L-BFGS-B", times["scipy"], 1.0)
            yield Row(f"lbfgs, {name}", times["gdjax"], "optax", times["optax"], 3.0)


WORKLOADS = {f.__name__: f for f in (cutest, convergence)}
