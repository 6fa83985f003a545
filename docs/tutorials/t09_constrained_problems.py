r"""Constrained problems
====================

The variables of a problem are often restricted: a rate is positive, weights sum to one, few
coefficients shall differ from zero. This tutorial solves such problems in four forms:

- bounds on each variable, ``bounds=``;
- a set with a projection, ``constraint=``;
- a penalty with a proximal operator, such as that of the lasso, `gdjax.fista`;
- linear equations and inequalities, `gdjax.quadratic_program`.

Then it differentiates a solution, and looks at problems that have none.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import gdjax

jax.config.update("jax_enable_x64", True)

# %%
# Bounds and sets
# ---------------
#
# A quadratic function of two variables has its minimum at (2, 0.3). With bounds `gdjax.minimize`
# uses L-BFGS-B. A set is given by its projection, the function that returns the nearest point of
# the set; then the method is the accelerated projected gradient. `gdjax.projections` has the usual
# ones.


def fun(x):
    d = x - jnp.array([2.0, 0.3])
    return d[0] ** 2 + 2 * d[1] ** 2 + 0.5 * d[0] * d[1]


def in_disc(x):
    return gdjax.projections.projection_l2_ball(x, 1.0)


def in_diamond(x):
    return gdjax.projections.projection_l1_ball(x, 1.0)


start = jnp.zeros(2)
solutions = {
    "box": gdjax.minimize(fun, start, bounds=(-1.0, 1.0)),
    "disc": gdjax.minimize(fun, start, constraint=in_disc),
    "diamond": gdjax.minimize(fun, start, constraint=in_diamond),
}
for name, result in solutions.items():
    x, status = np.asarray(result.params).round(4), gdjax.Status(int(result.status)).name
    print(f"{name:8} {x}  value {result.value:.4f}  steps {int(result.steps)}  {status}")

# %%
# In each picture the solution is where the set touches the lowest contour that it reaches. On the
# edge of the box :math:`x_0 = 1`, and :math:`x_1` is free; the diamond's solution is a corner, with
# a coordinate that is exactly 0. This is why a bound on the sum of magnitudes selects variables.

angle = np.linspace(0, 2 * np.pi, 200)
outlines = {
    "box": ([-1, 1, 1, -1, -1], [-1, -1, 1, 1, -1]),
    "disc": (np.cos(angle), np.sin(angle)),
    "diamond": ([1, 0, -1, 0, 1], [0, 1, 0, -1, 0]),
}
axis = np.linspace(-1.5, 3, 100)
points = jnp.stack(jnp.meshgrid(axis, axis), -1)
values = jax.vmap(jax.vmap(fun))(points)
figure, axes = plt.subplots(1, 3, figsize=(9, 3.2), sharey=True, layout="constrained")
for ax, (name, result) in zip(axes, solutions.items(), strict=True):
    ax.contour(axis, axis, values, levels=np.geomspace(0.1, 40, 12), linewidths=0.6)
    ax.contour(axis, axis, values, levels=[float(result.value)], colors="tab:red", linewidths=1.2)
    ax.fill(*outlines[name], color="tab:blue", alpha=0.2)
    ax.plot(*result.params, "o", color="tab:red")
    ax.set(title=name, aspect="equal", xlabel="$x_0$")
axes[0].set_ylabel("$x_1$")
plt.show()

# %%
# A penalty: the lasso
# --------------------
#
# The lasso adds the penalty :math:`\lambda \lVert w \rVert_1` to half the mean squared error. It is
# not differentiable at 0, but its proximal operator is a formula: each weight moves towards 0 by
# :math:`\lambda` times the step, and stays there once it has arrived. `gdjax.fista` alternates a
# gradient step on the smooth part with this operator.
#
# Of ten features only three have an effect here. The penalty is a number like any other, so a path
# of 60 penalties is a ``vmap``.

rng = np.random.default_rng(0)
truth = np.array([2.0, -1.5, 0.7, 0, 0, 0, 0, 0, 0, 0])
x_all = rng.normal(size=(80, 10))
y_all = x_all @ truth + rng.normal(size=80)
train, held_out = (x_all[:40], y_all[:40]), (x_all[40:], y_all[40:])


def half_mse(w, x, y):
    return 0.5 * jnp.mean((x @ w - y) ** 2)


def lasso(penalty):
    optimizer = gdjax.fista(gdjax.proximal.prox_lasso, reg=penalty)
    return gdjax.minimize(
        half_mse, jnp.zeros(10), optimizer, args=train, tol=1e-9, implicit_diff=True
    )


penalties = jnp.logspace(-2.5, 0.5, 60)
path = jax.jit(jax.vmap(lasso))(penalties)
print("all converged:", bool(path.converged.all()), "- steps:", int(path.steps.min()), "to",
      int(path.steps.max()))  # fmt: skip

# %%
# A solution can be checked without another solver. By the optimality conditions the correlation of
# a feature with the residuals, :math:`x_j^\top (y - X w) / n`, is :math:`\lambda
# \operatorname{sign}(w_j)` if :math:`w_j \ne 0`, and at most :math:`\lambda` in magnitude
# otherwise.

w = path.params[30]
correlation = train[0].T @ (train[1] - train[0] @ w) / 40
print(
    f"penalty {penalties[30]:.4f}; correlations of weights that are not 0:",
    correlation[w != 0].round(4),
)
print(
    f"largest correlation of the {int((w == 0).sum())} others: "
    f"{jnp.abs(correlation[w == 0]).max():.4f}"
)

# %%
# The derivative of a solution
# ----------------------------
#
# Which penalty is best? With ``implicit_diff=True`` a solution has a derivative with respect to
# everything that it depends on. It follows from the optimality conditions by one linear solve (the
# implicit function theorem), not from the steps of the solver. So the loss on held-out data is a
# differentiable function of the penalty:


def validation(log_penalty):
    w = lasso(jnp.exp(log_penalty)).params
    return jnp.mean((held_out[0] @ w - held_out[1]) ** 2)


log_penalties = jnp.log(penalties)
value_and_slope = jax.jit(jax.vmap(jax.value_and_grad(validation)))
losses, slopes = value_and_slope(log_penalties)
h = 1e-3
numeric = (value_and_slope(log_penalties + h)[0] - value_and_slope(log_penalties - h)[0]) / (2 * h)
best = int(jnp.argmin(losses))
print(f"best penalty {penalties[best]:.3f}, held-out error {losses[best]:.3f}")
for i in (15, 45):
    print(
        f"penalty {penalties[i]:.3f}: derivative {slopes[i]:.6f}, by differences {numeric[i]:.6f}"
    )

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
left.plot(penalties, path.params[:, :3])
left.plot(penalties, path.params[:, 3:], color="grey", linewidth=0.8)
left.set(xscale="log", xlabel="penalty", ylabel="weight", title="grey: features without effect")
right.plot(penalties, losses)
for i in range(5, 60, 10):
    ends = np.array([-0.4, 0.4])
    right.plot(penalties[i] * np.exp(ends), losses[i] + slopes[i] * ends, color="tab:red")
right.set(xscale="log", xlabel="penalty", ylabel="held-out error", title="red: derivatives")
plt.show()

# %%
# Left, weights leave 0 one after the other as the penalty decreases, first the features that have
# an effect. Right, the red tangents, each from the derivative at one penalty, fit the curve.
# :ref:`sphx_glr_generated_examples_lasso_path.py` uses them to tune the penalty by gradient
# descent, on real data.
#
# Linear equations and inequalities
# ---------------------------------
#
# `gdjax.quadratic_program` minimizes :math:`\tfrac12 x^\top Q x + c^\top x` subject to :math:`A x =
# b`, :math:`G x \le h` and bounds, by an interior-point method. The example is Markowitz's: four
# assets with expected returns :math:`\mu` and covariance :math:`Q`; find the weights of a
# portfolio, at least 0 with sum 1, that has the least variance among those with a required return.

returns = jnp.array([0.03, 0.06, 0.09, 0.12])
volatility = jnp.array([0.02, 0.08, 0.14, 0.25])
Q = jnp.outer(volatility, volatility) * (0.7 * jnp.eye(4) + 0.3)  # all correlations are 0.3
ones = jnp.ones((1, 4))


def portfolio(required):  # returns @ x >= required
    return gdjax.quadratic_program(
        Q, jnp.zeros(4), ones, jnp.ones(1), -returns[None], -required[None], bounds=(0.0, None)
    )


required = jnp.linspace(0.02, 0.14, 49)
results = jax.jit(jax.vmap(portfolio))(required)
for status in np.unique(results.status):
    lanes = np.asarray(results.status) == status
    low, high = float(required[lanes].min()), float(required[lanes].max())
    print(f"required return from {low:.4f} to {high:.4f}: {gdjax.Status(int(status)).name}")

# %%
# No portfolio of these assets earns more than 0.12, so the problems beyond are infeasible; each
# lane says so by itself. Below, the parts are mixed continuously; those of the infeasible lanes are
# left out of the picture.

feasible = np.asarray(results.converged)
weights, risk = results.params[feasible], jnp.sqrt(2 * results.value[feasible])
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
left.plot(risk, required[feasible], ".-")
left.plot(volatility, returns, "ks", markersize=4)
left.set(xlabel="standard deviation", ylabel="required return", title="squares: single assets")
right.stackplot(required[feasible], weights.T, labels=[f"asset {i}" for i in range(4)])
right.set(xlabel="required return", ylabel="weight", title="portfolios")
right.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
plt.show()

# %%
# The multiplier of a constraint is the derivative of the optimal value with respect to its limit:
# what a little more required return costs in half the variance. It agrees with differences of
# neighbouring lanes. For low requirements the constraint does not bind, and its multiplier is 0.

multipliers = results.state.inequality[:, 0]
for i in (1, 16, 24):
    change = (results.value[i + 1] - results.value[i - 1]) / (required[i + 1] - required[i - 1])
    print(f"required {required[i]:.3f}: multiplier {multipliers[i]:.5f}, differences {change:.5f}")

# %%
# Problems without a solution
# ---------------------------
#
# An infeasible problem has a proof, which the multipliers give: a combination of the constraints
# that contradicts itself. Added up with the multipliers as factors, the left sides cancel and the
# limits sum to a negative number, so that the sum of the constraints reads 0 <= negative.

y, z, lower = results.state.equality[-1], results.state.inequality[-1], results.state.lower[-1]
left_sides = ones.T @ y - returns * z - lower
limits = y[0] - required[-1] * z[0]
print(f"largest left side {jnp.abs(left_sides).max():.0e}, limits {limits:.4f}")

# %%
# A problem may also have values without limit, or several minima. The first program minimizes
# :math:`-x_0` for :math:`x \ge 0`: its ``params`` are a direction in which the value decreases
# without end. The second has negative eigenvalues in :math:`Q`, so it may have several local
# minima, and `gdjax.minimize` would find one of them.

inf = jnp.full(2, jnp.inf)
endless = gdjax.quadratic_program(jnp.zeros((2, 2)), -jnp.eye(2)[0], bounds=(jnp.zeros(2), inf))
concave = gdjax.quadratic_program(-jnp.eye(2), jnp.zeros(2), bounds=(-jnp.ones(2), jnp.ones(2)))
for result in (endless, concave):
    print(gdjax.Status(int(result.status)).name, result.params)

# %%
# The guide :doc:`/guides/solvers` has all statuses, and says what to do about each.
