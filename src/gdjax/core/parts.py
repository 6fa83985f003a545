"""Run a function of whole arrays where each device holds a part of them, inside `jax.shard_map`.

The function is traced for arrays of their whole shapes, and its jaxpr is then evaluated on parts,
one equation after the other. Elementwise operations work on parts. Sums, maxima and inner products
over a split axis are those of the part, then of all devices. Axes that an operation only carries
along (batches of matrices, transpositions, most reshapes) stay split. Everything else, such as a
product of matrices or a decomposition, gathers its operands once and is done on all devices.

So what a function computes never depends on how its arguments are split, up to the order of
summation, and an operation that is not named here is computed correctly, only without being split.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal
from jax.sharding import NamedSharding, PartitionSpec

from gdjax.core.types import PyTree, T

Split = tuple[
    tuple[str, ...], ...
]  # for each axis the mesh axes that it is split over, major first


# --- a part of an array ---------------------------------------------------------------------------


def axis_size(names: tuple[str, ...]) -> int:
    """Return the number of parts along mesh axes."""
    return math.prod(lax.psum(1, name) for name in names)


def split_of(spec: PartitionSpec, ndim: int) -> Split:
    """Return the split of an array of `ndim` axes by a `PartitionSpec`."""
    entries = [*spec, *[None] * (ndim - len(spec))]
    as_names = [() if x is None else (x,) if isinstance(x, str) else tuple(x) for x in entries]
    return tuple(as_names)


def local_shape(shape: Sequence[int], split: Split) -> tuple[int, ...]:
    """Return the shape of a part of an array of `shape`."""
    return tuple(n // axis_size(names) for n, names in zip(shape, split, strict=True))


def unsplit(ndim: int) -> Split:
    """Return the split of an array that each device holds whole."""
    return ((),) * ndim


def varying(x: Any) -> frozenset[str]:
    """Return the manual axes over which an array differs; none where JAX does not know.

    It knows inside of `jax.shard_map(..., check_vma=True)`, from JAX 0.7 on.
    """
    return _varying(jax.typeof(x))


def _varying(aval: Any) -> frozenset[str]:
    kind = getattr(aval, "manual_axis_type", None)
    return getattr(aval, "vma", frozenset()) if kind is None else kind.varying


def vary(x: Array, names: frozenset[str]) -> Array:
    """Return x as an array that differs over these manual axes, too."""
    missing = tuple(sorted(names - varying(x)))
    if not missing:
        return x
    if hasattr(lax, "pcast"):
        return lax.pcast(x, missing, to="varying")
    return lax.pvary(x, missing)  # pyright: ignore[reportAttributeAccessIssue]  # before JAX 0.8


@jax.tree_util.register_pytree_node_class
class Part:
    """The part of an array that this device holds.

    Args:
      local: the part.
      split: how the array is split.
    """

    def __init__(self, local: Array, split: Split):
        self.local, self.split = local, split
        self._known = {split: local}

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the whole array."""
        sizes = zip(jnp.shape(self.local), self.split, strict=True)
        return tuple(n * axis_size(names) for n, names in sizes)

    def at(self, split: Split) -> Array:
        """Return the part for another split; what was gathered once is kept."""
        if split not in self._known:
            x, common = self.local, list(self.split)
            for axis, (names, wanted) in enumerate(zip(self.split, split, strict=True)):
                if names and names != wanted:
                    x, common[axis] = _gathered(x, names, axis), ()
            self._known[tuple(common)] = x
            for axis, (names, wanted) in enumerate(zip(common, split, strict=True)):
                x = _own(x, wanted, axis) if names != wanted else x
            self._known[split] = x
        return self._known[split]

    def tree_flatten(self):
        """Return the array as a child."""
        return (self.local,), self.split

    @classmethod
    def tree_unflatten(cls, split, children):
        """Rebuild from the array."""
        return cls(children[0], split)


