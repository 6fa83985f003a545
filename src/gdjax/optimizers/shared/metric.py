"""The metric of a model's outputs, F = J^T H J, as rows A with F = A^T A: Jacobians and products.

For sample i with outputs f_i, J_i = df_i / dparams, and H_i the Hessian of the loss in f_i:

    F = sum over i of w_i J_i^T H_i J_i,    A_i = sqrt(w_i) B_i^T J_i,    H_i = B_i B_i^T

with weights w_i = 1 / N unless they are given. "squared": H = I, of 0.5 |f - y|^2, a Gaussian of
variance 1. "softmax": H = diag(p) - p p^T and B = diag(sqrt(p)) (I - sqrt(p) sqrt(p)^T), of the
cross-entropy; B B^T = H, since sqrt(p) is a unit vector. F is then Fisher's metric as well as the
Gauss-Newton matrix. Centered, J_i is J_i minus its mean over the samples.

Parameters and outputs are real vectors: a complex number is its real part and its imaginary part.
For a real function that is F = Re(J^H H J) in all parameters, for a holomorphic one the complex F.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gdjax.core.numerics import cast, upcast
from gdjax.core.types import Params, PyTree
from gdjax.core.vectors import as_tree, as_vector
from gdjax.linalg.axes import matmul

LIKELIHOODS = ("squared", "softmax")


class Form(NamedTuple):
    """Which metric; hashable."""

    likelihood: str
    centered: bool


class Metric(NamedTuple):
    """A of F = A^T A, k x n, as products, and as a matrix unless it is matrix-free."""

    push: Callable[[Array], Array]  # v -> A v
    pull: Callable[[Array], Array]  # w -> A^T w
    rows: Array | None  # A
    size: int  # k


# --- real numbers ---------------------------------------------------------------------------------


def in_rows(name: str, outputs: PyTree, samples: int | None = None) -> list[Array]:
    """Return each output as a real matrix, a row for each sample; complex ones as [real, imag].

    Args:
      name: what to call it in errors.
      outputs: a tree of arrays with a leading axis of samples.
      samples: the length of that axis, where it is known.
    """
    found = []
    for x in map(jnp.asarray, jax.tree.leaves(outputs)):
        if not x.ndim or samples is not None and x.shape[0] != samples:
            wanted = "" if samples is None else f" of length {samples}"
            raise ValueError(
                f"{name} must have a leading axis of samples{wanted}, got an array of shape "
                f"{x.shape}."
            )
        parts = [x.real, x.imag] if jnp.iscomplexobj(x) else [x]
        size = math.prod(x.shape[1:])
        found.append(jnp.concatenate([p.reshape(x.shape[0], size) for p in parts], axis=1))
    return found


def _split(vector: Array, like: Sequence[Array]) -> list[Array]:
    """Return the parts of a vector of all outputs, or of rows of a matrix, shaped like these."""
    parts, at = [], 0
    for x in like:
        parts.append(vector[at : at + x.size].reshape(*x.shape, *vector.shape[1:]))
        at += x.size
    return parts


# --- Jacobians: (N, c, n) for each output --------------------------------------------------------


def of_samples(
    name: str, function: Callable[[Params, Any], PyTree], params: Params, batch: Any
) -> tuple[list[Array], list[Array], list[int]]:
    """Return outputs, Jacobians and numbers of classes of a function of (params, batch).

    Each sample is a batch of one: a Jacobian costs as much as a gradient for each output.
    """
    lengths = {jnp.shape(x)[:1] for x in jax.tree.leaves(batch)}
    if len(lengths) != 1 or () in lengths:
        raise ValueError(
            f"{name}: all arrays of the batch must have one leading axis of samples, got shapes "
            f"{[jnp.shape(x) for x in jax.tree.leaves(batch)]}."
        )
    x = as_vector(params)
    classes: list[int] = []
    shapes: list[Array] = []

    def one(sample):
        def f(x):
            out = function(as_tree(x, params), jax.tree.map(lambda s: s[None], sample))
            parts = in_rows(f"{name}: the output of a batch of one sample", out, 1)
            classes[:] = [jnp.shape(y)[-1] for y in jax.tree.leaves(out)]
            shapes[:] = parts
            return jnp.concatenate([cast(p[0], x.dtype) for p in parts])

        out, pull = jax.vjp(f, x)
        if out.size > x.size:
            return out, jax.jacfwd(f)(x)
        return out, jax.vmap(lambda w: pull(w)[0])(jnp.eye(out.size, dtype=out.dtype))

    out, jac = jax.vmap(one)(batch)
    ends, at = [], 0
    for part in shapes:
        ends.append(slice(at, at + part.shape[1]))
        at += part.shape[1]
    return [out[:, e] for e in ends], [jac[:, e] for e in ends], classes


def of_function(
    name: str, function: Callable[[Params], PyTree], params: Params
) -> tuple[Array, Callable[[Array], Array], list[Array], list[int]]:
    """Return the parameters as a vector, v -> J v, outputs and numbers of classes.

    The function is given the parameters in at least float32: with products that are rounded to
    less, conjugate gradients do not converge.
    """
    x, params = as_vector(params), upcast(params)
    classes: list[int] = []
    shapes: list[Array] = []

    def f(x):
        out = function(as_tree(x, params))
        parts = in_rows(f"{name}: the output", out)
        classes[:] = [jnp.shape(y)[-1] for y in jax.tree.leaves(out)]
        shapes[:] = parts
        return jnp.concatenate([cast(p, x.dtype).ravel() for p in parts])

    out, push = jax.linearize(f, x)
    return x, push, _split(out, shapes), classes


def of_tree(name: str, jacobian: PyTree, params: Params) -> list[Array]:
    """Return the Jacobian of one output from a tree like the parameters, with leading axes.

    Args:
      name: the factory, for errors.
      jacobian: for each parameter an array of shape (N, *output, *parameter). That of a complex
        parameter is the derivative of a holomorphic function.
      params: the parameters.
    """
    leaves, treedef = jax.tree.flatten(params)
    try:
        given = [jnp.asarray(j) for j in treedef.flatten_up_to(jacobian)]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name}: jacobian= must be a tree like the parameters. {error}") from None
    leading = set()
    for j, p in zip(given, leaves, strict=True):
        before = j.ndim - p.ndim
        if before < 1 or j.shape[before:] != p.shape:
            raise ValueError(
                f"{name}: jacobian= must have the shape of each parameter after a leading axis of "
                f"samples, got {j.shape} for a parameter of shape {p.shape}."
            )
        leading.add(j.shape[:before])
    if len(leading) > 1:
        raise ValueError(f"{name}: the arrays of jacobian= have other leading axes: {leading}.")
    if not given:
        return []
    n, *rest = leading.pop()
    both = any(map(jnp.iscomplexobj, given))
    columns = []
    for j, p in zip(given, leaves, strict=True):
        j = j.reshape(n, math.prod(rest), p.size)
        blocks = [[j.real, -j.imag], [j.imag, j.real]]
        blocks = [b if jnp.iscomplexobj(p) else b[:1] for b in blocks[: 1 + both]]
        columns.append(jnp.concatenate([jnp.concatenate(b, axis=2) for b in blocks], axis=1))
    dtype = as_vector(params).dtype
    return [jnp.concatenate([cast(c, dtype) for c in columns], axis=2)]


# --- the metric -----------------------------------------------------------------------------------


def whitened(
    rows: Array, outputs: Array | None, classes: int, weights: Array | None, form: Form
) -> Array:
    """Return A from J, or the same combination of the outputs of any linear function.

    Args:
      rows: of shape (N, c, ...).
      outputs: the logits, (N, c), for "softmax".
      classes: the length of their last axis.
      weights: (N,), or None for 1 / N.
      form: which metric.
    """
    n = rows.shape[0]
    tail = (1,) * (rows.ndim - 2)
    if form.centered:
        share = jnp.full(n, 1 / n, rows.dtype) if weights is None else weights / jnp.sum(weights)
        rows = rows - jnp.tensordot(share, rows, axes=1)[None]
    if form.likelihood == "softmax" and outputs is not None:
        p = jax.nn.softmax(outputs.reshape(n, -1, classes)).reshape(n, -1, classes, *tail)
        each = rows.reshape(*p.shape[:3], *rows.shape[2:])
        each = jnp.sqrt(p) * (each - jnp.sum(p * each, axis=2, keepdims=True))
        rows = each.reshape(rows.shape)
    if weights is None:
        return rows / n**0.5
    return rows * jnp.sqrt(weights).astype(rows.dtype).reshape(n, 1, *tail)


def metric(
    name: str,
    form: Form,
    params: Params,
    *,
    jacobian: PyTree = None,
    per_sample: Callable[[Params, Any], PyTree] | None = None,
    batch: Any = None,
    whole: Callable[[Params], PyTree] | None = None,
    weights: Array | None = None,
    matrix_free: bool = False,
) -> Metric:
    """Return the metric from the first of these that is given.

    Args:
      name: the factory, for errors.
      form: which metric.
      params: the parameters, in their own dtype.
      jacobian: a tree like the parameters with leading axes, see `of_tree`.
      per_sample: a function of (params, batch), for each sample of `batch` by itself.
      batch: its samples.
      whole: a function of the parameters alone.
      weights: of the samples; None is 1 / N.
      matrix_free: whether to give products only; from `whole`.
    """
    if jacobian is not None:
        jac, out, classes = of_tree(name, jacobian, params), [None], [0]
    elif per_sample is not None and not matrix_free:
        out, jac, classes = of_samples(f"{name}(output_fn=...)", per_sample, params, batch)
    else:
        assert whole is not None
        x, push, out, classes = of_function(f"{name}: output_fn=", whole, params)

        def through(v: Array) -> Array:
            parts = zip(_split(push(v), out), out, classes, strict=True)
            return joined([whitened(j, f, c, weights, form) for j, f, c in parts], x)

        transposed = jax.linear_transpose(through, x)
        k = sum(y.size for y in out)
        if matrix_free:
            return Metric(through, lambda w: transposed(w)[0], None, k)
        if k <= x.size:
            raw = jax.linear_transpose(push, x)
            flat = jax.vmap(lambda w: raw(w)[0])(jnp.eye(k, dtype=x.dtype))
        else:
            flat = jax.vmap(push, out_axes=1)(jnp.eye(x.size, dtype=x.dtype))
        jac = _split(flat, out)
    for j in jac:
        if weights is not None and jnp.shape(weights) != j.shape[:1]:
            raise ValueError(
                f"{name}: weights= must be one number for each sample, shape {j.shape[:1]}, got "
                f"shape {jnp.shape(weights)}."
            )
    parts = zip(jac, out, classes, strict=True)
    rows = joined([whitened(j, f, c, weights, form) for j, f, c in parts], as_vector(params))
    return Metric(lambda v: matmul(rows, v), lambda w: matmul(rows.T, w), rows, rows.shape[0])


def joined(parts: list[Array], like: Array) -> Array:
    """Return all rows of all parts, one after the other; `like` is a vector of the parameters."""
    tail = parts[0].shape[2:] if parts else (like.size,)
    flat = [cast(p, like.dtype).reshape(-1, *tail) for p in parts]
    return jnp.concatenate(flat) if flat else jnp.zeros((0, *tail), like.dtype)
