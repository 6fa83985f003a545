"""What a run is given, checked: the loss, the data, how long to train, what to report."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax import Array

from gdjax.core.checks import check_integer, leaf_name
from gdjax.core.numerics import scalar_dtype
from gdjax.core.remember import remembered, remembered_with_owners
from gdjax.core.types import Key, LossFn, OptState, Params, PyTree
from gdjax.training.foreign import as_arrays, check_fits, is_iterator
from gdjax.training.meshes import Places, places_of, shape_of_rows
from gdjax.training.streams import Stream, is_stream

RESERVED = ("loss", "aux", "step", "exchanges")  # entries of a history that are not metrics
COLUMNS = (  # of tables of results, which no metric may have
    "final loss", "repeats", "steps", "diverged", "diverged at", "stopped at", "error",
)  # fmt: skip
STREAM_CHUNK = 100  # steps between two looks at a stream's losses
DRAWN = 2**24  # most examples that one chunk may draw, four bytes each


class Program(NamedTuple):
    """The static part of a run: all that its programs are compiled for, and no number.

    Attributes:
      loss_fn: see `fit`.
      update: the optimizer's.
      has_aux: see `fit`.
      needs_key: see `fit`.
      has_model_state: whether the loss function takes and returns a state of the model.
      batch_size: see `fit`.
      lanes: "" for a single run; "vmap" for lanes that step together; "map" for lanes that run one
        after the other, which keeps a CPU core in its cache.
      own_keys: whether each lane has a key of its own, so also batches of its own.
      lanes_axis: the axis of the mesh that lanes lie along if arrays of a lane lie along others.
      shards: with "map": parts of the lanes that run at the same time, on a device each.
      functions: those in the structure of the state, such as schedules.
      places: where the data lie on a mesh, from which batches are drawn; empty if on none.
    """

    loss_fn: LossFn
    update: Callable[..., Any]
    has_aux: bool = False
    needs_key: bool = False
    has_model_state: bool = False
    batch_size: int | None = None
    lanes: str = ""
    own_keys: bool = False
    shards: int = 1
    functions: tuple[Callable[..., Any], ...] = ()
    places: Places = ()
    lanes_axis: str | None = None


class Measure(NamedTuple):
    """The static part of an evaluation on held-out data.

    Attributes:
      function: see `fit(metric_fn=...)`.
      takes_model_state: whether its second argument is the state of the model.
      takes_state: whether it has a parameter `state`, for the optimizer's state.
      batch_size: see `fit(held_out_batch_size=...)`.
      places: where the arrays lie on a mesh, if they are evaluated in parts.
    """

    function: Callable[..., Any]
    takes_model_state: bool
    takes_state: bool
    batch_size: int | None
    places: Places = ()


class Plan(NamedTuple):
    """A run that has been checked and can start."""

    caller: str  # the function that errors name
    program: Program
    data: PyTree  # arrays on the device, or a `Stream`
    examples: int  # 0 for a stream
    key: Key  # a key, or an integer for a program to make one of
    total: int | None  # steps; None: to the end of the stream
    length: int  # steps in a chunk
    held_out: PyTree  # arrays, or a `Stream`
    measure: Measure | None
    metrics: tuple[str, ...] = ()  # the names that it gives


def make_plan(
    caller: str,
    program: Program,
    params: Params,
    data: PyTree,
    *,
    model_state: PyTree = None,
    state: Callable[[], OptState] = lambda: None,
    steps: int | None,
    epochs: int | None = None,
    done: int = 0,
    key: Key | None = None,
    held_out: PyTree = None,
    held_out_batch_size: int | None = None,
    metric_fn: Callable[..., Any] | None = None,
    report_every: int | None = None,
    reports: bool = False,
) -> Plan:
    """Check the arguments of `fit`, `sweep` and their relatives, which `caller` names in errors.

    Args:
      caller: the function that the user called.
      program: the static part.
      params: the parameters of one lane, or their `jax.ShapeDtypeStruct`.
      data: see `fit`.
      model_state: that of one lane, or its `jax.ShapeDtypeStruct`.
      state: gives the optimizer's state of one lane, or its `jax.ShapeDtypeStruct`.
      steps: see `fit`.
      epochs: see `fit`.
      done: steps that were done before.
      key: see `fit`.
      held_out: see `fit`.
      held_out_batch_size: see `fit`.
      metric_fn: see `fit`.
      report_every: see `fit`.
      reports: whether anything is reported apart from held-out metrics.
    """
    if report_every is not None:
        check_integer(f"{caller}(report_every=...)", report_every)
    refuse_tracers(caller, (params, data))
    if is_stream(data):
        if program.batch_size is not None:
            raise ValueError(
                f"{caller}(batch_size=...) is for arrays; an iterable has its own batches. (A list "
                "is batches, a tuple is arrays with the examples along axis 0.)"
            )
        data = Stream(caller, data, steps, epochs)
        examples, total, length = 0, steps or data.total, report_every or STREAM_CHUNK
        if total and not report_every and (reports or held_out is not None):
            length = min(STREAM_CHUNK, chunk_length(total, None, True))
    else:
        data, examples = check_arrays(f"{caller}(data=...)", data)
        batch_size = program.batch_size
        if batch_size is not None:
            check_batch_size(caller, batch_size, examples)
        total = count_steps(caller, steps, epochs, examples // (batch_size or examples))
        length = chunk_length(total, report_every, reports or held_out is not None)
        length = min(length, max(1, DRAWN // (batch_size or 1)))
        if batch_size is not None:
            program = program._replace(places=places_of(data))
        check_loss(caller, program, params, model_state, one_batch(data, batch_size))
    measure, metrics = None, ()
    if held_out is not None:
        held_out, batch = _checked_held_out(caller, held_out, held_out_batch_size)
        measure = _checked_measure(caller, metric_fn, program, held_out_batch_size)
        if held_out_batch_size is not None:
            measure = measure._replace(places=places_of(held_out))
        metrics = _checked_metrics(caller, measure, params, state, model_state, batch)
    elif metric_fn is not None or held_out_batch_size is not None:
        name = "metric_fn" if metric_fn is not None else "held_out_batch_size"
        raise ValueError(f"{caller}({name}=...) needs held_out=..., the data to evaluate on.")
    total = None if total is None else done + total
    seed = key_or_seed(caller, key)
    return Plan(caller, program, data, examples, seed, total, length, held_out, measure, metrics)


# --- data -----------------------------------------------------------------------------------------


def check_arrays(what: str, data: PyTree) -> tuple[PyTree, int]:
    """Return the data on the device and the number of examples, after checking them."""
    leaves, treedef = as_arrays(what, data)
    if not leaves:
        raise ValueError(f"{what} has no arrays in it, got {data!r}.")
    for i, x in enumerate(leaves):
        if not x.ndim:
            raise TypeError(
                f"{what} must be a tree of arrays with the examples along axis 0, or an iterable "
                f"of batches; got a single number at {leaf_name(data, i)!r}."
            )
        if isinstance(x, np.ndarray) and scalar_dtype() == np.float32:
            check_fits(what, data, i, x)
    if len(set(map(len, leaves))) > 1:
        sizes = {leaf_name(data, i): len(x) for i, x in enumerate(leaves)}
        raise ValueError(
            f"{what}: all arrays must have the same number of examples along axis 0, got {sizes}."
        )
    if not len(leaves[0]):
        raise ValueError(f"{what} has no examples: every axis 0 has length 0.")
    arrays = jax.device_put(leaves)  # `jnp.asarray` would be a program to compile for each shape
    for i, x in enumerate(arrays):
        if jnp.issubdtype(x.dtype, jnp.inexact) and (found := _nonfinite(x)) is not None:
            value, first = found
            raise ValueError(
                f"{what} must be finite, got {value} at index {first} of "
                f"{leaf_name(data, i)!r}. Drop or fill such examples first."
            )
    return treedef.unflatten(arrays), len(leaves[0])


def _nonfinite(x: Array) -> tuple[Any, tuple[int, ...]] | None:
    """Return the first number that is not finite, and its index; of the parts that are here."""
    parts = {str(shard.index): shard for shard in x.addressable_shards}  # each once
    for shard in parts.values():
        part = np.asarray(shard.data)  # on the host: no program to compile
        bad = ~np.isfinite(part)
        if bad.any():
            first = np.argwhere(bad)[0]
            starts = [s.start or 0 for s in shard.index]
            return part[tuple(first)], tuple(int(k) for k in first + np.array(starts))
    return None


def refuse_tracers(caller: str, tree: PyTree) -> None:
    """Raise if an array of the tree is traced: a run talks to the host between its chunks."""
    if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(tree, is_leaf=is_iterator)):
        raise TypeError(
            f"{caller} cannot be traced (jit, grad, vmap, hypergradient), as it talks to the host. "
            "Use unroll inside of such functions."
        )


def check_batch_size(caller: str, batch_size: int, examples: int) -> None:
    """Raise unless a batch can be drawn from this number of examples."""
    check_integer(f"{caller}(batch_size=...)", batch_size)
    if batch_size > examples:
        raise ValueError(
            f"{caller}(batch_size=...) must be in [1, {examples}], the number of examples, got "
            f"{batch_size}. None takes all of them in every step."
        )


def one_batch(data: PyTree, batch_size: int | None) -> PyTree:
    """Return the shapes of a batch of arrays: `jax.ShapeDtypeStruct`, or all data."""
    if batch_size is None:
        return data
    return jax.tree.map(lambda x: shape_of_rows(x, batch_size), data)


# --- length ---------------------------------------------------------------------------------------


def count_steps(caller: str, steps: int | None, epochs: int | None, per_epoch: int) -> int:
    """Return the number of steps from exactly one of `steps` and `epochs`."""
    if (steps is None) == (epochs is None):
        raise ValueError(
            f"{caller} needs exactly one of steps=... and epochs=..., got {steps} and {epochs}."
        )
    if epochs is None:
        return check_integer(f"{caller}(steps=...)", steps)
    return check_integer(f"{caller}(epochs=...)", epochs) * per_epoch


def chunk_length(steps: int, report_every: int | None, reports: bool) -> int:
    """Return the steps in a chunk, chosen so that the last one need not be shorter, if possible."""
    if report_every is not None:
        return min(report_every, steps)
    least = -(-steps // 20) if reports else min(steps, 10_000)
    for length in range(least, min(2 * least, steps) + 1):
        if steps % length == 0:
            return length
    return least


# --- keys -----------------------------------------------------------------------------------------


def key_or_seed(caller: str, key: Key | None) -> Any:
    """Return a key as it is, an integer (None: 0) as a number for a program to call `as_key`.

    Making a key of a number is a program of its own, which takes 20 ms to compile.
    """
    if key is None or isinstance(key, (int, np.integer)) and 0 <= key < 2**31:
        return np.int32(key or 0)
    if isinstance(key, (int, np.integer)):
        check_seed(f"{caller}(key=...)", int(key))
    return as_key(key)


def check_seed(what: str, seed: int) -> None:
    """Raise for an integer whose upper bits would be cut off, as that is another one's seed."""
    bits = 32 if scalar_dtype() == np.float32 else 64
    if not -(2 ** (bits - 1)) <= seed < 2**bits:
        raise ValueError(
            f"{what} must be an integer of {bits} bits, in [{-(2 ** (bits - 1))}, {2**bits - 1}], "
            f"got {seed}."
        )


