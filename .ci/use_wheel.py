"""Use gdjax as it was installed from a wheel: see .ci/wheel."""

import importlib.metadata
import platform

import jax
import jax.numpy as jnp
import numpy as np

import gdjax
import gdjax.compat.optax as optax

# It is the installed package, with its types and without tests.
installed = importlib.metadata.files("gdjax")
assert "site-packages" in gdjax.__file__, gdjax.__file__
assert importlib.metadata.version("gdjax") == gdjax.__version__
names = {str(file) for file in installed}
assert {"gdjax/py.typed", "gdjax/__init__.pyi"} <= names
assert {name.split("/")[0] for name in names if "dist-info" not in name} == {"gdjax"}

for name in gdjax.__all__:
    getattr(gdjax, name)


def loss_fn(params, batch):
    inputs, targets = batch
    return jnp.mean((inputs @ params - targets) ** 2)


inputs = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
data = inputs, inputs @ np.array([1.0, -2.0, 3.0], np.float32)
run = gdjax.fit(loss_fn, jnp.zeros(3), gdjax.adam(0.1), data, steps=200, batch_size=16)
np.testing.assert_allclose(run.params, [1, -2, 3], atol=0.05)

solution = gdjax.minimize(lambda x: (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2, jnp.zeros(2))
np.testing.assert_allclose(solution.params, [1, 1], atol=1e-3)

optimizer = optax.sgd(0.1)
updates, _ = optimizer.update(jnp.ones(2), optimizer.init(jnp.zeros(2)))
np.testing.assert_allclose(updates, [-0.1, -0.1], rtol=1e-6)

versions = f"Python {platform.python_version()}, jax {jax.__version__}"
print(f"gdjax {gdjax.__version__} from a wheel: {versions}: {len(gdjax.__all__)} names")
