"""OTT: semidiscrete optimal transport, L-BFGS, and an assignment."""

import jax
import jax.numpy as jnp
import optax
from ott.geometry import pointcloud
from ott.geometry.semidiscrete_pointcloud import SemidiscretePointCloud
from ott.math import lbfgs
from ott.problems.linear.semidiscrete_linear_problem import SemidiscreteLinearProblem
from ott.solvers.linear.semidiscrete import SemidiscreteSolver
from ott.tools import unreg

RTOL = 1e-8


def losses():
    y = jax.random.normal(jax.random.key(0), (12, 2))
    geom = SemidiscretePointCloud(
        lambda rng, shape, dtype: jax.random.uniform(rng, shape, dtype), y, epsilon=0.1
    )
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.3, momentum=0.9))
    solver = SemidiscreteSolver(
        num_iterations=200,
        batch_size=16,
        optimizer=tx,
        error_eval_every=100,
        error_num_repeats=1,
        potential_ema=0.9,
        threshold=0.0,
    )
    out = jax.jit(solver)(jax.random.key(1), SemidiscreteLinearProblem(geom))

    def rosenbrock(x):
        return jnp.sum((x[1:] - x[:-1] ** 2) ** 2) + jnp.sum((1 - x[:-1]) ** 2)

    x, _ = jax.jit(lambda x: lbfgs(rosenbrock, x))(jnp.array([-1.0, 1.5, 0.5]))
    pairs = pointcloud.PointCloud(y, y[::-1] + 0.1)
    cost, _ = unreg.hungarian(pairs)
    return [*out.losses, *out.errors, *x, cost]