def as_key(key: Key) -> Array:
    """Return a key of `jax.random` from a key or an integer seed."""
    dtype = getattr(key, "dtype", None)
    is_seed = dtype is None or jnp.issubdtype(dtype, jnp.integer) and np.ndim(key) == 0
    return jax.random.key(key) if is_seed else key  # pyright: ignore[reportReturnType]


def as_generator(key: Key | None) -> np.random.Generator:
    """Return NumPy's generator for a key of `jax.random` or an integer seed (None: 0)."""
    if key is None or isinstance(key, (int, np.integer)):
        return np.random.default_rng((key or 0) % 2**64)
    return np.random.default_rng(np.asarray(jax.random.bits(as_key(key), (4,))))


# --- functions ------------------------------------------------------------------------------------


def check_loss(
    caller: str, program: Program, params: Params, model_state: PyTree, batch: PyTree
) -> None:
    """Raise unless the loss function gives one real number (and maybe a state, and aux)."""
    out = traced_loss(program, params, model_state, batch).out_info
    check_loss_output(caller, out, program.has_aux, program.has_model_state, model_state)


def check_loss_output(
    caller: str, out: Any, has_aux: bool, has_model_state: bool, model_state: PyTree
) -> None:
    """Raise unless these shapes are what a loss function must return."""
    both = has_model_state and has_aux
    if has_model_state or has_aux:
        if not (_is_pair(out) and (not both or _is_pair(out[1]))):
            flags = "model_state=..." if has_model_state else "has_aux=True"
            flags += " and has_aux=True" if both else ""
            more = "(model_state, aux)" if both else "aux" if has_aux else "model_state"
            raise TypeError(
                f"{caller}: with {flags} loss_fn must return (loss, {more}), got {out}."
            )
        out, more = out
        if has_model_state:
            _check_model_state(caller, model_state, more[0] if both else more)
    if isinstance(out, tuple):
        raise TypeError(
            f"{caller}: loss_fn returned a tuple; is it (loss, aux)? Use has_aux=True. Or "
            "(loss, model_state)? Give model_state=... ."
        )
    if out.shape or not jnp.issubdtype(out.dtype, jnp.floating):
        raise TypeError(
            f"{caller}: loss_fn must return one real number, got {out.dtype}{list(out.shape)}. "
            "Reduce it, for example by jnp.mean."
        )


