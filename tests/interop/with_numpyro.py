"""NumPyro: stochastic variational inference of a logistic regression."""

import jax
import jax.numpy as jnp
import numpyro
import optax
from numpyro import distributions as dist
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

RTOL = 1e-6


def losses():
    x = jax.random.normal(jax.random.key(1), (64, 3))
    y = (x @ jnp.array([1.0, -2.0, 0.5]) > 0).astype(float)

    def model(x, y):
        w = numpyro.sample("w", dist.Normal(jnp.zeros(3), 1.0).to_event(1))
        numpyro.sample("y", dist.Bernoulli(logits=x @ w), obs=y)

    tx = optax.chain(optax.clip(10.0), optax.adam(optax.exponential_decay(0.05, 100, 0.5)))
    svi = SVI(model, AutoNormal(model), tx, Trace_ELBO())
    return svi.run(jax.random.key(0), 200, x, y, progress_bar=False).losses
