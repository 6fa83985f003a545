"""Train physics-informed networks by first-order, quasi-Newton and Gauss-Newton methods, and peers.

Every method minimizes the same compiled function in float64 from the same initial parameters, see
pinn_problems.py. Recorded are relative L2 error, loss and seconds against iterations, without the
time to compile and to measure errors. A run ends at its limit of iterations or of seconds, or when
the method gives up.

Requires: pip install "gdjax[bench]" optimistix jaxopt. Each run is written to
bench/output/pinn.jsonl immediately, so that an interrupted one can be resumed, also with other
methods. Finally a table of medians over the seeds is printed and a figure is saved
(bench/output/pinn.png).

Run: python bench/pinn.py [--only NAME ...] [--methods NAME ...] [--seeds 5] [--seconds 30]
                          [--again] [--table] [--quick]
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import jax
import matplotlib
import numpy as np
import scipy.optimize
from jax.flatten_util import ravel_pytree
from pinn_problems import PROBLEMS
from tabulate import tabulate

import gdjax

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  (after the backend is chosen)

jax.config.update("jax_enable_x64", True)
OUTPUT = Path(__file__).parent / "output"


class Record:
    """Loss and error along a run, and the seconds that the method itself took."""

    def __init__(self, problem, unravel, limit):
        self.rows, self.seconds, self.limit = [], 0.0, limit
        measure = jax.jit(lambda x: (problem.loss(unravel(x)), problem.error(unravel(x))))
        self.measure = lambda x: tuple(map(float, measure(x)))

    def resume(self):
        """Start or go on counting seconds."""
        self.started = time.perf_counter()

    def note(self, iteration, x):
        """Count the seconds until now, then measure at x; return whether time is left."""
        self.seconds += time.perf_counter() - self.started
        self.rows.append((iteration, self.seconds, *self.measure(x)))
        self.resume()
        return self.seconds < self.limit and np.isfinite(self.rows[-1][2])


def by_pair(make, every, library=gdjax):
    """An optimizer pair, of gdjax or optax, in compiled blocks of iterations."""

    def run(problem, unravel, start, record, steps):
        opt = make(steps)

        def loss(x):
            return problem.loss(unravel(x))

        def residual_fn(x):
            return problem.residual_fn(unravel(x))

        def step(_, carry):
            x, state = carry
            try:
                value, grad = library.value_and_grad_from_state(loss)(x, state=state)
            except ValueError:  # a method without value and gradient in its state
                value, grad = jax.value_and_grad(loss)(x)
            extra = dict(value=value, grad=grad, value_fn=loss)
            if library is gdjax:
                extra["residual_fn"] = residual_fn
            updates, state = opt.update(grad, state, x, **extra)
            return library.apply_updates(x, updates), state

        carry = (start, opt.init(start))
        block = jax.jit(lambda carry: jax.lax.fori_loop(0, every, step, carry))
        block = block.lower(carry).compile()
        record.resume()
        for iteration in range(every, steps + 1, every):
            carry = jax.block_until_ready(block(carry))
            if not record.note(iteration, carry[0]):
                break

    return run


def by_scipy_bfgs(problem, unravel, start, record, steps):
    """BFGS of SciPy."""
    both = jax.jit(jax.value_and_grad(lambda x: problem.loss(unravel(x))))
    both(start)
    count = 0

    def look(intermediate_result):
        nonlocal count
        count += 1
        if count % 20 == 0 and not record.note(count, intermediate_result.x):
            raise StopIteration

    record.resume()
    scipy.optimize.minimize(
        lambda x: tuple(map(np.asarray, both(x))), np.asarray(start), jac=True, method="BFGS",
        callback=look, options=dict(maxiter=steps, gtol=0),
    )  # fmt: skip


def by_scipy_least_squares(problem, unravel, start, record, steps):
    """`least_squares` of SciPy with MINPACK's Levenberg-Marquardt; an iteration is a Jacobian."""
    residuals = jax.jit(lambda x: problem.residual_fn(unravel(x)))
    jacobian = jax.jit(jax.jacfwd(lambda x: problem.residual_fn(unravel(x))))
    residuals(start), jacobian(start)
    count = -1

    class Enough(Exception):
        pass

    def jac(x):
        nonlocal count
        count += 1
        if count and not (record.note(count, x) and count < steps):
            raise Enough
        return np.asarray(jacobian(x))

    record.resume()
    try:
        scipy.optimize.least_squares(
            lambda x: np.asarray(residuals(x)), np.asarray(start), jac, method="lm",
            x_scale="jac", ftol=1e-15, xtol=1e-15, gtol=1e-15, max_nfev=10**6,
        )  # fmt: skip
    except Enough:
        pass