def _is_pair(x: object) -> bool:
    return isinstance(x, tuple) and len(x) == 2


def _check_model_state(caller: str, before: PyTree, after: PyTree) -> None:
    """Raise unless a step gives a state of the model like the one that it was given."""
    old, new = (jax.tree.structure(x) for x in (before, after))
    if old != new:
        raise TypeError(
            f"{caller}: loss_fn must return a model_state with the structure of the one that it is "
            f"given, {old}, got {new}. Merge what has changed into the whole state."
        )
    for i, (x, y) in enumerate(zip(*map(jax.tree.leaves, (before, after)), strict=True)):
        if (x.shape, x.dtype) != (y.shape, y.dtype):
            raise TypeError(
                f"{caller}: loss_fn must return a model_state with the shapes and dtypes of the "
                f"one that it is given, {x.dtype}{list(x.shape)} at {leaf_name(before, i)!r}, got "
                f"{y.dtype}{list(y.shape)}."
            )


def traced_loss(program: Program, params: Params, model_state: PyTree, batch: PyTree) -> Any:
    """Return the trace of the loss function, a `jax.stages.Traced`; JAX remembers it."""
    more = (jax.eval_shape(as_key, 0),) if program.needs_key else ()
    inputs = loss_inputs(program, params, model_state)
    return _jitted(program.loss_fn).trace(*inputs, batch, *more)


