"""GPJax: the hyperparameters of a Gaussian process, by Adam and by L-BFGS."""

import gpjax as gpx
import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp  # noqa: E402
import optax  # noqa: E402

RTOL = 1e-6


def losses():
    x = jnp.linspace(0.0, 1.0, 20)[:, None]
    data = gpx.Dataset(X=x, y=jnp.sin(6.0 * x))
    prior = gpx.gps.Prior(mean_function=gpx.mean_functions.Constant(), kernel=gpx.kernels.RBF())
    posterior = prior * gpx.likelihoods.Gaussian()

    def objective(model, data):
        return -gpx.objectives.conjugate_mll(model, data)

    _, history = gpx.fit(
        model=posterior,
        objective=objective,
        train_data=data,
        optim=optax.adam(0.05),
        num_iters=200,
        verbose=False,
    )
    _, by_lbfgs = gpx.fit_lbfgs(model=posterior, objective=objective, train_data=data, max_iters=20)
    return [*history, *jnp.atleast_1d(jnp.asarray(by_lbfgs))]
