"""Count the unconstrained CUTEst problems that each solver solves, and the evaluations it needs.

Every solver minimizes the same compiled JAX function in float64, which records the value of each
evaluation. A problem counts as solved at the first evaluation whose value is within 1e-6 (relative
to max(1, |reference|)) of the reference, the lowest final value of SciPy's L-BFGS-B, BFGS and
trust-exact. Some expected values in `sif2jax` are wrong, so they are not used.

Requires: pip install "gdjax[bench]". Each result is written to bench/results/cutest.jsonl
immediately, so that an interrupted run can be resumed, also with other solvers. Finally a table is
printed and a figure of all results is saved (bench/results/cutest.png).

Run: python bench/cutest.py [--solvers gdjax scipy ...] [--again] [--only NAME ...] [--table]
"""

import argparse
import contextlib
import functools
import importlib
import importlib.util
import json
import os
import sys
import threading
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

RESULTS = Path(__file__).parent / "results"
STEPS = 500
CLOSE = 1e-6
REFERENCES = ("L-BFGS-B", "BFGS", "trust-exact")
LIMIT = 60  # CPU seconds for one solver, including compilation


def problems(limit):
    """Yield name, function of a vector and initial point of each problem.

    Importing all of sif2jax takes a minute, so its two upper packages are replaced by empty ones.
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


def recording(fun, values):
    """Return the function, changed to append every value that it returns to a list."""

    def recorded(x):
        value = fun(x)
        jax.debug.callback(lambda v: values.append(float(v)), value)
        return value

    return recorded


def by_gdjax(fun, start, opt=None):
    """L-BFGS of gdjax, or another of its solvers."""
    return gdjax.minimize(fun, start, opt or gdjax.lbfgs(), tol=1e-8, max_steps=STEPS).value


def by_bfgs(fun, start):
    """BFGS of gdjax."""
    return by_gdjax(fun, start, gdjax.bfgs())


def by_nonlinear_cg(fun, start):
    """Conjugate gradients of gdjax."""
    return by_gdjax(fun, start, gdjax.nonlinear_cg())


def by_newton_cg(fun, start):
    """The trust-region method of gdjax; each Hessian-vector product counts as an evaluation."""
    return by_gdjax(fun, start, gdjax.newton_cg())


@functools.lru_cache(maxsize=1)
def compiled(fun):
    """Return the function of value and gradient, compiled once for all SciPy solvers."""
    return jax.jit(jax.value_and_grad(fun))


def by_scipy(fun, start, method="L-BFGS-B", record=lambda value: None, **options):
    """The SciPy solver with the given name."""
    both = compiled(fun)

    def value_and_grad(x):
        value, grad = both(x)
        record(float(value))
        return float(value), np.asarray(grad)

    if method == "trust-exact":
        hessian = jax.jit(jax.hessian(fun))
        options["hess"] = lambda x: np.asarray(hessian(x))
        limits = dict(maxiter=STEPS, gtol=1e-8)
    elif method == "BFGS":
        limits = dict(maxiter=STEPS, gtol=1e-8)
    else:
        limits = dict(maxiter=STEPS, maxfun=10**6, gtol=1e-8, ftol=0.0)
    return scipy.optimize.minimize(
        value_and_grad, np.asarray(start), jac=True, method=method, options=limits, **options
    ).fun


def by_optax(fun, start):
    """L-BFGS of optax, in the loop of its documentation."""
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


LABELS = {
    "gdjax": "gdjax.lbfgs",
    "bfgs": "gdjax.bfgs",
    "nonlinear_cg": "gdjax.nonlinear_cg",
    "newton_cg": "gdjax.newton_cg",
    "scipy": "SciPy, L-BFGS-B",
    "optax": "optax.lbfgs",
    "jaxopt": "jaxopt.LBFGS",
    "optimistix": "optimistix.LBFGS",
}
OURS = (by_gdjax, by_bfgs, by_nonlinear_cg, by_newton_cg)
SOLVERS = {f.__name__[3:]: f for f in (*OURS, by_scipy, by_optax, by_jaxopt, by_optimistix)}


def end(fun, start, method):
    """Return the final value of a SciPy solver, or None."""
    try:
        value = float(by_scipy(fun, start, method))
    except (ValueError, np.linalg.LinAlgError, OverflowError):  # for example a Hessian with NaN
        return None
    return value if np.isfinite(value) else None


def reference(row):
    """Return the lowest final value of the SciPy solvers, NaN if all failed."""
    return min((row[m] for m in REFERENCES if row.get(m) is not None), default=np.nan)


def solve(solver, fun, start, least):
    """Return the first evaluation with a value close to the lowest, and the number of all."""
    values = []
    try:
        if solver == "scipy":
            by_scipy(fun, start, record=values.append)
        else:
            jax.block_until_ready(SOLVERS[solver](recording(fun, values), start))
            jax.effects_barrier()
    except Exception as error:  # a solver that raises has not solved the problem; record why
        return {"error": f"{type(error).__name__}: {error}"[:80]}
    finite = np.where(np.isfinite(values), values, np.inf)
    hits = np.flatnonzero(finite <= least + CLOSE * max(1, abs(least)))
    first = int(hits[0]) + 1 if hits.size else None
    return {"solved_at": first, "evals": len(values), "best": float(finite.min())}


def table(rows, solvers):
    """Print the solved problems and the evaluations, and save the data profile."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    at = {
        s: np.array([(r.get(s) or {}).get("solved_at") or np.inf for r in rows], float)
        for s in solvers
    }
    print(f"{len(rows)} problems")
    axes = plt.figure(figsize=(8, 4.5), layout="constrained").add_subplot()
    most = max(first[np.isfinite(first)].max() for first in at.values())
    for s, first in at.items():
        run = sum(s in r for r in rows)
        both = np.isfinite(first) & np.isfinite(at["scipy"])
        ratio = np.median(first[both] / at["scipy"][both])
        print(f"| {LABELS[s]} | {np.isfinite(first).sum()} of {run} | {ratio:.2f} |")
        if run < len(rows):  # an incomplete curve cannot be compared
            continue
        x = np.sort(first[np.isfinite(first)])
        y, style = np.arange(1, x.size + 1), "-" if SOLVERS[s] in OURS else "--"
        label = f"{LABELS[s]}: {x.size}"
        axes.step([*x, most], [*y, x.size], style, where="post", label=label)
    axes.set(xscale="log", xlabel="evaluations", ylabel=f"problems solved, of {len(rows)}")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    axes.figure.savefig(RESULTS / "cutest.png", dpi=100)
    plt.close(axes.figure)