def loss_inputs(program: Program, params: Params, model_state: PyTree) -> tuple[PyTree, ...]:
    """Return the arguments of the loss function before the batch."""
    return (params, rebuilt(model_state)) if program.has_model_state else (params,)


def rebuilt(tree: PyTree) -> PyTree:
    """Return a tree of the same leaves for one call: some, as Equinox's, can be used only once."""
    return jax.tree.map(lambda x: x, tree)


@remembered
def _jitted(loss_fn: LossFn) -> Any:
    return jax.jit(lambda *args: loss_fn(*args))  # a function that dies with the program


def _checked_held_out(caller: str, held_out: PyTree, size: int | None) -> tuple[PyTree, PyTree]:
    """Return the data to evaluate on, and a batch of them or its shapes."""
    what = f"{caller}(held_out=...)"
    if not is_stream(held_out):
        held_out, examples = check_arrays(what, held_out)
        if size is not None:
            check_integer(f"{caller}(held_out_batch_size=...)", size)
        return held_out, one_batch(held_out, size and min(size, examples))
    if size is not None:
        raise ValueError(
            f"{caller}(held_out_batch_size=...) goes with arrays; the batches of an iterable have "
            f"their own size, got {size}."
        )
    if isinstance(held_out, Iterator):
        raise TypeError(
            f"{what} must be arrays or an iterable that can be read again and again, such as a "
            f"list of batches or a loader, got {type(held_out).__name__}, which can be read once."
        )
    stream = Stream(caller, held_out, None, 1, "held_out")
    with stream.reading(0, 1) as reading:
        return stream, stream.on_devices(reading.take(1)[0].tree)


