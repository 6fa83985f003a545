"""Compare L-BFGS-B with SciPy's on CUTEst's problems with bounds, from the same initial points.

Requires sif2jax and scipy. Counts the problems on which each solver reaches the better value of the
two (relative 1e-6), and the evaluations of value and gradient, in float64, with the same limits.

Run: python bench/bounded.py [--largest N] [--quick]
"""

import argparse
import importlib
import pkgutil
import statistics
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

import gdjax

jax.config.update("jax_enable_x64", True)


def problems():
    """Yield the bounded problems; importing only their part of sif2jax is much faster."""
    root = Path(importlib.util.find_spec("sif2jax").submodule_search_locations[0])
    for name, path in (("sif2jax", root), ("sif2jax.cutest", root / "cutest")):
        stub = types.ModuleType(name)
        stub.__path__ = [str(path)]
        sys.modules[name] = stub
    package = importlib.import_module("sif2jax.cutest._bounded_minimisation")
    for module in pkgutil.iter_modules(package.__path__):
        problem = getattr(package, module.name.upper(), None)
        if problem is not None:  # sif2jax excludes some
            yield problem()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--largest", type=int, default=50, help="largest number of variables")
    parser.add_argument("--only", nargs="+", help="names of problems")
    parser.add_argument("--quick", action="store_true", help="a few problems, as a quick check")
    options = parser.parse_args()
    solved, ratios, count, left = [0, 0], [], 0, 0
    for problem in problems():
        start = jnp.asarray(problem.y0, float)
        if start.ndim != 1 or start.size > options.largest:
            continue
        if options.only and type(problem).__name__ not in options.only:
            continue
        lower, upper = (jnp.asarray(b, float) for b in problem.bounds)

        def fun(x, problem=problem):
            return problem.objective(x, problem.args)

        both = jax.jit(jax.value_and_grad(fun))
        peer = scipy.optimize.minimize(
            lambda x, both=both: tuple(map(np.asarray, both(jnp.asarray(x)))),
            np.clip(start, lower, upper),
            jac=True,
            method="L-BFGS-B",
            bounds=scipy.optimize.Bounds(np.asarray(lower), np.asarray(upper)),
            options=dict(gtol=1e-6, ftol=0, maxiter=1000, maxfun=5000),
        )
        ours = gdjax.minimize(fun, start, bounds=(lower, upper), tol=1e-6, max_steps=1000)
        least = min(peer.fun, float(ours.value))
        reached = [v <= least + 1e-6 * max(abs(least), 1e-6) for v in (float(ours.value), peer.fun)]
        solved = [s + bool(r) for s, r in zip(solved, reached, strict=True)]
        count += 1
        left += int((ours.params < lower).any() | (ours.params > upper).any())
        if all(reached):
            ratios.append(int(ours.evaluations) / peer.nfev)
        print(
            f"{type(problem).__name__:10} n={start.size:3} gdjax {float(ours.value):14.6e} "
            f"{int(ours.evaluations):5} {gdjax.Status(int(ours.status)).name:18} "
            f"SciPy {peer.fun:14.6e} {peer.nfev:5}{'' if all(reached) else '  differ'}",
            flush=True,
        )
        jax.clear_caches()
        if options.quick and count == 5:
            break
    print(
        f"{count} problems; best value reached: gdjax {solved[0]}, SciPy {solved[1]}; evaluations "
        f"gdjax / SciPy if both do: median {statistics.median(ratios):.2f}; bounds violated: {left}"
    )


if __name__ == "__main__":
    main()
