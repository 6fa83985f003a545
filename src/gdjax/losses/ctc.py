"""Connectionist temporal classification: the loss of label sequences without an alignment.

Graves et al. (2006), https://doi.org/10.1145/1143844.1143891
Paper -> here: alpha(2n) and alpha(2n+1) -> blank[n] and emit[n]; y -> exp(log_p); blank -> blank_id
Deviations: log 0 is `log_epsilon`, so that a sequence without alignments has a large finite loss.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gdjax.core.checks import check_integer, strict
from gdjax.core.numerics import bounded, with_value
from gdjax.core.types import Number
from gdjax.losses.inputs import as_array, at_least_zero, log_softmax, masked, number, read


@strict()
def ctc_loss(
    logits: ArrayLike,
    logit_paddings: ArrayLike,
    labels: ArrayLike,
    label_paddings: ArrayLike,
    *,
    blank_id: int = 0,
    log_epsilon: Number = -1e5,
) -> Array:
    r"""Return the negative log of each label sequence's probability, summed over its alignments.

    .. math::

       -\log \sum_{\pi \in A(y)} \prod_t p_t(\pi_t)

    with :math:`p_t` the softmax of the logits of frame t, and :math:`A(y)` the sequences of classes
    that become the labels y when repeated classes are merged and blanks removed after that.

    Args:
      logits: float array [batch, time, classes]; the classes include the blank.
      logit_paddings: real or boolean array [batch, time]: 1 where a frame is padding.
      labels: integer array [batch, length]. A label outside [0, classes) that is not padding
        gives NaN (optax gives it probability 1).
      label_paddings: real or boolean array [batch, length]: 1 where a label is padding,
        which must come after the labels.
      blank_id: the class that emits nothing.
      log_epsilon: used for log 0; it must be far below the log probability of any sequence. With
        -inf, impossible sequences have an infinite loss.

    Returns:
      Losses in nats, [batch]. A label sequence that is too long for its frames has a loss of about
      -log_epsilon.

    Raises:
      TypeError: if `logits` is not float or `labels` not integer.
      ValueError: if shapes do not fit or `blank_id` is not a class.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> logits = jnp.zeros((1, 2, 2))  # "a" in two frames: aa, a- and -a of the four paths
      >>> paddings, labels = jnp.zeros((1, 2)), jnp.array([[1]])
      >>> print(jnp.exp(-gdjax.ctc_loss(logits, paddings, labels, jnp.zeros((1, 1)))))
      [0.75]
    """
    arrays = (logits, logit_paddings, labels, label_paddings)
    return _ctc("ctc_loss", *arrays, blank_id, log_epsilon)[0]


@strict()
def ctc_loss_with_forward_probs(
    logits: ArrayLike,
    logit_paddings: ArrayLike,
    labels: ArrayLike,
    label_paddings: ArrayLike,
    *,
    blank_id: int = 0,
    log_epsilon: Number = -1e5,
) -> tuple[Array, Array, Array]:
    """Return the losses of `ctc_loss` and the logarithms of its forward variables.

    Args:
      logits: see `ctc_loss`, also for the other arguments.
      logit_paddings: see `ctc_loss`.
      labels: see `ctc_loss`.
      label_paddings: see `ctc_loss`.
      blank_id: see `ctc_loss`.
      log_epsilon: see `ctc_loss`.

    Returns:
      Losses [batch]; log alpha of the blank after n labels, [time, batch, length + 1]; log alpha of
      the n-th label itself, [time, batch, length]. In the last frame the former also includes the
      latter: its n-th entry is the log probability of the first n labels.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> logits, paddings, labels = jnp.zeros((1, 2, 2)), jnp.zeros((1, 2)), jnp.array([[1]])
      >>> _, blank, emit = gdjax.ctc_loss_with_forward_probs(
      ...     logits, paddings, labels, jnp.zeros((1, 1)))
      >>> print(jnp.exp(emit[:, 0, 0]))
      [0.5 0.5]
    """
    arrays = (logits, logit_paddings, labels, label_paddings)
    return _ctc("ctc_loss_with_forward_probs", *arrays, blank_id, log_epsilon)


def _ctc(call, logits, logit_paddings, labels, label_paddings, blank_id, log_epsilon):
    x, frame_pads, label_pads, labels = _read(call, logits, logit_paddings, labels, label_paddings)
    batch, _, classes = x.shape
    length = labels.shape[1]
    blank_id = check_integer(f"{call}(blank_id=...)", blank_id, -classes)
    if blank_id >= classes:
        raise ValueError(f"{call}(blank_id=...) is {blank_id}, but there are {classes} classes.")
    zero = number(log_epsilon, x)

    log_p = log_softmax(masked(x, ~frame_pads[..., None]), (2,))
    known = (labels >= 0) & (labels < classes)
    index = jnp.where(known, labels, 0)[:, None, :]
    log_emit = jnp.take_along_axis(log_p, jnp.broadcast_to(index, (*x.shape[:2], length)), axis=-1)
    log_emit = jnp.where((known | label_pads)[:, None, :], log_emit, jnp.nan)
    log_blank = log_p[..., blank_id]
    same_next = jnp.pad(labels[:, :-1] == labels[:, 1:], ((0, 0), (0, min(length, 1))))
    # the blank is optional between different labels and required between equal ones
    skip, via_blank = jnp.where(same_next, zero, 0), jnp.where(same_next, 0, zero)

    def step(carry, frame):
        blank, emit = carry
        log_emit, log_blank, pad = frame
        before = _add_to_next(blank, emit + skip)
        new_emit = _log_sum(before[:, :-1], emit) + log_emit
        log_blank = log_blank[:, None]
        new_blank = _add_to_next(before + log_blank, emit + via_blank + log_blank)
        pad = pad[:, None]
        new = jnp.where(pad, blank, new_blank), jnp.where(pad, emit, new_emit)
        return new, new

    start = jnp.full((batch, length + 1), zero).at[:, 0].set(0), jnp.full((batch, length), zero)
    frames = jnp.moveaxis(log_emit, 1, 0), log_blank.T, frame_pads.T
    (blank, emit), (blanks, emits) = jax.lax.scan(step, start, frames)
    total = _add_to_next(blank, emit)
    if x.shape[1]:
        blanks = blanks.at[-1].set(total)
    lengths = length - jnp.sum(label_pads, axis=1)
    loss = -jnp.take_along_axis(total, lengths[:, None], axis=1)[:, 0]
    return at_least_zero(loss), blanks, emits


def _add_to_next(blank, emit):
    """Add the probability of what follows the n-th label to that of the blank after n labels."""
    return jnp.concatenate([blank[:, :1], _log_sum(blank[:, 1:], emit)], axis=1)


def _log_sum(x, y):
    """Return log(exp(x) + exp(y)) with finite derivatives, also where both are -inf."""
    total = jnp.logaddexp(bounded(x), bounded(y))
    return with_value(total, jnp.where((x == -jnp.inf) & (y == -jnp.inf), -jnp.inf, total))


def _read(call, logits, logit_paddings, labels, label_paddings):
    paddings = {"logit_paddings": logit_paddings, "label_paddings": label_paddings}
    x, frame_pads, label_pads = read(call, {"logits": logits}, paddings)
    labels = as_array(f"{call}(labels=...)", labels)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"{call}(labels=...) must be integer, got dtype {labels.dtype}.")
    if x.ndim != 3 or labels.ndim != 2 or labels.shape[0] != x.shape[0]:
        raise ValueError(
            f"{call} needs logits [batch, time, classes] and labels [batch, length], got "
            f"{list(x.shape)} and {list(labels.shape)}."
        )
    for name, pads, shape in (
        ("logit_paddings", frame_pads, x.shape[:2]),
        ("label_paddings", label_pads, labels.shape),
    ):
        if pads.shape != shape:
            raise ValueError(
                f"{call}({name}=...) must have shape {list(shape)}, got {list(pads.shape)}."
            )
    return x, frame_pads != 0, label_pads != 0, labels
