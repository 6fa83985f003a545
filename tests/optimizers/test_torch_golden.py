"""Where torch.optim has the optimizer, some setting of gdjax gives its trajectories in float64."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest
from x64 import enable_x64

import gdjax

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "torch.npz")
KEPT = (1, 2, 8, 14)  # as in golden/make_torch.py, where the runs are

SAME = {
    "sgd": lambda: gdjax.sgd(0.05, momentum=0.9, nesterov=True),
    "adam": lambda: gdjax.adam(0.05, 0.8, 0.95),
    "adamw": lambda: gdjax.adamw(0.05, weight_decay=0.1),
    "nadam": lambda: gdjax.nadam(0.05, 0.8, 0.95, formula="torch", momentum_decay=0.1),
    "nadamw": lambda: gdjax.nadamw(0.05, formula="torch", weight_decay=0.1),
    "amsgrad": lambda: gdjax.amsgrad(0.05, 0.8, 0.9),
    "adamax": lambda: gdjax.adamax(0.05, 0.8, 0.9, 1e-3),
    "rmsprop": lambda: gdjax.rmsprop(0.02, 0.9, 1e-3, eps_in_sqrt=False),
    "rmsprop_centered": lambda: gdjax.chain(
        gdjax.scale_by_stddev(0.9, 1e-3, eps_in_sqrt=False),
        gdjax.trace(0.7),
        gdjax.scale_by_learning_rate(0.02),
    ),
    "adagrad": lambda: gdjax.adagrad(
        lambda count: 0.3 / (1 + 0.1 * count), 0.2, 1e-10, eps_in_sqrt=False
    ),
    "adadelta": lambda: gdjax.adadelta(0.7, 0.8, 1e-3, 0.1),
    "rprop": lambda: gdjax.rprop(0.03, 0.6, 1.3, 0.01, 0.08),
    "radam": lambda: gdjax.radam(0.05, 0.8, 0.9, 1e-30),  # torch adds eps before bias correction
    "adafactor": lambda: gdjax.adafactor(
        lambda count: jnp.minimum(0.5, (count + 1) ** -0.5), min_dim_size_to_factor=0
    ),
}
OTHER = {"adafactor": ["kernel"]}  # torch factors the last two axes, gdjax the two largest


@pytest.mark.parametrize("name", sorted(SAME))
def test_arrives_where_torch_does(name):
    with enable_x64():
        opt = SAME[name]()
        params = jax.tree.map(jnp.asarray, problems.parameters())
        state = opt.init(params)
        for t in range(1, max(KEPT) + 1):
            grads = problems.gradients(jax.tree.map(np.asarray, params), t)
            updates, state = opt.update(jax.tree.map(jnp.asarray, grads), state, params)
            params = gdjax.apply_updates(params, updates)
            if t not in KEPT:
                continue
            row = GOLDEN[name][KEPT.index(t)]
            for key, x in problems.parameters().items():
                theirs, row = row[: x.size].reshape(x.shape), row[x.size :]
                if key not in OTHER.get(name, []):
                    np.testing.assert_allclose(
                        params[key], theirs, rtol=1e-11, atol=1e-11, err_msg=f"{key}, step {t}"
                    )
