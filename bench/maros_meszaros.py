"""Quadratic programs of the Maros-Mészáros set: `quadratic_program` against four solvers.

min 1/2 x'Px + q'x + r   subject to   l <= Ax <= u

The files are those that OSQP's benchmarks use, as `scipy.io.loadmat` reads them (P, q, r, A, l, u;
1e20 is infinity), one for each problem, of Maros & Mészáros (1999),
https://doi.org/10.1080/10556789908805768. They are not part of this project: the folder is an
argument, or the environment variable MAROS_MESZAROS.

A problem counts as solved to a tolerance if the largest of three absolute errors, computed here in
float64 for x and multipliers y of the rows as a solver returns them, is at most the tolerance:

  primal  |Ax - [Ax]|, with [.] the nearest point of [l, u]
  dual    |Px + q + A'y|
  gap     |x'Px + q'x + sum of u_i y_i (y_i > 0) and of l_i y_i (y_i < 0)|

A multiplier of a side without a limit counts as dual error. These are the measures of Schwan et al.
(2023), "PIQP", https://arxiv.org/abs/2304.00290, and of the qpbenchmark of Caron et al. Solvers are
asked for the same absolute tolerance, with no relative one where they have both.

Run: JAX_ENABLE_X64=1 python bench/maros_meszaros.py FOLDER [--only NAME ...] [--solver NAME ...]
     [--dense] [--tol 1e-9] [--save results.json] [--plot profile.png]
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import jax
import numpy as np
import scipy.io
import scipy.sparse

import gdjax

TOLERANCES = 1e-6, 1e-9
INFINITY = 1e19  # some files have 1e20 less a little


class Problem(NamedTuple):
    """min x'Px / 2 + q'x subject to l <= Ax <= u and lower <= x <= upper; equations have l = u."""

    name: str
    P: np.ndarray  # (n, n)
    q: np.ndarray
    A: np.ndarray  # (m, n)
    l: np.ndarray  # noqa: E741
    u: np.ndarray
    lower: np.ndarray
    upper: np.ndarray

    @property
    def dense(self):
        """Whether it is one of the subset with at most 1000 variables and 1000 rows and bounds."""
        return self.q.size <= 1000 and self.l.size + self.q.size <= 1000


class Answer(NamedTuple):
    """What a solver returns: multipliers are > 0 at upper limits and < 0 at lower ones."""

    x: np.ndarray
    rows: np.ndarray  # (m,)
    bounds: np.ndarray  # (n,)


def load(path: Path) -> Problem:
    """Read a file; its last n rows are the bounds of the variables."""
    d = scipy.io.loadmat(path)
    P, A = (np.asarray(d[k].todense(), float) for k in "PA")
    q, low, high = (np.asarray(d[k], float).ravel() for k in "qlu")
    low, high = np.where(low <= -INFINITY, -np.inf, low), np.where(high >= INFINITY, np.inf, high)
    n = q.size
    assert (A[-n:] == np.eye(n)).all(), f"{path}: the last rows are no bounds"
    return Problem(path.stem, P, q, A[:-n], low[:-n], high[:-n], low[-n:], high[-n:])


def errors(p: Problem, a: Answer) -> dict[str, float]:
    """Return the absolute errors of an answer; infinite if it is no finite numbers."""
    if not all(np.isfinite(v).all() for v in a):
        return dict.fromkeys(("primal", "dual", "gap"), np.inf)
    low, high = np.append(p.l, p.lower), np.append(p.u, p.upper)
    y, sides = np.append(a.rows, a.bounds), np.append(p.A @ a.x, a.x)
    primal = np.abs(sides - np.clip(sides, low, high))
    above, below = np.maximum(y, 0), np.minimum(y, 0)
    lost = np.where(np.isinf(high), above, 0) - np.where(np.isinf(low), below, 0)
    dual = np.abs(p.P @ a.x + p.q + p.A.T @ a.rows + a.bounds)
    finite = np.where(np.isinf(high), 0, high), np.where(np.isinf(low), 0, low)
    gap = abs(a.x @ p.P @ a.x + p.q @ a.x + finite[0] @ above + finite[1] @ below)
    return dict(primal=primal.max(), dual=max(dual.max(), lost.max()), gap=gap)


# --- solvers: each returns a function that solves anew, and what makes an answer of its result ----


def by_gdjax(p: Problem, tol: float):
    """One compiled function; the tolerance is relative, so all digits are asked for."""
    equal = p.l == p.u
    rest, low, high = p.A[~equal], p.l[~equal], p.u[~equal]
    above, below = np.isfinite(high), np.isfinite(low)
    G, h = np.concatenate([rest[above], -rest[below]]), np.concatenate([high[above], -low[below]])

    @jax.jit
    def solve(P, q, A, b, G, h, lower, upper):
        return gdjax.quadratic_program(
            P, q, A, b, G, h, bounds=(lower, upper), tol=1e-15, max_steps=200
        )

    arrays = jax.device_put((p.P, p.q, p.A[equal], p.u[equal], G, h, p.lower, p.upper))

    def answer(result):
        y = jax.tree.map(np.asarray, result.state)
        rows = np.zeros(p.l.size)
        rows[equal] = y.equality
        inner = np.zeros(len(rest))
        inner[above] = y.inequality[: above.sum()]
        inner[below] -= y.inequality[above.sum() :]
        rows[~equal] = inner
        return Answer(np.asarray(result.params), rows, y.upper - y.lower)

    jax.block_until_ready(solve(*arrays))
    return lambda: jax.block_until_ready(solve(*arrays)), answer


def by_piqp(p: Problem, tol: float):
    import piqp

    equal = p.l == p.u
    rest = p.A[~equal]

    def run():
        solver = piqp.DenseSolver()
        s = solver.settings
        s.eps_abs, s.eps_rel, s.max_iter = tol, 0.0, 1000
        s.check_duality_gap, s.eps_duality_gap_abs, s.eps_duality_gap_rel = True, tol, 0.0
        solver.setup(
            p.P, p.q, p.A[equal], p.u[equal], rest, p.l[~equal], p.u[~equal], p.lower, p.upper
        )
        solver.solve()
        return solver.result

    def answer(r):
        rows = np.zeros(p.l.size)
        rows[equal] = r.y
        rows[~equal] = r.z_u - r.z_l
        return Answer(np.array(r.x), rows, r.z_bu - r.z_bl)

    return run, answer


def by_proxqp(p: Problem, tol: float):
    from proxsuite import proxqp

    equal = p.l == p.u
    rest, n = p.A[~equal], p.q.size

    def run():
        solver = proxqp.dense.QP(n, int(equal.sum()), len(rest), True)
        s = solver.settings
        s.eps_abs, s.eps_rel, s.max_iter = tol, 0.0, 1000
        s.check_duality_gap, s.eps_duality_gap_abs, s.eps_duality_gap_rel = True, tol, 0.0
        low, high, lower, upper = (
            np.clip(v, -1e20, 1e20) for v in (p.l[~equal], p.u[~equal], p.lower, p.upper)
        )
        solver.init(p.P, p.q, p.A[equal], p.u[equal], rest, low, high, lower, upper)
        solver.solve()
        return solver.results

    def answer(r):
        rows = np.zeros(p.l.size)
        rows[equal] = r.y
        z = np.array(r.z)
        rows[~equal] = z[: len(rest)]
        return Answer(np.array(r.x), rows, z[len(rest) :])

    return run, answer


def _stacked(p: Problem):
    A = scipy.sparse.csc_matrix(np.concatenate([p.A, np.eye(p.q.size)]))
    return (
        scipy.sparse.csc_matrix(np.triu(p.P)),
        A,
        np.append(p.l, p.lower),
        np.append(p.u, p.upper),
    )


def by_osqp(p: Problem, tol: float):
    import osqp

    P, A, low, high = _stacked(p)

    def run():
        solver = osqp.OSQP()
        solver.setup(
            P, p.q, A, low, high, eps_abs=tol, eps_rel=0.0, max_iter=100_000, verbose=False,
            time_limit=60.0,
        )  # fmt: skip
        return solver.solve(raise_error=False)

    def answer(r):
        y = np.asarray(r.y, float)
        return Answer(np.asarray(r.x, float), y[: p.l.size], y[p.l.size :])

    return run, answer


def by_clarabel(p: Problem, tol: float):
    import clarabel

    P, A, low, high = _stacked(p)
    equal, above, below = (
        low == high,
        np.isfinite(high) & (low != high),
        np.isfinite(low) & (low != high),
    )
    A = A.tocsr()
    rows = scipy.sparse.vstack([A[equal], A[above], -A[below]]).tocsc()
    right = np.concatenate([high[equal], high[above], -low[below]])
    cones = [
        clarabel.ZeroConeT(int(equal.sum())),
        clarabel.NonnegativeConeT(int(above.sum() + below.sum())),
    ]

    def run():
        settings = clarabel.DefaultSettings()
        settings.verbose, settings.tol_feas, settings.tol_gap_abs, settings.tol_gap_rel = (
            False,
            tol,
            tol,
            0.0,
        )
        settings.max_iter = 500
        return clarabel.DefaultSolver(P, p.q, rows, right, cones, settings).solve()

    def answer(r):
        z = np.asarray(r.z)
        y = np.zeros(low.size)
        y[equal], rest = z[: equal.sum()], z[equal.sum() :]
        y[above] = rest[: above.sum()]
        y[below] -= rest[above.sum() :]
        return Answer(np.asarray(r.x), y[: p.l.size], y[p.l.size :])

    return run, answer


SOLVERS = dict(gdjax=by_gdjax, piqp=by_piqp, proxqp=by_proxqp, osqp=by_osqp, clarabel=by_clarabel)


def measured(p: Problem, solver: str, tol: float) -> dict:
    """Return errors and seconds of one solver, the second call of a compiled one."""
    run, answer = SOLVERS[solver](p, tol)
    start = time.perf_counter()
    result = run()
    seconds = time.perf_counter() - start
    found = errors(p, answer(result))
    return dict(problem=p.name, solver=solver, seconds=seconds, error=max(found.values()), **found)


def summary(rows: list[dict]) -> None:
    """Print for each solver the shares solved and how its time compares with gdjax's."""
    ours = {r["problem"]: r["seconds"] for r in rows if r["solver"] == "gdjax"}
    for solver in dict.fromkeys(r["solver"] for r in rows):
        mine = [r for r in rows if r["solver"] == solver]
        shares = ", ".join(
            f"{sum(r['error'] <= tol for r in mine) / len(mine):.1%} at {tol:.0e}"
            for tol in TOLERANCES
        )
        ratios = [r["seconds"] / ours[r["problem"]] for r in mine if r["problem"] in ours]
        relative = f", {statistics.median(ratios):.2f} of gdjax's time" if ratios else ""
        print(f"{solver}: {shares} of {len(mine)}{relative}")


