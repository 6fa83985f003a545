"""Muon: a step along the polar factor of each matrix's momentum; Adam for other parameters.

Jordan et al. (2024), https://kellerjordan.github.io/posts/muon; Liu et al. (2025),
https://arxiv.org/abs/2502.16982 (`consistent_rms`); Bernstein & Newhouse (2024),
https://arxiv.org/abs/2409.20325 (`adaptive`, `scale="spectral"`).
Post -> here: B -> mu, mu -> beta, O -> the polar factor. Deviations: the scale of a convolution
comes from the flattened kernel's fan_in and fan_out, not from its last two sides; with
`adaptive`, each matrix has its own norm, where optax takes that of a whole stack.
"""

from __future__ import annotations

import functools

import jax.numpy as jnp

from gdjax.core.base import Optimizer
from gdjax.core.checks import checked
from gdjax.core.dealing import Devices
from gdjax.core.trees import product
from gdjax.core.types import FloatDType, Hyperparam, Mask
from gdjax.linalg.matrices import DimensionNumbers, MatrixSpec
from gdjax.linalg.polar import Coefficients, Kernel, Preconditioning
from gdjax.optimizers.shared.orthogonal import (
    RANGES,
    Nesterov,
    Scale,
    only_momentum,
    or_adam,
    orthogonalized,
    scaled,
)

MuonDimensionNumbers = DimensionNumbers


def _muon(o, slots, count, *, consistent_rms, scale):
    return scaled(o, slots.axes, scale, consistent_rms), slots


def _scale_by_muon(o, slots, param, count, **rest):
    return o, slots


@functools.lru_cache(maxsize=64)
def _times_nuclear_norm(kernel: Kernel) -> Kernel:
    def times(x, table, eps):
        o = kernel(x, table, eps)
        return jnp.sum(product(x, o)) * o

    return times


@checked(**RANGES)
def scale_by_muon(
    ns_coeffs: Coefficients = (3.4445, -4.7750, 2.0315),
    ns_steps: int = 5,
    beta: Hyperparam = 0.95,
    eps: Hyperparam = 1e-8,
    mu_dtype: FloatDType = None,
    *,
    nesterov: Nesterov = True,
    adaptive: bool = False,
    preconditioning: Preconditioning = "frobenius",
    weight_dimension_numbers: MatrixSpec = None,
    ns_dtype: FloatDType = None,
    mesh: Devices = None,
) -> Optimizer:
    r"""Replace the gradient of each matrix by the polar factor of its momentum, and no other.

    The arguments are those of `muon`, and the direction is :math:`O_t` there, which is not scaled
    by shape. optax takes matrices only.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.scale_by_muon("polar_express", 8)
      >>> grads = {"w": jnp.diag(jnp.array([3.0, -0.5])), "b": jnp.array([3.0, -0.5])}
      >>> updates, state = opt.update(grads, opt.init(grads))
      >>> print(updates["w"].round(3), updates["b"])
      [[ 1.  0.]
       [ 0. -1.]] [ 3.  -0.5]
    """
    return orthogonalized(
        _scale_by_muon,
        locals(),
        name="scale_by_muon",
        slots=functools.partial(only_momentum, mu_dtype=mu_dtype),
        around=_times_nuclear_norm if adaptive else None,
        nesterov=nesterov,
    )


