"""Unconstrained problems of CUTEst: how many does each solver solve, with how many evaluations?

Every solver minimizes the same compiled JAX function in float64, which notes each value it is asked
for. A problem counts as solved at the first evaluation whose value is within 1e-6 of the reference
(of max(1, |reference|)), the lowest that SciPy's L-BFGS-B, BFGS and trust-exact end at. What
`sif2jax` gives as expected values is not all right, so it is not used.

Needs: pip install "gdjax[bench]" sif2jax. Results are appended to bench/output/cutest.jsonl,
so that a run can be cut off and go on; a picture and a table of all of them come last.

Run: python bench/cutest.py [--limit N] [--seconds S] [--solvers gdjax scipy ...]
"""

import argparse
import contextlib
import importlib
import importlib.util
import json
import signal
import sys
import time
import types
import warnings
from pathlib import Path

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import scipy.optimize

import gdjax

OUTPUT = Path(__file__).parent / "output"
STEPS = 500
CLOSE = 1e-6
PATIENCE = 20  # seconds for one solver of the reference


def problems(limit):
    """Yield name, function of a vector and start of each problem, without all of sif2jax.

    Importing the package as a whole takes a minute; here its two upper levels are empty.
    """
    root = Path(importlib.util.find_spec("sif2jax").origin).parent
    for name, path in (("sif2jax", root), ("sif2jax.cutest", root / "cutest")):
        module = sys.modules[name] = types.ModuleType(name)
        module.__path__ = [str(path)]
    part = importlib.import_module("sif2jax.cutest._unconstrained_minimisation")
    for name in sorted(n for n in dir(part) if n.isupper() or n[:1].isupper()):
        kind = getattr(part, name)
        if not isinstance(kind, type) or not hasattr(kind, "objective"):
            continue
        try:
            problem = kind()
            start, unravel = jax.flatten_util.ravel_pytree(problem.y0)
        except (TypeError, ValueError):  # an abstract class
            continue
        if start.size <= limit:
            yield name, lambda x, p=problem, u=unravel: p.objective(u(x), p.args), start


def noting(fun):
    """Return the function and the list that will hold every value it gave."""
    values = []

    def noted(x):
        value = fun(x)
        jax.debug.callback(lambda v: values.append(float(v)), value)
        return value

    return noted, values


@contextlib.contextmanager
def at_most(seconds):
    """Raise in the block after that long, as soon as Python is reached again."""

    def ring(*_):
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def by_gdjax(fun, start):
    """L-BFGS of gdjax."""
    result = gdjax.minimize(fun, start, gdjax.lbfgs(), tol=1e-8, max_steps=STEPS)
    return result.value


def by_scipy(fun, start, method="L-BFGS-B", **options):
    """SciPy's solver of that name."""
    both = jax.jit(jax.value_and_grad(fun))

    def value_and_grad(x):
        value, grad = both(x)
        return float(value), np.asarray(grad)

    if method == "trust-exact":
        hessian = jax.jit(jax.hessian(fun))
        options["hess"] = lambda x: np.asarray(hessian(x))
        limits = dict(maxiter=STEPS, gtol=1e-8)
    elif method == "BFGS":
        limits = dict(maxiter=STEPS, gtol=1e-8)
    else:
        limits = dict(maxiter=STEPS, maxfun=10**6, gtol=1e-8, ftol=1e-15)
    return scipy.optimize.minimize(
        value_and_grad, np.asarray(start), jac=True, method=method, options=limits, **options
    ).fun


def by_optax(fun, start):
    """The loop of optax's documentation for its L-BFGS."""
    import optax

    opt = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(fun)

    def step(carry):
        x, state = carry
        value, grad = value_and_grad(x, state=state)
        updates, state = opt.update(grad, state, x, value=value, grad=grad, value_fn=fun)
        return optax.apply_updates(x, updates), state

    def unfinished(carry):
        count = optax.tree.get(carry[1], "count")
        small = jnp.max(jnp.abs(optax.tree.get(carry[1], "grad"))) < 1e-8
        return (count == 0) | ((count < STEPS) & ~small)

    return jax.jit(lambda c: jax.lax.while_loop(unfinished, step, c))((start, opt.init(start)))


