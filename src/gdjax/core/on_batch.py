"""Functions that an optimizer needs in addition to gradients, of the parameters alone.

A residual or an output is a function of parameters and examples. In a loop of the user it is an
extra of each update, a function of the parameters; `fit`, `sweep` and `unroll` give the examples of
the step, `batch=`, to a function that the optimizer was made with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gdjax.core.types import Params


def on_batch(
    caller: str,
    argument: str,
    extra: Callable[[Params], Any] | None,
    function: Callable[[Params, Any], Any] | None,
    batch: Any,
) -> Callable[[Params], Any]:
    """Return the function of the parameters for this update.

    Args:
      caller: the factory that the user called.
      argument: the name of the function, as the extra and as the argument of the factory.
      extra: what `update` was given, a function of the parameters; it decides.
      function: what the factory was given, a function of (params, batch).
      batch: the examples of this step, or None.

    Raises:
      TypeError: if neither is there, or the second without examples.

    Example:
      >>> residual = on_batch("gauss_newton", "residual_fn", None, lambda p, xy: p * xy, 3.0)
      >>> residual(2.0)
      6.0
    """
    if extra is not None:
        return extra
    if function is None:
        raise TypeError(
            f"{caller} needs {argument}: call update(grads, state, params, {argument}=...) with a "
            f"function of the parameters, or for fit {caller}({argument}=...) with a function of "
            "(params, batch)."
        )
    if batch is None:
        raise TypeError(
            f"{caller}({argument}=...) is a function of (params, batch), and update was given no "
            "batch: call update(grads, state, params, batch=...), as fit does."
        )
    return lambda params: function(params, batch)
