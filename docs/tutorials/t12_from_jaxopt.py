r"""From jaxopt
===========

jaxopt is no longer maintained. Its solvers are classes that are made for a function and then run;
in gdjax a solver is a function call, and the method is an argument. This tutorial goes through the
kinds of problems, with the program for jaxopt first. The numbers that it compares with were
computed by jaxopt 0.8.5, with tolerances of 1e-8 or less.

The guide :doc:`/guides/migrating-from-jaxopt` has the equivalents of all names, and the defaults
that differ.
"""

import jax
import jax.numpy as jnp
import numpy as np

import gdjax

jax.config.update("jax_enable_x64", True)

rng = np.random.default_rng(0)
x = rng.normal(size=(100, 5))
y = x @ np.array([1.0, -2.0, 0.0, 0.0, 3.0]) + 0.5 * rng.normal(size=100)
labels = (y > 0).astype(float)


def compare(name, result, jaxopts):
    """Print the status, the steps, and how far the parameters are from jaxopt's."""
    apart = np.abs(np.asarray(result.params) - np.asarray(jaxopts)).max()
    status = gdjax.Status(int(result.status)).name
    print(f"{name:22} {status:10} {int(result.steps):4} steps, {apart:.0e} from jaxopt")


# %%
# A smooth function
# -----------------
#
# Logistic regression with a penalty. In jaxopt:
#
# .. code-block:: python
#
#    solver = jaxopt.LBFGS(logistic, tol=1e-8)
#    w, state = solver.run(jnp.zeros(5), 0.1, x, labels)
#
# In gdjax the arguments after the parameters are ``args``, and the result is one object:


def logistic(w, penalty, x, labels):
    z = x @ w
    return jnp.mean(jnp.logaddexp(0, z) - labels * z) + 0.5 * penalty * jnp.sum(w**2)


result = gdjax.minimize(logistic, jnp.zeros(5), args=(0.1, x, labels), tol=1e-8)
compare("LBFGS", result, [0.3296779, -0.55571861, 0.06069637, -0.02061112, 1.24021544])
print(result)

# %%
# ``result.params`` is jaxopt's ``params``, ``result.grad_norm`` its ``state.error``, and
# ``result.steps`` its ``state.iter_num``. jaxopt does not say whether it has converged: one
# compares the error with ``tol``. Here ``result.status`` says how the run ended.
#
# Other methods are the third argument: ``gdjax.minimize(logistic, jnp.zeros(5), gdjax.bfgs(),
# ...)``.
#
# Constraints and penalties
# -------------------------
#
# .. code-block:: python
#
#    jaxopt.LBFGSB(fun).run(jnp.ones(2), bounds=(0.0, 1.5))
#    jaxopt.ProjectedGradient(squares, projection_l2_ball).run(start, 1.0, x, y)
#    jaxopt.ProximalGradient(squares, prox_lasso).run(jnp.zeros(5), 0.5, x, y)
#
# The first number after the start, in jaxopt ``hyperparams_proj`` or ``hyperparams_prox``, belongs
# to the projection or the operator. In gdjax the projection is a function of the point only, and
# the strength of a penalty is a number of the method.


def fun(z):
    return (z[0] - 2) ** 2 + (z[1] - 3) ** 2 + z[0] * z[1]


def squares(w, x, y):
    return 0.5 * jnp.mean((x @ w - y) ** 2)


ball = gdjax.projections.projection_l2_ball
lasso = gdjax.fista(gdjax.proximal.prox_lasso, reg=0.5)
more = {"args": (x, y), "tol": 1e-9}
compare("LBFGSB", gdjax.minimize(fun, jnp.ones(2), bounds=(0.0, 1.5), tol=1e-8), [1.25, 1.5])
in_ball = gdjax.minimize(squares, jnp.zeros(5), constraint=ball, **more)
compare(
    "ProjectedGradient", in_ball, [0.16929054, -0.46776036, 0.02655953, -0.07771942, 0.86359437]
)
compare(
    "ProximalGradient",
    gdjax.minimize(squares, jnp.zeros(5), lasso, **more),
    [0.29013109, -1.38027706, 0, 0, 2.54343475],
)