def _checked_measure(
    caller: str, metric_fn: Callable[..., Any] | None, program: Program, size: int | None
) -> Measure:
    """Return how held-out data are evaluated; the default is the loss without aux."""
    if metric_fn is not None:
        takes_state = _takes_state(metric_fn, 2 + program.has_model_state)
        return Measure(metric_fn, program.has_model_state, takes_state, size)
    if program.needs_key or program.has_model_state:
        cause = "a key" if program.needs_key else "a model_state, and computes as in training"
        raise ValueError(
            f"{caller}(metric_fn=...) must be given: loss_fn needs {cause}, and held-out data are "
            "evaluated without."
        )
    loss: Callable[..., Any] = program.loss_fn
    return Measure(_without_aux(loss) if program.has_aux else loss, False, False, size)


def _takes_state(metric_fn: Callable[..., Any], positional: int) -> bool:
    """Return whether a function has a parameter `state` beside those that are given by position."""
    try:
        parameters = [*inspect.signature(metric_fn).parameters.values()]
    except (TypeError, ValueError):
        return False
    return any(
        p.name == "state"
        and (p.kind is p.KEYWORD_ONLY or p.kind is p.POSITIONAL_OR_KEYWORD and i >= positional)
        for i, p in enumerate(parameters)
    )


def _checked_metrics(
    caller: str,
    measure: Measure,
    params: Params,
    state: Callable[[], OptState],
    model_state: PyTree,
    batch: PyTree,
) -> tuple[str, ...]:
    """Return the names of the numbers that a metric gives; raise for other things or names."""
    given = (params, model_state) if measure.takes_model_state else (params,)
    more = {"state": state()} if measure.takes_state else {}
    out = jax.eval_shape(measure.function, *given, batch, **more)
    for name, value in by_name(out).items():
        if name in RESERVED:
            raise ValueError(
                f"{caller}(metric_fn=...): the history has an entry {name!r} already; give the "
                f"metric another name, such as 'held_out_{name}'."
            )
        if name in COLUMNS or name.endswith(" error"):
            raise ValueError(
                f"{caller}(metric_fn=...): tables of results have a column {name!r} already; give "
                f"the metric another name, such as 'held-out {name}'."
            )
        if getattr(value, "shape", None) != ():
            raise TypeError(
                f"{caller}: metric_fn must return a number or a dict of them, got {value} at "
                f"{name!r}."
            )
    return tuple(by_name(out))


def by_name(metrics: Any) -> dict[str, Any]:
    """Return what a metric gave by name; a single number is "held_out"."""
    return metrics if isinstance(metrics, dict) else {"held_out": metrics}


@remembered_with_owners
def _without_aux(loss_fn: LossFn) -> LossFn:
    return lambda params, data: loss_fn(params, data)[0]
