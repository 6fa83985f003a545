r"""Curve fitting
=============

A fit finds the parameters of a model for which the sum of the squared residuals, the model minus
the data, is least:

.. math::

   \min_p \tfrac12 \sum_i r_i(p)^2, \qquad r_i(p) = f(p, x_i) - y_i .

`gdjax.least_squares` does this by the method of Levenberg and Marquardt, as MINPACK and SciPy do,
and returns the parameters with their covariance. This tutorial compares both with certified values,
adds bounds and a robust loss, and runs a thousand fits in one program.
The guide :doc:`/guides/solvers` has the rules for covariances, weights and ranks.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import gdjax

# Fits are computed in float64: a sum of squares in float32 has seven digits.
jax.config.update("jax_enable_x64", True)

# %%
# A first fit
# -----------
#
# The data are the set Misra1a of the U.S. National Institute of Standards and Technology (NIST,
# `Statistical Reference Datasets <https://www.itl.nist.gov/div898/strd/nls/nls_main.shtml>`_, in
# the public domain): the volume of an adsorbed gas against the pressure, from a study in dentistry.
# NIST publishes the parameters and their standard deviations to eleven digits.

volume = np.array(
    [
        10.07,
        14.73,
        17.94,
        23.93,
        29.61,
        35.18,
        40.02,
        44.82,
        50.76,
        55.05,
        61.01,
        66.4,
        75.47,
        81.78,
    ]
)
pressure = np.array(
    [
        77.6,
        114.9,
        141.1,
        190.8,
        239.9,
        289.0,
        332.8,
        378.4,
        434.8,
        477.3,
        536.8,
        593.1,
        689.1,
        760.0,
    ]
)


def model(p, x):
    return p["b1"] * (1 - jnp.exp(-p["b2"] * x))


def residual_fn(p, y):
    return model(p, pressure) - y


start = {"b1": 500.0, "b2": 0.0001}
fit = gdjax.least_squares(residual_fn, start, args=(volume,))
print(fit)

# %%
# ``fit.params`` is a dict like ``start``. The two parameters differ by six orders of magnitude.
# They need no scaling, since the method measures each parameter by the length of its column of the
# Jacobian.
#
# ``standard_errors()`` has the same structure, and ``covariance()`` is the whole matrix,
# :math:`s^2 (J^\top J)^{-1}` with the variance :math:`s^2` of the residuals.

errors = fit.standard_errors()
certified = {"b1": (238.94212918, 2.7070075241), "b2": (5.5015643181e-4, 7.2668688436e-6)}
for name, (value, deviation) in certified.items():
    print(
        f"{name}: {fit.params[name]:.10g} ± {errors[name]:.6g}, NIST {value:.10g} ± {deviation:.6g}"
    )

covariance = fit.covariance()
correlation = covariance[0, 1] / jnp.sqrt(covariance[0, 0] * covariance[1, 1])
print(f"correlation of b1 and b2: {correlation:.4f}")

product = lambda p: p["b1"] * p["b2"]  # noqa: E731
g = jnp.array(jax.tree.leaves(jax.grad(product)(fit.params)))
for name, value, error in (
    ("b1", fit.params["b1"], errors["b1"]),
    ("b2", fit.params["b2"], errors["b2"]),
    ("b1 b2", product(fit.params), jnp.sqrt(g @ covariance @ g)),
):
    print(f"relative standard error of {name}: {100 * error / value:.2f} %")

# %%
# The correlation is close to -1: the data determine the initial slope :math:`b_1 b_2` much better
# than either factor. The standard errors of single parameters do not show this; an error of
# anything that is calculated from the parameters needs the whole matrix. To first order the
# variance of a function with the gradient :math:`g` is :math:`g^\top C g`, with :math:`C` the
# covariance.
#
# The curve itself is such a function, one at each :math:`x`. The picture in the middle shows the
# half-width of its band, two standard errors. It is narrow where data are, and widens where the
# model extrapolates.

x = np.linspace(0, 2500, 200)
slopes = jax.jacobian(lambda p: model(p, x))(fit.params)
g = jnp.stack(jax.tree.leaves(slopes), axis=1)  # in the order of the covariance
band = 2 * jnp.sqrt(jnp.einsum("xi,ij,xj->x", g, covariance, g))

figure, (left, middle, right) = plt.subplots(1, 3, figsize=(10, 3.2), layout="constrained")
left.plot(pressure, volume, "o", color="black", markersize=4, label="data")
left.plot(x, model(fit.params, x), label="fit")
left.set(xlabel="pressure", ylabel="volume", title="fit")
left.legend()
middle.semilogy(x[1:], band[1:])
middle.axvspan(pressure[0], pressure[-1], color="grey", alpha=0.2, label="data")
middle.set(xlabel="pressure", title="half-width of the band")
middle.legend()
right.axhline(0, color="grey", linewidth=0.8)
right.plot(pressure, -residual_fn(fit.params, volume), "o", color="black", markersize=4)
right.set(xlabel="pressure", ylabel="data - fit", title="residuals")
plt.show()

# %%
# The residuals are not scattered at random but follow an arc: the model has a small systematic
# error, about a thousandth of the largest volume. The standard errors suppose independent errors,
# so a residual plot belongs to each fit.
#
# Starting points
# ---------------
#
# A fit finds a local minimum, and which one depends on the start. The set BoxBOD of NIST has the
# same model and six data. `jax.vmap` over the start runs a grid of fits in one program; each lane
# takes its own number of steps and ends with its own status.

time = jnp.array([1.0, 2.0, 3.0, 5.0, 7.0, 10.0])
oxygen = jnp.array([109.0, 149.0, 149.0, 191.0, 213.0, 224.0])


def from_start(b1, b2):
    p = {"b1": b1, "b2": b2}
    return gdjax.least_squares(lambda p: model(p, time) - oxygen, p, max_steps=100)


b1, b2 = jnp.linspace(20, 500, 25), jnp.logspace(-2, 1.5, 29)
results = jax.jit(jax.vmap(jax.vmap(from_start, (0, None)), (None, 0)))(b1, b2)
reached = np.isclose(results.params["b2"], 0.54723748542, rtol=1e-6)  # as certified
print(f"{reached.sum()} of {reached.size} starts lead to the certified solution")
for status in np.unique(results.status[~reached]):
    lanes = ~reached & (np.asarray(results.status) == status)
    values, rates = (np.median(a[lanes]) for a in (results.value, results.params["b2"]))
    name = gdjax.Status(int(status)).name
    print(f"{lanes.sum():4} {name:18} median of value {values:9.4g}, of b2 {rates:9.3g}")

figure, ax = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
steps = np.where(reached, np.asarray(results.steps), np.nan)
image = ax.pcolormesh(b1, b2, steps, shading="nearest")
ax.plot(213.80940889, 0.54723748542, "r*", markersize=12, label="certified solution")
ax.set(xlabel="initial $b_1$", ylabel="initial $b_2$", yscale="log", title="Starts of BoxBOD")
figure.colorbar(image, label="steps (white: another end)")
ax.legend(loc="lower left")
plt.show()

# %%
# Most starts lead to the solution. The others, with a large :math:`b_2` and a :math:`b_1` below the
# largest datum, end where :math:`e^{-b_2 x}` has become 0 at all data: the model is a constant
# there, and its derivative with respect to :math:`b_2` is 0. The sum of squares is then stationary,
# so the status may be ``CONVERGED``. The value shows the difference: NIST certifies a sum of
# squares of 1168, and ``value`` is half of the sum.
#
# So start a fit from a point at which every parameter has an effect on the model, or from several
# points, and keep the run with the least value.

best = jnp.argmin(results.value)
solution = jax.tree.map(lambda leaf: leaf.reshape(-1)[best], results.params)
print(
    {name: f"{value:.6g}" for name, value in solution.items()}, f"value {results.value.min():.6g}"
)

# %%
# What a status says
# ------------------
#
# ``result.converged`` is true for the three statuses ``CONVERGED``, ``SMALL_REDUCTION`` and
# ``SMALL_STEP``; each of them means that no step reduces the sum of squares noticeably. No
# exception is raised, unless ``throw=True``. Three calls that do not converge, or whose result is
# not determined:


def report(title, result):
    errors = {name: f"{error:.3g}" for name, error in result.standard_errors().items()}
    print(f"{title}: {gdjax.Status(int(result.status)).name}, standard errors {errors}")


report("at most 3 steps", gdjax.least_squares(residual_fn, start, args=(volume,), max_steps=3))
missing = np.where(volume > 80, np.nan, volume)
report("a datum is NaN", gdjax.least_squares(residual_fn, start, args=(missing,)))
redundant = lambda p, y: model({"b1": p["a"] * p["b"], "b2": p["rate"]}, pressure) - y  # noqa: E731
three = {"a": 20.0, "b": 12.0, "rate": 5e-4}
report("only a b is determined", gdjax.least_squares(redundant, three, args=(volume,)))

# %%
# The last fit has converged: its curve is the best one. But it only determines the product
# :math:`ab`, so the standard errors of both factors are infinite, and that of the rate is not
# affected. SciPy's ``curve_fit`` sets all of them to infinity, or none, depending on its method.
#
# Bounds and wrong data
# ---------------------
#
# One datum is now wrong by 20 units. The loss ``"soft_l1"`` grows linearly, not quadratically, for
# residuals larger than ``f_scale``, which should be about the size of a good residual; here 0.2.

wrong = volume.copy()
wrong[4] += 20

plain = gdjax.least_squares(residual_fn, start, args=(wrong,))
robust = gdjax.least_squares(residual_fn, start, args=(wrong,), loss="soft_l1", f_scale=0.2)
for title, result in (("all data right", fit), ("squares", plain), ("soft_l1", robust)):
    error = result.standard_errors()["b1"]
    print(f"{title:15} b1 = {result.params['b1']:6.1f} ± {error:.1f}")

figure, ax = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
ax.plot(pressure, wrong, "o", color="black", markersize=4)
for label, result, style in (("squares", plain, "--"), ("soft_l1", robust, "-")):
    ax.plot(x[x < 900], model(result.params, x[x < 900]), style, label=label)
ax.set(xlabel="pressure", ylabel="volume", title="one wrong datum")
ax.legend()
plt.show()

# %%
# ``bounds=(lower, upper)`` takes numbers or trees like the parameters. The solution lies on the
# bound if the data would lead beyond it. As in SciPy, a covariance does not take bounds into
# account.

bounds = {"b1": 0.0, "b2": 0.0}, {"b1": 230.0, "b2": None}
bounded = gdjax.least_squares(residual_fn, start, args=(volume,), bounds=bounds)
print(
    f"{bounded.params['b1']}, {bounded.params['b2']:.4g}:", gdjax.Status(int(bounded.status)).name
)

# %%
# A thousand fits
# ---------------
#
# Are the standard errors right? Simulate data from the fitted curve with the estimated noise, fit
# each data set, and look at the distribution of the parameters (a parametric bootstrap). Again it
# is one program, here with the data as the argument that is mapped.

noise = jnp.sqrt(2 * fit.value / (volume.size - 2))
key = jax.random.key(0)
simulated = model(fit.params, pressure) + noise * jax.random.normal(key, (1000, volume.size))
fit_all = jax.vmap(lambda y: gdjax.least_squares(residual_fn, fit.params, args=(y,)))
many = jax.jit(fit_all)(simulated)
print(f"{int(many.converged.sum())} of 1000 converged")
for name in many.params:
    print(
        f"{name}: deviation of 1000 fits {many.params[name].std():.4g}, "
        f"standard error of one {errors[name]:.4g}"
    )

figure, ax = plt.subplots(figsize=(5.2, 4), layout="constrained")
ax.plot(many.params["b1"], 1e4 * many.params["b2"], ".", markersize=3, label="1000 simulated sets")
angle = np.linspace(0, 2 * np.pi, 100)
ellipse = 2 * np.linalg.cholesky(covariance) @ np.stack([np.cos(angle), np.sin(angle)])
ax.plot(fit.params["b1"] + ellipse[0], 1e4 * (fit.params["b2"] + ellipse[1]), label="covariance")
ax.set(xlabel="$b_1$", ylabel="$10^4\\, b_2$", title="two standard deviations")
ax.legend()
plt.show()

# %%
# The ellipse of the covariance, at two standard deviations, encloses most points. Its narrow shape
# is the correlation that was printed above.
#
# Further: :ref:`sphx_glr_generated_examples_curve_fit.py` counts how often a band contains the true
# curve, and for large problems the linear algebra is chosen by shape, see the guide
# :doc:`/guides/for-scientists`.
