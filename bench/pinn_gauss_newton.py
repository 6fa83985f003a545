"""Gauss-Newton and Levenberg-Marquardt on the 2-D Poisson network: absolute L2 errors of seeds.

python bench/pinn_gauss_newton.py METHOD SEEDS: errors after 20, 40, 60, 80 and 100 iterations.
"""

import sys
import time

import jax
import jax.numpy as jnp
from pinn_problems import poisson_2d

import gdjax

jax.config.update("jax_enable_x64", True)

CURVED = dict(acceleration=True, linesearch="grid", scaled=False)
METHODS = {
    "gauss_newton": gdjax.gauss_newton,
    "curved": lambda: gdjax.gauss_newton(**CURVED),
    "curved_1e-7": lambda: gdjax.gauss_newton(rcond=1e-7, **CURVED),
    "levenberg_marquardt": gdjax.levenberg_marquardt,
    "accelerated": lambda: gdjax.levenberg_marquardt(acceleration=True),
}


def errors(method: str, seeds: int) -> None:
    """Print a line for each seed."""
    problem, opt = poisson_2d(), METHODS[method]()

    @jax.jit
    def run(carry):
        def step(carry, _):
            params, state = carry
            updates, state = opt.update(params, state, params, residual_fn=problem.residual_fn)
            return (gdjax.apply_updates(params, updates), state), None

        carry, _ = jax.lax.scan(step, carry, length=20)
        return carry, problem.absolute_error(carry[0])

    last = []
    for seed in range(seeds):
        params = problem.init(seed)
        carry, found, start = (params, opt.init(params)), [], time.perf_counter()
        for _ in range(5):
            carry, error = run(carry)
            found.append(float(error))
        last.append(found[-1])
        seconds = time.perf_counter() - start
        print(method, seed, *(f"{x:.1e}" for x in found), f"{seconds:.0f} s", flush=True)
    print(method, f"median {float(jnp.median(jnp.array(last))):.1e}, worst {max(last):.1e}")


if __name__ == "__main__":
    errors(sys.argv[1], int(sys.argv[2]))