@jax.tree_util.register_pytree_node_class
class Repeated:
    """An array that is broadcast from a smaller one, in the shape in which it is needed.

    Args:
      of: the smaller array.
      shape: that of the whole array.
      axes: for each axis of the smaller array that of the whole one.
    """

    def __init__(self, of: Part, shape: tuple[int, ...], axes: tuple[int, ...]):
        self.of, self.shape, self.axes = of, shape, axes

    @property
    def split(self) -> Split:
        """How the array is split if it is made of the smaller one as it is."""
        split = list(unsplit(len(self.shape)))
        for axis, names in zip(self.axes, self.of.split, strict=True):
            split[axis] = names
        return tuple(split)

    def at(self, split: Split) -> Array:
        """Return the part for a split."""
        sizes = zip(self.axes, self.of.shape, strict=True)
        of = tuple(split[axis] if n == self.shape[axis] else () for axis, n in sizes)
        return lax.broadcast_in_dim(self.of.at(of), local_shape(self.shape, split), self.axes)

    def tree_flatten(self):
        """Return the smaller array as a child."""
        return (self.of,), (self.shape, self.axes)

    @classmethod
    def tree_unflatten(cls, known, children):
        """Rebuild from the smaller array."""
        return cls(children[0], *known)


Value = Part | Repeated


def whole(x: Any) -> Part:
    """Return an array that each device holds whole."""
    return Part(x, unsplit(jnp.ndim(x)))


def _gathered(x: Array, names: tuple[str, ...], axis: int) -> Array:
    if not varying(x):
        return lax.all_gather(x, names, axis=axis, tiled=True)
    x = vary(x, frozenset(names))
    try:
        return lax.all_gather(x, names, axis=axis, tiled=True, to="invarying")
    except (TypeError, ValueError):  # before JAX 0.9 only a sum is known to be equal everywhere
        n, shape = x.shape[axis], list(x.shape)
        shape[axis] = n * axis_size(names)
        kind = jnp.int8 if x.dtype == bool else x.dtype
        zeros = vary(jnp.zeros(shape, kind), varying(x))
        start = lax.axis_index(names) * n
        placed = lax.dynamic_update_slice_in_dim(zeros, x.astype(kind), start, axis)
        return lax.psum(placed, names).astype(x.dtype)


def _own(x: Array, names: tuple[str, ...], axis: int) -> Array:
    n = x.shape[axis] // axis_size(names)
    return lax.dynamic_slice_in_dim(x, lax.axis_index(names) * n, n, axis)


# --- evaluation -----------------------------------------------------------------------------------


def on_parts(function: Callable[..., T], args: PyTree, splits: Sequence[Split]) -> T:
    """Return `function(*args)` for whole arrays, given parts of them; its leaves are values.

    Args:
      function: a function of whole arrays.
      args: its arguments, a tuple of trees, whose leaves are parts. Leaves that are not arrays are
        taken as they are.
      splits: how the leaves of `args` are split.
    """
    leaves, treedef = jax.tree.flatten(args)
    at = [i for i, x in enumerate(leaves) if hasattr(x, "dtype")]
    parts = [Part(leaves[i], splits[i]) for i in at]

    def of_arrays(*arrays):
        new = list(leaves)
        for i, x in zip(at, arrays, strict=True):
            new[i] = x
        return function(*treedef.unflatten(new))

    closed, like = jax.make_jaxpr(of_arrays, return_shape=True)(*map(_aval_of_whole, parts))
    out = _evaluate(closed.jaxpr, list(map(whole, closed.consts)), parts, {})
    return jax.tree.structure(like).unflatten(out)


def _aval_of_whole(part: Part) -> jax.ShapeDtypeStruct:
    aval = jax.typeof(part.local)
    more: dict[str, Any] = {}
    if others := varying(part.local) - {name for names in part.split for name in names}:
        kind = getattr(aval, "manual_axis_type", None)
        more = (
            {"vma": others} if kind is None else {"manual_axis_type": kind.update(varying=others)}
        )
        more["sharding"] = NamedSharding(aval.sharding.mesh, PartitionSpec())  # which has the axes
    return jax.ShapeDtypeStruct(part.shape, aval.dtype, weak_type=aval.weak_type, **more)


def _evaluate(
    jaxpr: Jaxpr, consts: Sequence[Value], args: Sequence[Value], programs: dict[int, Callable]
) -> Sequence[Value]:
    known: dict[Any, Value] = dict(zip(jaxpr.constvars, consts, strict=True))
    known.update(zip(jaxpr.invars, args, strict=True))

    def read(x: Any) -> Value:
        if isinstance(x, Literal):
            return whole(jnp.asarray(x.val, x.aval.dtype))  # pyright: ignore
        return known[x]

    for eqn in jaxpr.eqns:
        known.update(
            zip(eqn.outvars, _equation(eqn, [*map(read, eqn.invars)], programs), strict=True)
        )
    return [read(x) for x in jaxpr.outvars]