class Results:
    """One row per problem, in a file that is always up to date."""

    def __init__(self, file):
        self.file = file
        lines = file.read_text().splitlines() if file.exists() else []
        self.rows = {row["problem"]: row for row in map(json.loads, lines)}

    def fill(self, row, key, compute, late):
        """Store the result of `compute`, or `late` after the time limit."""

        def store(value):
            row[key] = value
            print(row["problem"], key, value, file=sys.stderr, flush=True)
            new = self.file.with_suffix(".new")
            new.write_text("".join(json.dumps(r) + "\n" for r in self.rows.values()))
            new.replace(self.file)

        with time_limit(LIMIT, lambda: store(late)):
            value = compute()
        store(value)


@contextlib.contextmanager
def time_limit(seconds, otherwise):
    """If a block takes longer, call `otherwise` and restart this program.

    Compiled loops and the compiler cannot be interrupted from Python.
    """

    def watch():
        while not over.wait(1):
            if time.process_time() - began > seconds:
                otherwise()
                again = [a for a in sys.argv if a != "--again"]
                os.execv(sys.executable, [sys.executable, *again])

    over, began = threading.Event(), time.process_time()
    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        over.set()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--largest", type=int, default=200, help="largest number of variables")
    parser.add_argument("--solvers", nargs="+", choices=SOLVERS, default=["gdjax", "scipy"])
    parser.add_argument("--only", nargs="+", help="names of problems")
    parser.add_argument("--again", action="store_true", help="repeat results that are stored")
    parser.add_argument("--table", action="store_true", help="only print the table")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    warnings.simplefilter("ignore")  # SciPy on overflow
    results = Results(RESULTS / "cutest.jsonl")
    for i, (name, fun, start) in enumerate([] if options.table else problems(options.largest)):
        if options.only and name not in options.only:
            continue
        row = results.rows.setdefault(name, {"problem": name, "n": start.size})
        for method in REFERENCES:
            if method not in row:
                results.fill(row, method, functools.partial(end, fun, start, method), None)
        for solver in options.solvers:
            if options.again or solver not in row:
                run = functools.partial(solve, solver, fun, start, reference(row))
                results.fill(row, solver, run, {"error": f"more than {LIMIT} s"})
        if i % 10 == 9:
            jax.clear_caches()
    rows = [r for r in results.rows.values() if np.isfinite(reference(r))]
    table(rows, [s for s in SOLVERS if any(s in r for r in rows)])


if __name__ == "__main__":
    main()
