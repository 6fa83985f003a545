"""The polar factor U V^T of a matrix U S V^T, by products alone (Newton-Schulz).

Jordan et al. (2024), https://kellerjordan.github.io/posts/muon (the quintic step);
Amsel et al. (2025), https://arxiv.org/abs/2505.16932 (Polar Express);
Zhang, Amsel, Chen & Dao (2026), "Gram Newton-Schulz" (the Gram form).
A step is Y <- a Y + (b A + c A^2) Y with A = Y Y^H; it takes each singular value s to
a s + b s^3 + c s^5 and leaves the singular vectors.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from gdjax.core.checks import (
    FINITE,
    as_float_leaves,
    check_choice,
    check_integer,
    check_range,
    checked,
)
from gdjax.core.explicit import automatically
from gdjax.core.kinds import is_array_tree, shown
from gdjax.core.numerics import abs_sq, cast, compute_dtype, safe_sqrt, scalar_dtype
from gdjax.core.types import DType, FloatDType, Number

Coefficients: TypeAlias = str | Array | np.ndarray | Sequence[Any]  # a name, (a, b, c), or a table
Preconditioning: TypeAlias = Literal["frobenius", "spectral", "schatten", "aol"]
PRECONDITIONINGS = get_args(Preconditioning)
Kernel: TypeAlias = Callable[[Array, ArrayLike, ArrayLike], Array]  # see `polar_kernel`

# Each set as published; its image of singular values in [1e-3, 1] is noted beside it.
_KELLER = [(3.4445, -4.7750, 2.0315)] * 5  # [0.470, 1.202], Jordan et al.
_YOU = [  # [0.475, 1.145], Jiacheng You (2025); the image of [1e-2, 1] is [0.978, 1.032]
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
]
_POLAR_EXPRESS5 = [  # [0.847, 1.141], as in modded-nanogpt, after division by 1.02 norms
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
]
_POLAR_EXPRESS = [  # 1 to within 1e-4 after 8 steps, Amsel et al. with a lower bound of 1e-3
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),
]


def _for_smaller(row: tuple[float, ...], s: float) -> tuple[float, ...]:
    """Return the coefficients that map s x to what `row` maps x to."""
    return row[0] / s, row[1] / s**3, row[2] / s**5


NAMED = {
    "standard": _KELLER,  # optax's name of it
    "keller": _KELLER,
    "you": _YOU,
    "dion": _YOU,
    "polar_express5": [_for_smaller(_POLAR_EXPRESS5[0], 1.02), *_POLAR_EXPRESS5[1:]],
    # 1% of safety against rounding in all but the last, as in the authors' code
    "polar_express": [*(_for_smaller(r, 1.01) for r in _POLAR_EXPRESS[:-1]), _POLAR_EXPRESS[-1]],
}


def ns_table(name: str, ns_coeffs: Coefficients, ns_steps: int | None = None) -> ArrayLike:
    """Return the coefficients of all steps, [k, 3], from a name, one triple or k of them.

    A name gives its first `ns_steps` rows, the last one repeated if necessary; a triple is
    repeated; of a table all rows are used. `name` is what the user called, for errors.
    """
    if ns_steps is not None:
        ns_steps = check_integer(f"{name}(ns_steps=...)", ns_steps)
    if isinstance(ns_coeffs, str):
        check_choice(f"{name}(ns_coeffs=...)", ns_coeffs, NAMED)
        rows = NAMED[ns_coeffs]
        steps = len(rows) if ns_steps is None else ns_steps
        return np.array((rows + [rows[-1]] * steps)[:steps])
    if not is_array_tree(ns_coeffs) or any(map(jnp.iscomplexobj, jax.tree.leaves(ns_coeffs))):
        raise TypeError(
            f"{name}(ns_coeffs=...) must be a name or real numbers, got {shown(ns_coeffs)}."
        )
    check_range(f"{name}(ns_coeffs=...)", ns_coeffs, FINITE)
    table = _array(ns_coeffs)
    if table.ndim not in (1, 2) or table.shape[-1] != 3 or not table.size:
        raise ValueError(
            f"{name}(ns_coeffs=...) must be of shape (3,) or (k, 3), got {table.shape}."
        )
    if table.ndim == 1:
        return jnp.broadcast_to(table, (5 if ns_steps is None else ns_steps, 3))
    return table


def _array(x: Any) -> Array:
    """Return nested sequences of numbers, also of traced ones, as an array."""
    if isinstance(x, (tuple, list)) and x:
        return jnp.stack([_array(one) for one in x])
    return jnp.asarray(x, scalar_dtype())


@checked()
def polar(
    x: ArrayLike,
    ns_coeffs: Coefficients = "polar_express",
    ns_steps: int | None = None,
    eps: Number = 1e-8,
    preconditioning: Preconditioning = "frobenius",
    *,
    form: Literal["direct", "gram"] | None = None,
    dtype: FloatDType = None,
) -> Array:
    r"""Return the polar factor of each matrix, as accurately as the coefficients allow.

    .. math::

       X = U S V^H \quad \longrightarrow \quad U V^H

    by steps :math:`X \leftarrow a X + (b A + c A^2)\, X` with :math:`A = X X^H`.

    Args:
      x: float or complex array [..., m, n]; the leading axes are mapped over.
      ns_coeffs: coefficients of the steps, which bring singular values above 1e-3 of the norm close
        to 1. By name: "keller" ("standard"), 5 steps, into [0.47, 1.2]; "you" ("dion"), 5 steps,
        into [0.475, 1.145], and those above 1e-2 to 1 within 0.03; "polar_express5", 5 steps, into
        [0.85, 1.14]; "polar_express", 8 steps, to 1 within 1e-4.
        Or (a, b, c) for every step, or a table of k such rows.
      ns_steps: the number of steps; None is as many as the set has, 5 for one triple.
      eps: added to the norm >= 0, so that a zero matrix gives zero.
      preconditioning: what makes the largest singular value at most 1: "frobenius" divides by the
        norm; "schatten" by :math:`\lVert X X^H \rVert^{1/2}`, "aol" row by row with the sums of the
        magnitudes in :math:`X X^H` (the result deviates a little from :math:`U V^H`); both bring
        small singular values closer to 1 at the cost of one more product; "spectral" by the exact
        norm, at the cost of an SVD. All are scale free.
      form: "direct" or "gram"; None is the one with fewer operations. With m <= n, the direct form
        costs :math:`4 m^2 n + 2 m^3` per step; the Gram form, which iterates on :math:`X X^H`,
        costs :math:`8 m^2 n + 28 m^3` for 5 steps together. In float32 on a CPU these cost
        :math:`4 m^2 n + 34 m^3`, as it does not start again from :math:`X` in between. Rounding
        then changes the result by up to 1e-3 of its norm, with "polar_express5" 1e-2, if most
        singular values are below 1e-2 of the largest.
      dtype: of the products; None is that of x, at least float32. On accelerators bfloat16 is
        several times faster and accurate enough for Muon; it always uses the direct form, as the
        Gram form depends on small eigenvalues, which bfloat16 does not resolve (float16 does).
        Products in float32 follow JAX's `default_matmul_precision`, which on GPUs may be TF32.

    Returns:
      An array like x. Zero matrices give zero; derivatives are finite.

    Raises:
      ValueError: for unknown names and wrong shapes.

    Example:
      >>> import jax.numpy as jnp
      >>> print(polar(jnp.array([[0.0, 3.0, 0.0], [-0.2, 0.0, 0.0]])).round(3))
      [[ 0.  1.  0.]
       [-1.  0.  0.]]
    """
    check_choice("polar(preconditioning=...)", preconditioning, PRECONDITIONINGS)
    check_choice("polar(form=...)", form, (None, "direct", "gram"))
    ((given,), _) = as_float_leaves("polar(x=...)", jnp.asarray(x))
    if given.ndim < 2:
        raise ValueError(f"polar(x=...) must have two axes or more, got shape {given.shape}.")
    if not given.size:
        return given
    wide = cast(given if given.shape[-2] <= given.shape[-1] else given.mT, compute_dtype(given))
    kernel = polar_kernel(preconditioning, form, dtype)
    for _ in range(given.ndim - 2):
        kernel = jax.vmap(kernel, (0, None, None))
    out = automatically(kernel, wide, ns_table("polar", ns_coeffs, ns_steps), eps)
    return cast(out if wide.shape == given.shape else out.mT, given.dtype)


@functools.lru_cache(maxsize=256)
def polar_kernel(preconditioning: str, form: str | None, dtype: FloatDType) -> Kernel:
    """Return the function (x [m, n] with m <= n, table [k, 3], eps) -> polar factor; cached."""

    def kernel(x: Array, table: ArrayLike, eps: ArrayLike) -> Array:
        m, n = x.shape
        y = _preconditioned(x, eps, preconditioning)
        table = jnp.asarray(table, y.real.dtype)
        used = y.astype(dtype or y.dtype) if not jnp.iscomplexobj(y) else y
        gram = form == "gram"
        if form is None:
            gram = used.dtype != jnp.bfloat16 and _gram_is_cheaper(m, n, len(table), used.dtype)
        return (_gram if gram else _direct)(used, table.astype(used.real.dtype)).astype(x.dtype)

    return kernel


def _preconditioned(x: Array, eps: ArrayLike, preconditioning: str) -> Array:
    x, norm, unit = _scaled_norm(x)
    norm = norm + jnp.asarray(eps, norm.dtype) * unit
    y = x / jnp.where(norm > 0, norm, 1)
    if preconditioning == "frobenius":
        return y
    if preconditioning == "spectral":  # the scale is a constant for differentiation, unlike the SVD
        norm = jnp.linalg.norm(jax.lax.stop_gradient(y), ord=2)
        return y / jnp.where(norm > 0, norm, 1)
    a = y @ y.conj().T
    if preconditioning == "schatten":
        size = safe_sqrt(jnp.sum(abs_sq(a)))
    else:
        size = jnp.sum(safe_sqrt(abs_sq(a)), -1, keepdims=True)
    return y / jnp.where(size > 0, safe_sqrt(size), 1)


def _scaled_norm(x: Array) -> tuple[Array, Array, Array]:
    """Return unit * x, its norm, and the unit: a power of two, so that no square overflows.

    The three sums need one pass over x (Blue 1978, https://doi.org/10.1145/355769.355771).
    """
    info = jnp.finfo(x.real.dtype)
    big = 2.0 ** (info.maxexp // 2 + 10)
    plain, down, up = (jnp.sum(abs_sq(x * unit)) for unit in (1, 1 / big, big))
    low = (plain < info.tiny / info.eps) & (up > 0)  # derivatives at 0 would be as large as units
    unit = jnp.where(plain == jnp.inf, 1 / big, jnp.where(low, big, 1)).astype(info.dtype)
    total = jnp.where(plain == jnp.inf, down, jnp.where(low, up, plain))
    return x * unit, safe_sqrt(total), unit


def _segments(steps: int, dtype: DType) -> list[int]:
    """Return the numbers of steps between restarts of the Gram form.

    They are 2, then 3 each time. Coefficients of at most five steps need no restart where products
    are in float32, not less (TF32): an odd polynomial of degree d that is bounded by 1 has at most
    the slope d at 0, so four steps multiply what rounding adds to small eigenvalues by at most
    5^8, which is 2e-2 of the largest.
    """
    if steps <= 5 and dtype in (jnp.float32, jnp.complex64) and jax.default_backend() == "cpu":
        return [steps]
    rest = steps - 2
    return [steps] if rest <= 0 else [2, *[3] * (rest // 3), *([rest % 3] if rest % 3 else [])]


def _gram_is_cheaper(m: int, n: int, steps: int, dtype: DType) -> bool:
    restarts = len(_segments(steps, dtype))
    gram = 4 * restarts * m * m * n + (8 * steps - 6 * restarts) * m**3
    return gram < steps * (4 * m * m * n + 2 * m**3)


def _direct(y: Array, table: Array) -> Array:
    def step(i, y):
        a, b, c = table[i]
        gram = y @ y.conj().T
        return a * y + (b * gram + c * (gram @ gram)) @ y

    return jax.lax.fori_loop(0, len(table), step, y)


def _gram(y: Array, table: Array) -> Array:
    # Rounding makes small eigenvalues of R = Y Y^H negative, and each step amplifies them. If R is
    # computed again from Y in time, they stay small.
    start = 0
    for steps in _segments(len(table), y.dtype):
        y = _gram_steps(y, table[start : start + steps])
        start += steps
    return y


def _gram_steps(y: Array, table: Array) -> Array:
    one = jnp.eye(len(y), dtype=y.dtype)
    gram = y @ y.conj().T

    def factor(i, gram):  # P = a + b R + c R^2, so that Y <- P Y and R <- P R P
        a, b, c = table[i]
        return a * one + b * gram + c * (gram @ gram)

    def step(i, carry):
        total, gram, p = carry
        gram = p @ gram @ p
        p = factor(i, gram)
        return p @ total, gram, p

    p = factor(0, gram)
    total, *_ = jax.lax.fori_loop(1, len(table), step, (p, gram, p))
    return total @ y
