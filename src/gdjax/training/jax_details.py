"""What sweeps use of JAX that its documentation does not promise, each with what it relies on.

If a new version of JAX changes one of these, `tests/training/test_jax_details.py` names it. None of
them affects a result: lanes would only run more slowly, or copy more.
"""

from __future__ import annotations

from typing import Any

import jax


def has_convolution(jaxpr: Any) -> bool:
    """Return whether a jaxpr, or one that it calls, has a convolution.

    Relies on: `jax.stages.Traced.jaxpr` and `jax.make_jaxpr` give an object with `eqns`; an
    equation has `primitive.name` and `params`, which hold the jaxprs that it calls as leaves; the
    primitive's name is "conv_general_dilated". Otherwise lanes of convolutional networks run
    together on a CPU, which takes about twice as long.
    """
    return any(
        eqn.primitive.name == "conv_general_dilated"
        or any(has_convolution(x) for x in jax.tree.leaves(eqn.params) if hasattr(x, "eqns"))
        for eqn in jaxpr.eqns
    )


def calls_lapack(compiled: Any) -> bool:
    """Return whether a compiled program calls LAPACK, for instance for eigenvalues.

    On a CPU such a call on several matrices hands them to XLA's threads and waits for them, in one
    of these threads. Programs in as many threads as there are cores could so wait for each other
    forever (jaxlib 0.10), and run one after the other instead.

    Relies on: `jax.stages.Compiled.as_text` names the target of a custom call, which for a routine
    of LAPACK begins with "lapack_". Otherwise a sweep of SOAP with groups in threads may stop.
    """
    return "lapack_" in (compiled.as_text() or "")


def is_unchanged(new: Any, old: Any) -> bool:
    """Return whether a traced function gave back the array that it was given.

    Relies on: `jax.lax.scan` returns the tracer itself of an entry of its carry that no step
    changes. Otherwise lanes that run in turn write unchanged numbers, such as a learning rate, once
    more in every chunk.
    """
    return new is old
