"""Matrix methods over a mesh: FLOPs and collectives of one step, with and without `mesh=`.

    python bench/dealing.py [METHOD ...]

Eight devices of a CPU, eight matrices of 64 x 64 in float32 ("stack": one array [8, 64, 64]), read
from the compiled program. FLOPs are those of matrix products on one device, over an eighth of those
of a single device that does all; bytes are those of the outputs of all collectives, over those of
the parameters.
"""

import inspect
import os
import sys
from pathlib import Path

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import hlo  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jax.sharding import Mesh, NamedSharding  # noqa: E402
from jax.sharding import PartitionSpec as P  # noqa: E402

import gdjax  # noqa: E402

SIDE = 64
MUONS = ("muon", "normuon", "adamuon", "scion", "dion", "dion2")
KRONECKER = ("soap", "kl_shampoo", "kl_soap", "shampoo", "psgd_kron")
SPECS = {"rows": P("d"), "columns": P(None, "d"), "replicated": P()}
STACKS = {"stack, layers": P("d"), "stack, rows": P(None, "d"), "stack, replicated": P()}


def optimizer(method, stack, mesh):
    """Return the optimizer, and `mesh` to it if it is not None."""
    factory, more = getattr(gdjax, method), {} if mesh is None else {"mesh": mesh}
    if stack:
        names = inspect.signature(factory).parameters
        (key,) = (name for name in names if name.endswith("weight_dimension_numbers"))
        more[key] = gdjax.MuonDimensionNumbers(1, 2)
    if method == "shampoo":
        more["merge_dims"] = False
    return factory(0.02, **more)


def step_costs(opt, params):
    """Return the costs of a compiled step, with the state sharded as it stays."""

    def step(params, state, grads):
        updates, state = opt.update(grads, state, params)
        return gdjax.apply_updates(params, updates), state

    jitted = jax.jit(step)
    params, state = jitted(params, opt.init(params), params)
    return hlo.costs(jitted.lower(params, state, params).compile())


def main(methods):
    """Print a row for each method and sharding."""
    mesh = Mesh(np.array(jax.devices()), "d")
    print("| method | sharding | FLOPs | bytes | collectives | FLOPs | bytes | collectives |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for method in methods:
        for name, spec in {**SPECS, **(STACKS if method in MUONS else {})}.items():
            stack = name in STACKS
            shapes = [(8, SIDE, SIDE)] if stack else [(SIDE, SIDE)] * 8
            rng = np.random.default_rng(0)
            params = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]
            ideal = step_costs(optimizer(method, stack, None), params).flops / 8
            size = sum(x.nbytes for x in params)
            params = jax.device_put(params, NamedSharding(mesh, spec))
            cells = []
            for given in (None, mesh):
                used = step_costs(optimizer(method, stack, given), params)
                cells += [f"{used.flops / ideal:.2f}", f"{used.bytes / size:.2f}", str(used.count)]
            print(f"| {method} | {name} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or [*MUONS, *KRONECKER])