def by_jaxopt(fun, start):
    """L-BFGS of jaxopt."""
    import jaxopt

    return jaxopt.LBFGS(fun, maxiter=STEPS, tol=1e-8).run(start)


def by_optimistix(fun, start):
    """L-BFGS of optimistix."""
    import optimistix

    solver = optimistix.LBFGS(rtol=1e-12, atol=1e-12)
    return optimistix.minimise(
        lambda x, args: fun(x), solver, start, max_steps=STEPS, throw=False
    ).value


SOLVERS = {f.__name__[3:]: f for f in (by_gdjax, by_scipy, by_optax, by_jaxopt, by_optimistix)}


def reference(fun, start):
    """Return the lowest value that three solvers of SciPy end at."""
    ends = []
    for method in ("L-BFGS-B", "BFGS", "trust-exact"):
        try:
            with at_most(PATIENCE):
                ends.append(float(by_scipy(fun, start, method)))
        except (ValueError, np.linalg.LinAlgError, OverflowError, TimeoutError) as error:
            print(f"{method}: {error}", file=sys.stderr)  # say, a Hessian that is not finite
    return min((e for e in ends if np.isfinite(e)), default=np.nan)


def solve(name, fun, start, solvers):
    """Return one row: the reference, and for each solver what it reached and when."""
    row = {"problem": name, "n": start.size, "reference": reference(fun, start)}
    for solver in solvers:
        noted, values = noting(fun)
        try:
            jax.block_until_ready(SOLVERS[solver](noted, start))
            jax.effects_barrier()
        except Exception as error:  # a solver that raises has not solved it; say why
            row[solver] = {"error": f"{type(error).__name__}: {error}"[:200]}
            continue
        finite = np.where(np.isfinite(values), values, np.inf)
        target = row["reference"] + CLOSE * max(1, abs(row["reference"]))
        hits = np.flatnonzero(finite <= target)
        first = int(hits[0]) + 1 if hits.size else None
        row[solver] = {"best": float(finite.min()), "solved_at": first, "evals": len(values)}
    return row


def table(rows, solvers):
    """Print solved problems and evaluations, and save the data profile."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    at = {
        s: np.array([(r.get(s) or {}).get("solved_at") or np.inf for r in rows], float)
        for s in solvers
    }
    print(f"{len(rows)} problems")
    axes = plt.figure(figsize=(6, 4), layout="constrained").add_subplot()
    for s, first in at.items():
        both = np.isfinite(first) & np.isfinite(at["scipy"])
        ratio = np.median(first[both] / at["scipy"][both])
        print(f"| {s} | {np.isfinite(first).sum()} | {np.median(first[both]):.0f} | {ratio:.2f} |")
        x = np.sort(first[np.isfinite(first)])
        axes.step(x, np.arange(1, x.size + 1), where="post", label=s)
    axes.set(xscale="log", xlabel="evaluations", ylabel=f"solved, of {len(rows)}")
    axes.legend()
    axes.figure.savefig(OUTPUT / "cutest.png", dpi=150)
    plt.close(axes.figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=int, default=200, help="most variables of a problem")
    parser.add_argument("--seconds", type=float, default=np.inf, help="stop after that long")
    parser.add_argument("--solvers", nargs="+", choices=SOLVERS, default=list(SOLVERS))
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    warnings.simplefilter("ignore")  # SciPy on overflow
    OUTPUT.mkdir(exist_ok=True)
    file = OUTPUT / "cutest.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    done, began = {r["problem"] for r in rows}, time.perf_counter()
    for i, (name, fun, start) in enumerate(problems(options.limit)):
        if name in done:
            continue
        if time.perf_counter() - began > options.seconds:
            break
        print(name, start.size, file=sys.stderr, flush=True)
        rows.append(solve(name, fun, start, options.solvers))
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
        with file.open("a") as out:
            out.write(json.dumps(rows[-1]) + "\n")
        if i % 10 == 9:
            jax.clear_caches()
    table([r for r in rows if np.isfinite(r["reference"])], options.solvers)


if __name__ == "__main__":
    main()