def by_optimistix(problem, unravel, start, record, steps):
    """Levenberg-Marquardt of optimistix, step by step as in its documentation."""
    import equinox as eqx
    import optimistix as optx

    solver = optx.LevenbergMarquardt(rtol=0.0, atol=0.0)

    def fn(x, args):
        return problem.residual_fn(unravel(x)), None

    like = jax.eval_shape(lambda: fn(start, None)[0])
    options, tags = {}, frozenset()
    state = solver.init(fn, start, None, options, like, None, tags)
    step = eqx.filter_jit(
        lambda y, state: solver.step(
            fn=fn, y=y, args=None, options=options, state=state, tags=tags
        )[:2]
    )
    x = start
    step(x, state)
    record.resume()
    for iteration in range(1, steps + 1):
        x, state = step(x, state)
        jax.block_until_ready(x)
        if not record.note(iteration, x):
            break


def by_jaxopt(problem, unravel, start, record, steps):
    """Levenberg-Marquardt of jaxopt, with its default solver of the normal equations."""
    import jaxopt

    solver = jaxopt.LevenbergMarquardt(lambda x: problem.residual_fn(unravel(x)), tol=0.0)
    x, state = start, solver.init_state(start)
    update = jax.jit(solver.update)
    update(x, state)
    record.resume()
    for iteration in range(1, steps + 1):
        x, state = update(x, state)
        jax.block_until_ready(x)
        if not record.note(iteration, x):
            break


def by_optax(*args):
    """L-BFGS of optax."""
    import optax

    by_pair(lambda steps: optax.lbfgs(memory_size=50), 20, optax)(*args)


def rate(steps):
    """A learning rate for Adam that falls to a hundredth."""
    return gdjax.cosine_decay_schedule(1e-2, steps, 1e-2)


METHODS = {  # the function, and the iterations
    "gdjax adam": (by_pair(lambda steps: gdjax.adam(rate(steps)), 500), 20_000),
    "gdjax lbfgs": (by_pair(lambda steps: gdjax.lbfgs(memory_size=50), 20), 5000),
    "gdjax bfgs": (by_pair(lambda steps: gdjax.bfgs(), 20), 5000),
    "gdjax ssbfgs": (by_pair(lambda steps: gdjax.ssbfgs(), 20), 5000),
    "gdjax ssbroyden": (by_pair(lambda steps: gdjax.ssbroyden(), 20), 5000),
    "gdjax levenberg_marquardt": (by_pair(lambda steps: gdjax.levenberg_marquardt(), 1), 200),
    "gdjax gauss_newton": (by_pair(lambda steps: gdjax.gauss_newton(), 1), 200),
    "optax lbfgs": (by_optax, 5000),
    "SciPy BFGS": (by_scipy_bfgs, 5000),
    "SciPy least_squares": (by_scipy_least_squares, 200),
    "optimistix LevenbergMarquardt": (by_optimistix, 200),
    "jaxopt LevenbergMarquardt": (by_jaxopt, 200),
}


def measured(name, method, seed, seconds, quick):
    """Run a method on a problem; return the result as a dict."""
    problem = PROBLEMS[name]()
    start, unravel = ravel_pytree(problem.init(seed))
    record = Record(problem, unravel, seconds)
    record.rows.append((0, 0.0, *record.measure(start)))
    run, steps = METHODS[method]
    few = 500 if method == "gdjax adam" else 20
    run(problem, unravel, start, record, few if quick else steps)
    return dict(problem=name, method=method, seed=seed, rows=record.rows)