def _equation(eqn: JaxprEqn, values: list[Value], programs: dict[int, Callable]) -> Sequence[Value]:
    name = eqn.primitive.name
    if name in IDENTITIES:
        return values
    if name in ELEMENTWISE:
        return _elementwise(eqn, values)
    if name == "broadcast_in_dim":
        return _broadcast(eqn, values[0])
    if not any(map(any, (x.split for x in values))):
        return _done(eqn, [x.at(unsplit(len(x.shape))) for x in values], None)
    if name in RULES:
        return RULES[name](eqn, values)
    if name in INLINED or name in ("jit", "pjit"):
        return _call(eqn, values, programs)
    if name in CONTROL:
        return CONTROL[name](eqn, values, programs)
    return _done(eqn, [x.at(unsplit(len(x.shape))) for x in values], None)


def _done(eqn: JaxprEqn, arrays: Sequence[Array], split: Split | None, **params: Any) -> list[Part]:
    """Apply the operation to arrays, whose results are split in this way; None: not at all."""
    names = frozenset().union(*map(varying, arrays)) if arrays else frozenset()
    known = eqn.primitive.get_bind_params(eqn.params)
    functions, known = known if isinstance(known, tuple) else ((), known)  # a pair before JAX 0.8
    if names:
        arrays = [vary(x, names) for x in arrays]
    with eqn.ctx.manager:
        out = eqn.primitive.bind(*functions, *arrays, **known | params)
    results = out if eqn.primitive.multiple_results else [out]
    return [Part(x, unsplit(jnp.ndim(x)) if split is None else split) for x in results]


def _common(values: Sequence[Value], ndim: int, without: Sequence[int] = ()) -> Split:
    """Return the split that most of the work needs least exchange for; some axes stay whole."""
    splits = [x.split for x in values if len(x.shape) == ndim]
    split = max(splits, key=lambda split: sum(map(len, split)), default=unsplit(ndim))
    return tuple(() if i in without else names for i, names in enumerate(split))


# --- the operations -------------------------------------------------------------------------------

# fmt: off
IDENTITIES = {"pvary", "pcast", "copy_p", "sharding_constraint", "mesh_cast", "reshard", "name",
              "layout_constraint"}
ELEMENTWISE = {
    "abs", "acos", "acosh", "add", "add_any", "and", "asin", "asinh", "atan", "atan2", "atanh",
    "bessel_i0e", "bessel_i1e", "cbrt", "ceil", "clamp", "complex", "conj", "convert_element_type",
    "copy", "cos", "cosh", "device_put", "digamma", "div", "eq", "erf", "erf_inv", "erfc", "exp",
    "exp2", "expm1",
    "floor", "ge", "gt", "igamma", "igammac", "imag", "integer_pow", "is_finite", "le", "lgamma",
    "log", "log1p", "logistic", "lt", "max", "min", "mul", "ne", "neg", "nextafter", "not", "or",
    "polygamma", "population_count", "clz", "pow", "real", "reduce_precision", "rem", "round",
    "rsqrt", "select_n", "shift_left", "shift_right_arithmetic", "shift_right_logical", "sign",
    "sin", "sinh", "sqrt", "square", "sub", "tan", "tanh", "xor", "zeta",
}
DECOMPOSITIONS = ("cholesky", "eigh", "svd", "qr", "geqrf", "householder_product", "lu",
                  "triangular_solve", "schur", "eig")
INLINED = {"closed_call": "call_jaxpr", "core_call": "call_jaxpr", "custom_jvp_call": "call_jaxpr",
           "custom_vjp_call": "call_jaxpr", "custom_vjp_call_jaxpr": "fun_jaxpr",
           "remat": "jaxpr", "remat2": "jaxpr", "checkpoint": "jaxpr"}
# fmt: on


def _elementwise(eqn: JaxprEqn, values: list[Value]) -> Sequence[Value]:
    shape = eqn.outvars[0].aval.shape  # pyright: ignore
    if any(isinstance(x, Repeated) for x in values) and all(map(_is_number, values)):
        numbers = [x.of.local if isinstance(x, Repeated) else x.local for x in values]
        (number,) = _done(eqn, numbers, ())
        return [Repeated(number, shape, ())]
    split = _common(values, len(shape))
    return _done(eqn, [x.at(_of_operand(x, shape, split)) for x in values], split)


