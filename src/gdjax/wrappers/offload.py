"""Keep the state of an optimizer in the memory of the host.

Ren et al. (2021), "ZeRO-Offload", https://arxiv.org/abs/2101.06840, keeps the state on the host and
computes the step there; here the device computes it, from copies that last for the step.
"""

from __future__ import annotations

import jax

from gdjax.core.base import Optimizer, is_state
from gdjax.core.chain import with_extra_args_support
from gdjax.core.checks import COUNT, strict
from gdjax.core.codecs import HOST, Codec, Encoded, is_encoded
from gdjax.core.host import check_host_memory, to_host
from gdjax.core.hyper import Placeholder
from gdjax.core.numerics import is_inexact
from gdjax.core.types import OptState, Pair, Params, PyTree
from gdjax.wrappers.slot_dtypes import changed_slots


def _slot(min_size: int, tree: PyTree) -> PyTree:
    def leaf(x):
        if is_state(x) or is_encoded(x) or x.size < min_size or not is_inexact(x.dtype):
            return x
        return Encoded(to_host(x), None, None, Codec(HOST, x.dtype, ()))

    return jax.tree.map(leaf, tree, is_leaf=lambda x: is_state(x) or is_encoded(x))


@strict(min_size=COUNT)
def offload_to_host(optimizer: Pair, *, min_size: int = 4096) -> Optimizer:
    """Keep the slots of an optimizer in the host's memory; each step copies them to the device.

    The step is that of the optimizer, bit for bit: in a compiled step XLA copies each array to the
    device, where a rule reads it, and back. Numbers, counts, random keys and small arrays stay on
    the device. Slots on the host are nodes, as those of `with_slot_dtypes`;
    `gdjax.decoded(state)` shows them, and functions of `jax.numpy` take a single slot as its array.
    They keep the shardings of the parameters. Checkpoints hold the same numbers as without the
    wrapper.

    A step moves the state twice over the bus, 16 bytes for each element of Adam: at 50 GB/s a third
    of a second for a billion parameters. So it is for large batches, or for `accumulate` around
    it, where steps are rare. `with_slot_dtypes` around this wrapper's optimizer, such as
    `offload_to_host(with_slot_dtypes(adam(rate), mu="bfloat16"))`, halves what is moved; slots in
    codes stay on the device.

    An update leaves each slot where it finds it. What reads a state from a file may put it onto the
    device (Orbax and `fit(directory=...)` do not, pickle does); back onto the host it goes by
    `jax.device_put(state, jax.tree.map(lambda x: x.sharding, optimizer.init(params)))`. The lanes
    of a sweep stay on the device.

    A CPU, whose memory is the host's, copies as well, in versions of JAX with memory spaces, and
    nothing is saved. It was tested on CPUs only: how well a GPU overlaps copies with the step, and
    how much of the state is on the device at once, was not measured. Three things JAX 0.12 refuses
    for arrays on the host: `vmap` over guards and accumulation, derivatives through a scan, and a
    program to which the state is donated without the parameters, which ends the process: donate
    both, or neither. On a single device the first two steps are compiled, since arrays on the host
    are committed to a device and fresh numbers and parameters are not.

    Args:
      optimizer: an `(init, update)` pair made of gdjax's optimizers.
      min_size: arrays of fewer elements stay on the device, >= 0.

    Returns:
      An `Optimizer` with the same `update`. `init` makes the state on the device before it moves
      it; `jax.jit(optimizer.init)(params)` leaves this to XLA.
      State: that of `optimizer`, on the host.

    Raises:
      RuntimeError: at `init`, if this version of JAX has no memory spaces and the device is no CPU.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.offload_to_host(gdjax.adam(0.1))
      >>> params = {"w": jnp.zeros((64, 512)), "b": jnp.zeros(512)}
      >>> state = opt.init(params)
      >>> print(state.mu["w"], state.mu["b"].shape)
      Encoded(host[64, 512]) (512,)
      >>> updates, state = opt.update(params, state, params)
    """
    init, update = with_extra_args_support(optimizer)

    def init_on_host(params: Params) -> OptState:
        check_host_memory("offload_to_host")
        state = init(params)
        if isinstance(params, Placeholder):  # as `tree.map_params` has it
            return state
        return changed_slots(state, None, lambda _, tree: _slot(min_size, tree))

    return Optimizer(init_on_host, update)