# %%
# Quadratic programs
# ------------------
#
# .. code-block:: python
#
#    params, state = jaxopt.OSQP(tol=1e-9).run(None, (Q, c), (A, b), (G, h))
#    params.primal, params.dual_eq, params.dual_ineq
#
# `gdjax.quadratic_program` is an interior-point method, which takes about ten steps; OSQP is a
# first-order method with thousands. Bounds are an argument; in jaxopt they are rows of G.

Q, c = jnp.array([[2.0, 0.5], [0.5, 1.0]]), jnp.ones(2)
A, b = jnp.ones((1, 2)), jnp.ones(1)
result = gdjax.quadratic_program(Q, c, A, b, -jnp.eye(2), jnp.array([0.0, -0.3]))
compare("OSQP", result, [0.25, 0.75])
print("multiplier of the equation", result.state.equality, "(jaxopt -1.875)")

# %%
# Least squares, roots and fixed points
# -------------------------------------
#
# .. code-block:: python
#
#    jaxopt.LevenbergMarquardt(residuals).run(jnp.ones(2))
#    jaxopt.Bisection(cube, 0.0, 2.0).run()
#    jaxopt.AndersonAcceleration(jnp.cos).run(1.0)

t = jnp.linspace(0, 2, 30)
observed = 3 * jnp.exp(-2 * t) + 0.1 * jnp.cos(20 * t)


def residuals(p):
    return p[0] * jnp.exp(-p[1] * t) - observed


compare("LevenbergMarquardt", gdjax.least_squares(residuals, jnp.ones(2)), [3.0283554, 2.02174897])
compare("Bisection", gdjax.find_root(lambda z: z**3 - 2, (0.0, 2.0)), 2 ** (1 / 3))
compare("AndersonAcceleration", gdjax.fixed_point(jnp.cos, 1.0, tol=1e-12), 0.7390851332151607)

# %%
# Derivatives of solutions
# ------------------------
#
# In jaxopt solutions are differentiable by default, with ``implicit_diff=True``. In gdjax this is
# the default of `gdjax.quadratic_program`, `gdjax.root`, `gdjax.find_root` and `gdjax.fixed_point`;
# `gdjax.minimize` and `gdjax.least_squares` have to be told. The derivative of the lasso's weights
# with respect to the penalty has a formula. On the weights that are not zero, with signs :math:`s`,
# it is :math:`-(X_s^\top X_s / n)^{-1} s`, and 0 for the others.


def weights(penalty):
    method = gdjax.fista(gdjax.proximal.prox_lasso, reg=penalty)
    return gdjax.minimize(squares, jnp.zeros(5), method, implicit_diff=True, **more).params


w, slope = weights(0.5), jax.jacobian(weights)(0.5)
active = np.asarray(w != 0)
formula = -jnp.linalg.solve(x[:, active].T @ x[:, active] / 100, jnp.sign(w[active]))
print("derivative", slope.round(5), "- formula", formula.round(5))

# %%
# jaxopt gives the same: -1.33960, 1.14819, 0, 0, -0.94315.
#
# A loop of one's own
# -------------------
#
# .. code-block:: python
#
#    state = solver.init_state(w, 0.1, x, labels)
#    for _ in range(20):
#        w, state = solver.update(w, state, 0.1, x, labels)
#
# A method is a pair ``(init, update)`` as each optimizer of gdjax. Line searches need the value,
# the gradient and the function as well:

method = gdjax.lbfgs()


@jax.jit
def step(w, state):
    value_fn = lambda w: logistic(w, 0.1, x, labels)  # noqa: E731
    value, grad = jax.value_and_grad(value_fn)(w)
    updates, state = method.update(grad, state, w, value=value, grad=grad, value_fn=value_fn)
    return gdjax.apply_updates(w, updates), state, jnp.abs(grad).max()


w = jnp.zeros(5)
state = method.init(w)
for i in range(12):
    w, state, largest = step(w, state)
    if i % 3 == 2:
        print(f"step {i + 1:2}: largest gradient element before it {largest:.1e}")

# %%
# Tolerances, numbers of steps and other defaults are not those of jaxopt; see the
# :ref:`table in the guide <jaxopt-defaults>`.