# --- what came of it ------------------------------------------------------------------------------


def reached(run):
    """Return the least loss of a run with the error there, and iteration and seconds."""
    return min(run["rows"], key=lambda row: row[2])


def table(runs):
    """Return a table of medians over the seeds."""
    lines = []
    for name in PROBLEMS:
        for method in METHODS:
            own = [r for r in runs if (r["problem"], r["method"]) == (name, method)]
            if not own:
                continue
            ends = [reached(r) for r in own]
            errors = sorted(end[3] for end in ends)
            pace = statistics.median(r["rows"][-1][1] / max(1, r["rows"][-1][0]) for r in own)
            lines.append(
                {
                    "problem": name,
                    "method": method,
                    "seeds": len(own),
                    "iterations": f"{statistics.median(r['rows'][-1][0] for r in own):.0f}",
                    "seconds": f"{statistics.median(r['rows'][-1][1] for r in own):.1f}",
                    "ms / iteration": f"{1e3 * pace:.2f}",
                    "loss": f"{statistics.median(end[2] for end in ends):.1e}",
                    "relative error": f"{statistics.median(errors):.1e}",
                    "least, largest": f"{errors[0]:.1e}, {errors[-1]:.1e}",
                }
            )
    return tabulate(lines, "keys", tablefmt="github", disable_numparse=True)


def figure(runs, path):
    """Draw the seed with the median error of each method, against iterations and seconds."""
    names = [name for name in PROBLEMS if any(r["problem"] == name for r in runs)]
    fig, axes = plt.subplots(
        len(names), 2, figsize=(11, 3.5 * len(names)), sharey="row", squeeze=False,
        layout="constrained",
    )  # fmt: skip
    colours = dict(zip(METHODS, plt.colormaps["tab20"].colors, strict=False))
    for row, name in zip(axes, names, strict=True):
        for method in METHODS:
            own = [r for r in runs if (r["problem"], r["method"]) == (name, method)]
            if not own:
                continue
            own.sort(key=lambda r: reached(r)[3])
            steps, seconds, _, errors = np.array(own[(len(own) - 1) // 2]["rows"]).T
            style = "-" if method.startswith("gdjax") else "--"
            for ax, x in zip(row, (steps, seconds), strict=True):
                ax.loglog(x[1:], errors[1:], style, color=colours[method], label=method)
        row[0].set(title=name, xlabel="iterations", ylabel="relative L2 error")
        row[1].set(title=name, xlabel="seconds")
    handles = {line.get_label(): line for ax in axes.flat for line in ax.lines}
    fig.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize=8)
    fig.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=list(PROBLEMS), choices=list(PROBLEMS))
    parser.add_argument("--methods", nargs="*", default=list(METHODS), help="beginnings of names")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=30.0, help="limit of each run")
    parser.add_argument("--again", action="store_true", help="repeat runs that have a result")
    parser.add_argument("--table", action="store_true", help="only show the stored results")
    parser.add_argument("--quick", action="store_true", help="a few iterations, nothing is stored")
    options = parser.parse_args()
    OUTPUT.mkdir(exist_ok=True)
    stored = OUTPUT / "pinn.jsonl"
    lines = stored.read_text().splitlines() if stored.exists() and not options.quick else []
    runs = {(r["problem"], r["method"], r["seed"]): r for r in map(json.loads, lines)}
    methods = [m for m in METHODS if m.startswith(tuple(options.methods))]
    for name in [] if options.table else options.only:
        for method in methods:
            for seed in range(1 if options.quick else options.seeds):
                key = (name, method, seed)
                if key in runs and not options.again:
                    continue
                run = measured(name, method, seed, options.seconds, options.quick)
                runs[key] = run
                _, seconds, loss, error = reached(run)
                print(f"{name}, {method}, seed {seed}: {error:.2e} in {seconds:.1f} s", flush=True)
                if not options.quick:
                    with stored.open("a") as file:
                        file.write(json.dumps(run) + "\n")
    print(table(list(runs.values())))
    figure(list(runs.values()), OUTPUT / ("pinn_quick.png" if options.quick else "pinn.png"))


if __name__ == "__main__":
    main()