@checked(**RANGES)
def muon(
    learning_rate: Hyperparam,
    ns_coeffs: Coefficients = (3.4445, -4.7750, 2.0315),
    ns_steps: int = 5,
    beta: Hyperparam = 0.95,
    eps: Hyperparam = 1e-8,
    weight_decay: Hyperparam | None = 0.0,
    weight_decay_mask: Mask = None,
    mu_dtype: FloatDType = None,
    *,
    nesterov: Nesterov = True,
    adaptive: bool = False,
    preconditioning: Preconditioning = "frobenius",
    adam_b1: Hyperparam = 0.9,
    adam_b2: Hyperparam = 0.999,
    adam_eps_root: Hyperparam = 0.0,
    adam_weight_decay: Hyperparam | None = 0.0,
    adam_learning_rate: Hyperparam | None = None,
    muon_weight_dimension_numbers: MatrixSpec = None,
    consistent_rms: Hyperparam | None = None,
    scale: Scale | None = "width",
    ns_dtype: FloatDType = None,
    mesh: Devices = None,
) -> Optimizer:
    r"""Descend along the polar factor of each matrix's momentum, and along Adam for the rest.

    Good for: hidden matrices of transformers and convolutions.

    Evidence: independent. For language models it is among the fastest of eleven tuned optimizers,
    1.4 to 1.1 times as fast as AdamW in steps (Wen et al. 2025, arXiv 2509.02046; also Semenov et
    al. 2025, arXiv 2509.01440); for a diffusion model its final loss is 18 % lower (Schaipp 2025,
    arXiv 2510.19376). On nine workloads with one configuration it needs about as many steps as
    NAdamW and more time (AlgoPerf, July 2026, unofficial,
    https://github.com/mlcommons/submissions_algorithms).

    .. math::

       m_t &= \beta m_{t-1} + (1 - \beta) g_t \\
       O_t &= \operatorname{polar}(\beta m_t + (1 - \beta) g_t) \\
       x_t &= x_{t-1} - \eta_t (c O_t + \lambda x_{t-1})

    The polar factor of a matrix :math:`U \Sigma V^\top` is :math:`U V^\top`, approximated as by
    `polar`; :math:`c` is the ``scale``.

    Use it for hidden matrices. Embeddings, the output layer, norms and biases go to Adam:
    `muon_weight_dimension_numbers=gdjax.by_path({r".*(embed|head).*|.*bias": None, r".*":
    gdjax.MuonDimensionNumbers()})`. A matrix is an array (fan_in, fan_out), as JAX users store it.

    `preset` has the numbers of Jordan's code, Moonlight, torch and Dion:
    `muon(**preset("muon", "moonlight"))`.

    Differences: the authors' code and torch have the same equations; torch's defaults are a
    learning rate of 1e-3 and :math:`\lambda = 0.1`. optax corrects the bias of the step ahead, as
    with `nesterov="corrected"`, so its first steps have other directions. Of a table of
    coefficients all rows are used; optax takes the last `ns_steps`.

    Args:
      learning_rate: :math:`\eta_t`, step size >= 0: a number, schedule or prefix tree, like all
        numbers except `ns_coeffs`. 0.02 is usual with `scale="width"`, AdamW's with
        `consistent_rms=0.2`.
      ns_coeffs: coefficients of the polar kernel, by number or name, see `gdjax.polar`; kept in the
        state. The default is "keller".
      ns_steps: steps of the kernel, an integer >= 1; a table has its own.
      beta: :math:`\beta`, decay of the momentum, in [0, 1).
      eps: added to each matrix's norm, and Adam's, >= 0.
      weight_decay: :math:`\lambda`, strength of the decoupled decay of matrices, >= 0; None for no
        such term.
      weight_decay_mask: which leaves decay: a prefix tree of booleans or a function giving one.
      mu_dtype: dtype of the momentum and of Adam's mean; None is float32 at least.
      nesterov: True looks one step ahead as above; "corrected" does so with bias correction; False
        takes the polar factor of :math:`m_t`. Adam is NAdam unless False, as in optax.
      adaptive: whether each :math:`O_t` is multiplied by the nuclear norm of the matrix whose polar
        factor it is.
      preconditioning: how the kernel scales its input, see `gdjax.polar`.
      adam_b1: decay of Adam's mean, in [0, 1).
      adam_b2: decay of Adam's mean square, in [0, 1).
      adam_eps_root: added under Adam's root, >= 0.
      adam_weight_decay: strength of the decay of other parameters, >= 0, or None.
      adam_learning_rate: step size of other parameters, >= 0; None is `learning_rate`.
      muon_weight_dimension_numbers: which leaves are matrices, and how: `MuonDimensionNumbers` for
        all of two and more dimensions; a prefix tree or `by_path` of them and None (Adam); or a
        function of the parameters giving one. None takes the leaves of two dimensions. Axes not
        named are a batch (stacked layers, experts, heads); a convolution is
        `MuonDimensionNumbers((0, 1, 2), 3)`; `splits=3` cuts a fused query, key and value.
      consistent_rms: if given, > 0: :math:`c` is this times :math:`\sqrt{\max(n_{in}, n_{out})}`
        for (fan_in, fan_out), so that it is the root mean square of a step for every shape; 0.2 is
        AdamW's.
      scale: :math:`c` without `consistent_rms`. "width": :math:`\sqrt{\max(1, n_{out} / n_{in})}`,
        as Jordan, optax and torch; "spectral": :math:`\sqrt{n_{out} / n_{in}}`, as Bernstein and
        Dion; None: 1.
      ns_dtype: dtype of the kernel's products, see `gdjax.polar`: jnp.bfloat16 on accelerators.
      mesh: devices to deal the matrices over: a `jax.sharding.Mesh`, or (mesh, names of axes). Each
        device then computes the polar factors of equally many whole matrices, at the cost of two
        all-to-alls; the state does not change. None: over the axes of an explicit mesh that shard
        the arrays; on other meshes as XLA shards the products. See
        :doc:`/guides/matrices-over-a-mesh`.

    Returns:
      An `Optimizer` whose `update` needs the parameters, unless both decays are None.
      State: 4 bytes per element of a matrix, :math:`m_t` (`mu`), 8 of the rest (`mu`, `nu`).

    Raises:
      ValueError: if a concrete number is out of range or a name is unknown; at `init`, if a
        parameter lacks an axis.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params = {"w": jnp.zeros((2, 2)), "b": jnp.zeros(2)}
      >>> opt = gdjax.muon(0.1, "polar_express", 8)
      >>> grads = {"w": jnp.diag(jnp.array([3.0, -0.5])), "b": jnp.array([3.0, -0.5])}
      >>> updates, state = opt.update(grads, opt.init(params), params)
      >>> print(updates["w"].round(3))  # of length 0.1 in all directions
      [[-0.1 -0. ]
       [-0.   0.1]]

    References:
      Jordan et al. (2024), "Muon: an optimizer for hidden layers in neural networks".
      Liu et al. (2025), "Muon is scalable for LLM training".
    """
    return orthogonalized(
        or_adam(_muon),
        locals(),
        name="muon",
        slots=functools.partial(only_momentum, mu_dtype=mu_dtype, adam=True),
        around=_times_nuclear_norm if adaptive else None,
        nesterov=nesterov,
        scale=scale,
    )