def _of_operand(x: Value, shape: tuple[int, ...], split: Split) -> Split:
    """Return the split of an operand: a number, or an array, may be of length 1 along some axes."""
    same = zip(x.shape, shape, split, strict=False)
    return tuple(names if n == m else () for n, m, names in same)


def _is_number(x: Value) -> bool:
    return not (x.of if isinstance(x, Repeated) else x).split


def _broadcast(eqn: JaxprEqn, x: Value) -> Sequence[Value]:
    shape, axes = eqn.params["shape"], eqn.params["broadcast_dimensions"]
    if isinstance(x, Repeated):
        x, axes = x.of, tuple(axes[axis] for axis in x.axes)
    return [Repeated(x, tuple(shape), tuple(axes))]


def _reduce(combine: Callable[[Array, tuple[str, ...]], Array]) -> Callable:
    """Reduce the part, then over the devices."""

    def rule(eqn, values):
        (x,), axes = values, eqn.params["axes"]
        names = tuple(name for axis in axes for name in x.split[axis])
        kept = tuple(split for axis, split in enumerate(x.split) if axis not in axes)
        (part,) = _done(eqn, [x.at(x.split)], kept)
        return [Part(combine(part.local, names), kept) if names else part]

    return rule


def _as_integers(combine: Callable) -> Callable:
    return lambda x, names: combine(x.astype(jnp.int32), names).astype(x.dtype)


def _dot(eqn, values):
    ndims = [len(x.shape) for x in values]
    (left, right), (left_batch, right_batch) = eqn.params["dimension_numbers"]
    x, y = values
    if len(left) == ndims[0] and len(right) == ndims[1]:  # an inner product
        to_right = dict(zip(left, right, strict=True))
        if any(x.split):
            at = x.split, tuple(x.split[i] for i in sorted(to_right, key=to_right.__getitem__))
        else:
            at = tuple(y.split[to_right[i]] for i in range(ndims[0])), y.split
        names = tuple(name for split in at[0] for name in split)
        (part,) = _done(eqn, [x.at(at[0]), y.at(at[1])], ())
        return [whole(lax.psum(part.local, names))]
    batch = [x.split[i] or y.split[j] for i, j in zip(left_batch, right_batch, strict=True)]
    at = []
    for ndim, axes in zip(ndims, (left_batch, right_batch), strict=True):
        known = dict(zip(axes, batch, strict=True))
        at.append(tuple(known.get(axis, ()) for axis in range(ndim)))
    free = eqn.outvars[0].aval.ndim - len(batch)
    return _done(eqn, [x.at(at[0]), y.at(at[1])], (*batch, *unsplit(free)))


def _decomposition(eqn, values):
    batch = _common(values, len(values[0].shape))[:-2]
    arrays = [x.at((*batch, *unsplit(len(x.shape) - len(batch)))) for x in values]
    results = _done(eqn, arrays, None)
    return [Part(x.local, (*batch, *x.split[len(batch) :])) for x in results]


def _along(axes_of: Callable[[dict], Sequence[int]], drops: bool = False) -> Callable:
    """Work along some axes, which must be whole."""

    def rule(eqn, values):
        axes, ndim = axes_of(eqn.params), len(values[0].shape)
        split = _common(values, ndim, axes)
        out = tuple(names for i, names in enumerate(split) if not (drops and i in axes))
        return _done(eqn, [x.at(split) for x in values], out)

    return rule


def _each(eqn, values):
    """Treat each operand by itself, in its own split."""
    results = _done(eqn, [x.at(x.split) for x in values], None)
    return [Part(out.local, x.split) for out, x in zip(results, values, strict=True)]


def _transpose(eqn, values):
    (x,) = values
    return _done(eqn, [x.at(x.split)], tuple(x.split[i] for i in eqn.params["permutation"]))


def _squeeze(eqn, values):
    (x,), axes = values, eqn.params["dimensions"]
    kept = tuple(names for i, names in enumerate(x.split) if i not in axes)
    return _done(eqn, [x.at(x.split)], kept)