def profile(rows: list[dict], tol: float, path: str) -> None:
    """Draw the performance profile of Dolan & Moré (2002): share solved within a factor in time."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    best = {}
    for r in rows:
        if r["error"] <= tol:
            best[r["problem"]] = min(best.get(r["problem"], np.inf), r["seconds"])
    count = len({r["problem"] for r in rows})
    _, axes = plt.subplots(figsize=(6, 4))
    for solver in dict.fromkeys(r["solver"] for r in rows):
        mine = [r for r in rows if r["solver"] == solver and r["error"] <= tol]
        if not mine:
            continue
        factors = np.sort([r["seconds"] / best[r["problem"]] for r in mine])
        shares = np.arange(1, len(factors) + 1) / count
        factors, shares = np.append(factors, 1e5), np.append(shares, shares[-1])
        axes.step(factors, shares, where="post", label=solver)
    axes.set(
        xscale="log", xlim=(1, 1e4), ylim=(0, 1.02), xlabel="time / time of the fastest",
        ylabel=f"share solved to {tol:.0e}",
    )  # fmt: skip
    axes.legend()
    plt.savefig(path, dpi=150, bbox_inches="tight")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", default=os.environ.get("MAROS_MESZAROS"))
    parser.add_argument("--only", nargs="+", help="names of problems")
    parser.add_argument("--solver", nargs="+", choices=SOLVERS, default=list(SOLVERS))
    parser.add_argument("--dense", action="store_true", help="at most 1000 variables and rows")
    parser.add_argument("--tol", type=float, default=1e-9)
    parser.add_argument("--save", help="a file for the rows, as JSON; those in it are kept")
    parser.add_argument("--plot", help="a file for the performance profile")
    options = parser.parse_args()
    if not options.folder or not list(Path(options.folder).glob("*.mat")):
        raise SystemExit(f"no .mat files in {options.folder!r}: see the top of {__file__}")
    if not jax.config.jax_enable_x64:
        raise SystemExit("set JAX_ENABLE_X64=1: errors of 1e-9 need float64")
    rows = []
    if options.save and Path(options.save).exists():
        rows = json.loads(Path(options.save).read_text())
    for path in sorted(Path(options.folder).glob("*.mat"), key=lambda path: path.stat().st_size):
        p = load(path)
        if (options.dense and not p.dense) or (options.only and p.name not in options.only):
            continue
        for solver in options.solver:
            if any(r["problem"] == p.name and r["solver"] == solver for r in rows):
                continue
            rows.append(row := measured(p, solver, options.tol))
            shape = f"{p.q.size} variables, {p.l.size} rows"
            print(f"{p.name:9} {shape:26} {solver:9} {row['error']:.1e} {row['seconds']:.4f} s")
            if options.save:
                Path(options.save).write_text(json.dumps(rows))
    summary(rows)
    if options.plot:
        profile(rows, options.tol, options.plot)


if __name__ == "__main__":
    main()
