"""FlowJAX: a normalizing flow, by its own training loop and default optimizer."""

import jax
import jax.numpy as jnp
import optax
from flowjax.distributions import Normal
from flowjax.flows import coupling_flow
from flowjax.train import fit_to_data

RTOL = 1e-8


def losses():
    x = jax.random.normal(jax.random.key(1), (64, 2)) * jnp.array([1.0, 0.3]) + 1.0
    flow = coupling_flow(
        jax.random.key(0), base_dist=Normal(jnp.zeros(2)), flow_layers=2, nn_width=8
    )
    found = []
    for how in ({"learning_rate": 1e-3}, {"optimizer": optax.adamw(1e-3)}):
        _, history = fit_to_data(
            jax.random.key(2),
            flow,
            x,
            batch_size=28,
            max_epochs=50,
            max_patience=50,
            show_progress=False,
            **how,
        )
        found += [*history["train"], *history["val"]]
    return found