def _reshape(eqn, values):
    """Keep an axis split where its parts are also those of an axis of the new shape.

    They are if as many elements lie before both axes, and both can be divided.
    """
    x, shape = values[0], eqn.params["new_sizes"]
    split, out = list(unsplit(len(x.shape))), list(unsplit(len(shape)))
    for i, names in enumerate(x.split):
        before, parts = math.prod(x.shape[:i]), axis_size(names)
        for j, n in enumerate(shape):
            if names and math.prod(shape[:j]) == before and n > 1 and n % parts == 0:
                split[i] = out[j] = names
                break
    new = local_shape(shape, tuple(out))
    return _done(eqn, [x.at(tuple(split))], tuple(out), new_sizes=new)


def _slice(eqn, values):
    (x,), params = values, eqn.params
    cuts = zip(x.shape, params["start_indices"], params["limit_indices"], strict=True)
    strides = params["strides"] or (1,) * len(x.shape)
    whole_axes = [(a, b) == (0, n) for n, a, b in cuts]
    split = tuple(
        names if full and stride == 1 else ()
        for names, full, stride in zip(x.split, whole_axes, strides, strict=True)
    )
    ends = zip(params["limit_indices"], split, strict=True)
    limits = tuple(n // axis_size(names) for n, names in ends)
    return _done(eqn, [x.at(split)], split, limit_indices=limits)


def _dynamic_slice(eqn, values):
    x, starts = values[0], [s.at(()) for s in values[1:]]
    sizes = eqn.params["slice_sizes"]
    split = tuple(
        names if n == size else () for names, n, size in zip(x.split, x.shape, sizes, strict=True)
    )
    return _done(eqn, [x.at(split), *starts], split, slice_sizes=local_shape(sizes, split))


def _dynamic_update_slice(eqn, values):
    x, new, starts = values[0], values[1], [s.at(()) for s in values[2:]]
    partial = [i for i, (n, m) in enumerate(zip(x.shape, new.shape, strict=True)) if n != m]
    split = _common([x, new], len(x.shape), partial)
    return _done(eqn, [x.at(split), new.at(split), *starts], split)


def _pad(eqn, values):
    x, by = values
    padded = [i for i, config in enumerate(eqn.params["padding_config"]) if any(config)]
    split = _common([x], len(x.shape), padded)
    return _done(eqn, [x.at(split), by.at(())], split)


RULES: dict[str, Callable[[JaxprEqn, list[Any]], Sequence[Value]]] = {
    "reduce_sum": _reduce(lax.psum),
    "reduce_max": _reduce(lax.pmax),
    "reduce_min": _reduce(lax.pmin),
    "reduce_or": _reduce(_as_integers(lax.pmax)),
    "reduce_and": _reduce(_as_integers(lax.pmin)),
    "argmax": _along(lambda params: params["axes"], drops=True),
    "argmin": _along(lambda params: params["axes"], drops=True),
    "reduce_prod": _along(lambda params: params["axes"], drops=True),
    "dot_general": _dot,
    **dict.fromkeys(DECOMPOSITIONS, _decomposition),
    **dict.fromkeys(
        ("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp", "split"),
        _along(lambda params: [params["axis"]]),
    ),
    "rev": _along(lambda params: params["dimensions"]),
    "sort": _along(lambda params: [params["dimension"]]),
    "concatenate": _along(lambda params: [params["dimension"]]),
    **dict.fromkeys(
        ("optimization_barrier", "psum", "psum_invariant", "psum2", "pmax", "pmin"), _each
    ),
    "transpose": _transpose,
    "squeeze": _squeeze,
    "reshape": _reshape,
    "slice": _slice,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
    "pad": _pad,
}


# --- functions inside -----------------------------------------------------------------------------


def _closed(jaxpr: Any) -> tuple[Jaxpr, list[Value]]:
    if isinstance(jaxpr, ClosedJaxpr):
        return jaxpr.jaxpr, list(map(whole, jaxpr.consts))
    return jaxpr, []


def _function(jaxpr: Any, programs: dict[int, Callable]) -> Callable[..., Sequence[Value]]:
    plain, consts = _closed(jaxpr)
    return lambda *values: _evaluate(plain, consts, values, programs)


def _call(eqn, values, programs):
    """Evaluate the function inside; one of a jit has a program for all calls, if it is long."""
    if eqn.primitive.name in INLINED:
        return _function(eqn.params[INLINED[eqn.primitive.name]], programs)(*values)
    jaxpr = eqn.params["jaxpr"]
    function = _function(jaxpr, programs)
    if len(jaxpr.jaxpr.eqns) < 8:
        return function(*values)
    if id(jaxpr) not in programs:
        function.__name__ = function.__qualname__ = eqn.params["name"]
        programs[id(jaxpr)] = jax.jit(function)
    return programs[id(jaxpr)](*values)


def _traced(function: Callable, *args: Any) -> list[tuple[Split, frozenset[str]]]:
    """Return how the results of a function are split and over which axes they vary."""
    found: list[tuple[Split, frozenset[str]]] = []

    def noting(*args):
        results = function(*args)
        found[:] = [
            (x.split, frozenset().union(*map(varying, jax.tree.leaves(x)))) for x in results
        ]
        return jax.tree.leaves(results)

    jax.make_jaxpr(noting)(*args)
    return found


def _placed(values: Sequence[Value], splits: Sequence[Split], names: Sequence[frozenset[str]]):
    placed = zip(values, splits, names, strict=True)
    return [Part(vary(x.at(split), over), split) for x, split, over in placed]


NOWHERE: frozenset[str] = frozenset()


def _cond(eqn, values, programs):
    index, *operands = values
    branches = [_function(jaxpr, programs) for jaxpr in eqn.params["branches"]]
    seen = [[split for split, _ in _traced(branch, *operands)] for branch in branches]
    splits = []
    for column in zip(*seen, strict=True):
        some = {split for split in column if any(split)}
        splits.append(some.pop() if len(some) == 1 else unsplit(len(column[0])))

    def placing(branch, names):
        return lambda *args: _placed(branch(*args), splits, names)

    nowhere = [NOWHERE] * len(splits)
    over = [[names for _, names in _traced(placing(b, nowhere), *operands)] for b in branches]
    names = [NOWHERE.union(*column) for column in zip(*over, strict=True)]
    return lax.switch(index.at(()), [placing(b, names) for b in branches], *operands)


def _steady(body: Callable, carry: Sequence[Value], *more: Any):
    """Return a carry that a loop keeps the splits and types of, and the body that does so."""
    seen = _traced(body, carry, *more)[: len(carry)]
    splits = []
    for x, (split, _) in zip(carry, seen, strict=True):
        same = x.split == split or isinstance(x, Repeated)
        splits.append(split if same else unsplit(len(split)))

    def placing(names):
        def step(carry, *more):
            out = body(carry, *more)
            n = len(carry)
            return [*_placed(out[:n], splits, names), *out[n:]]

        return step

    names = [varying(x.at(split)) for x, split in zip(carry, splits, strict=True)]
    while True:
        start = _placed(carry, splits, names)
        over = [names for _, names in _traced(placing(names), start, *more)[: len(carry)]]
        if over == names:
            return start, placing(names)
        names = [a | b for a, b in zip(names, over, strict=True)]


def _while(eqn, values, programs):
    n_cond, n_body = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    for_cond, for_body = values[:n_cond], values[n_cond : n_cond + n_body]
    going = _function(eqn.params["cond_jaxpr"], programs)
    body = _function(eqn.params["body_jaxpr"], programs)
    start, step = _steady(lambda carry: body(*for_body, *carry), values[n_cond + n_body :])
    return lax.while_loop(lambda carry: going(*for_cond, *carry)[0].at(()), step, start)


def _scan(eqn, values, programs):
    params = eqn.params
    first = params["num_consts"]
    last = first + params["num_carry"]
    consts, carry, xs = values[:first], values[first:last], values[last:]
    body = _function(params["jaxpr"], programs)
    xs = [Part(x.at(((), *x.split[1:])), ((), *x.split[1:])) for x in xs]
    one = [Part(x.local[0], x.split[1:]) for x in xs]
    start, step = _steady(lambda carry, row: body(*consts, *carry, *row), carry, one)
    ys: list[Split] = []

    def scanned(carry, row):
        out = step(carry, [Part(x, whole.split[1:]) for x, whole in zip(row, xs, strict=True)])
        new, rest = out[: len(carry)], out[len(carry) :]
        ys[:] = [y.split for y in rest]
        return new, [y.at(y.split) for y in rest]

    end, columns = lax.scan(
        scanned,
        start,
        [x.local for x in xs],
        length=params["length"],
        reverse=params["reverse"],
        unroll=params["unroll"],
    )
    return [*end, *(Part(y, ((), *split)) for y, split in zip(columns, ys, strict=True))]


CONTROL = {"cond": _cond, "while": _while, "scan": _scan}


# --- what mixes elements --------------------------------------------------------------------------

MIXING = {
    *(name for name in RULES if name.startswith(("reduce_", "arg", "cum", "dot", "sort"))),
    *DECOMPOSITIONS,
    "conv_general_dilated",
    "top_k",
}


_own_values: ContextVar[bool] = ContextVar("_own_values", default=False)


@contextlib.contextmanager
def as_own() -> Iterator[None]:
    """While this is open, arrays that vary are taken as whole ones, of each device its own."""
    token = _own_values.set(True)
    try:
        yield
    finally:
        _own_values.reset(token)


def refuse_parts(
    name: str,
    update: Callable[..., PyTree],
    grads: PyTree,
    state: PyTree,
    params: PyTree,
    extra: dict,
) -> None:
    """Raise if an update combines elements of arrays which vary over manual axes.

    Each device would combine those of its part only. An update inside that is to blame is named.

    Args:
      name: what the user called.
      update: the function.
      grads: its arguments, as the three below.
      state: see `grads`.
      params: see `grads`.
      extra: see `grads`.
    """
    names = NOWHERE.union(*map(varying, jax.tree.leaves(grads)))
    if _own_values.get() or not names:
        return
    leaves, treedef = jax.tree.flatten((grads, state, params, extra))
    at = [i for i, x in enumerate(leaves) if hasattr(x, "dtype")]
    avals = [jax.typeof(leaves[i]) for i in at]
    like = [jax.ShapeDtypeStruct(x.shape, x.dtype, weak_type=x.weak_type) for x in avals]

    def of_arrays(*arrays):
        new = list(leaves)
        for i, x in zip(at, arrays, strict=True):
            new[i] = x
        grads, state, params, extra = treedef.unflatten(new)
        return update(grads, state, params, **extra)

    try:
        with as_own():
            jaxpr = jax.make_jaxpr(of_arrays)(*like).jaxpr
    except (TypeError, ValueError):  # the call itself will raise it
        return
    varies = [bool(varying(leaves[i])) for i in at]
    found: list[str] = []
    _follow(jaxpr, varies, found)
    if not found:
        return
    with contextlib.suppress(TypeError, ValueError):  # of what need not fit together here
        jax.make_jaxpr(of_arrays)(*(leaves[i] for i in at))  # an update inside raises this error
    axes = ", ".join(map(repr, sorted(names)))
    raise RuntimeError(  # which rules do not explain as a state that does not fit
        f"{name} combines elements of an array ({found[0]}) that differs between the devices along "
        f"the mesh axis {axes} of jax.shard_map, where each device sees its own part only. Use "
        "gdjax.in_shard_map(optimizer, specs) with the PartitionSpecs of the parameters; if each "
        "device has whole parameters of its own, specs=jax.sharding.PartitionSpec()."
    )


def _follow(jaxpr: Jaxpr, varies: Sequence[bool], found: list[str]) -> list[bool]:
    """Return which results depend on arrays that vary; note operations that combine elements."""
    known = dict(zip(jaxpr.invars, varies, strict=True))
    for eqn in jaxpr.eqns:
        given = [not isinstance(x, Literal) and known.get(x, False) for x in eqn.invars]
        arrays = [x for x, varies in zip(eqn.invars, given, strict=True) if varies]
        if eqn.primitive.name in MIXING and any(getattr(x.aval, "ndim", 0) for x in arrays):
            found.append(eqn.primitive.name)
        out = [any(given)] * len(eqn.outvars)
        for inner in jax.tree.leaves(list(eqn.params.values()), is_leaf=_is_jaxpr):
            if _is_jaxpr(inner) and any(given):
                inner = getattr(inner, "jaxpr", inner)
                n = len(inner.invars)
                loops = eqn.primitive.name in ("while", "scan") or len(given) < n
                results = _follow(inner, [True] * n if loops else given[-n:] if n else [], found)
                out = results if not loops and len(results) == len(out) else out
        known.update(zip(eqn.outvars, out, strict=True))
    return [not isinstance(x, Literal) and known.get(x, False) for x in jaxpr.outvars]


def _is_jaxpr(x: Any) -> bool:
    return isinstance(x, (Jaxpr, ClosedJaxpr))
