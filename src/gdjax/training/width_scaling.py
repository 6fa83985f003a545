"""Maximal update parametrization: rates, decays and initial sizes that hold for every width.

Yang & Hu et al. (2022), "Tensor Programs V", tables 3 and 8, https://arxiv.org/abs/2203.03466
Yang, Simon & Bernstein (2023), condition 1, https://arxiv.org/abs/2310.17813
Gupta et al. (2026), for Shampoo, Muon and others, https://arxiv.org/abs/2602.20937
Paper -> here: n_(l-1), n_l -> fan_in, fan_out, base dimension -> base_params. Deviations: the
multiplier of the output layer of table 8 is in its initial size and rate, as in table 3.

The condition: a step changes a matrix by sqrt(fan_out / fan_in) in the spectral norm, which changes
each activation by an amount that does not depend on the width. A gradient has few directions, and
entries of size 1 / fan_out. If an optimizer cuts an array into blocks, and divides each block by
its norm to the power 2 E, the spectral norm of its direction is

    sqrt(number of blocks) (sqrt(size of a block) / fan_out)**(1 - 2 E).

SGD has one block and E = 0, Muon and Shampoo one block and E = 1/2, Adam blocks of one element and
E = 1/2. The rate is the quotient of the two norms, relative to that of the base model.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gdjax.core.base import Optimizer, short
from gdjax.core.checks import check_choice, strict
from gdjax.core.hyper import check_distinct, first_match, nearest, path_name
from gdjax.core.numerics import root_mean_sq, upcast
from gdjax.core.times import ByGroup, times
from gdjax.core.types import ArrayTree, Params
from gdjax.linalg.matrices import DimensionNumbers, matrix_axes
from gdjax.namespace import load
from gdjax.optimizers.shampoo import shampoo_blocks

P = TypeVar("P")
Layout = Literal["in_out", "out_in"]
VECTORS = ("bias", "scale")  # names of parameters that have no fan-in, however many axes they have

KINDS = ("input", "hidden", "output", "vector", "fixed")
ENTRYWISE = (
    "adabelief adagrad adam adam_mini adamax adamaxw adamw adan ademamix adopt amsgrad laprop lion "
    "nadam nadamw radam rmsprop sign_sgd signum simplified_ademamix sophia stable_adamw yogi"
).split()
GRADIENT = ("gradient_descent", "sgd")
POLAR = ("muon", "normuon", "soap_muon", "dion2")
EPS_OF_GRADIENTS = ("adam", "adamax", "adamaxw", "adamw", "amsgrad", "nadam", "nadamw")


class Width(NamedTuple):
    """What is known of one parameter.

    Attributes:
      path: its path, keys joined by "/".
      base_shape: its shape in the base model.
      shape: its shape.
      kind: "hidden" if its fan-in and its fan-out change with the width, "input" if its fan-out
        does, "output" if its fan-in does, "vector" if it has no fan-in, "fixed" if neither changes.
      fan_in: fan-in relative to that of the base model.
      fan_out: fan-out relative to that of the base model.
      spec: the axes of a hidden matrix; None if it is none, or has further axes that are not named.
    """

    path: str
    base_shape: tuple[int, ...]
    shape: tuple[int, ...]
    kind: str
    fan_in: float
    fan_out: float
    spec: DimensionNumbers | None = None

    def init_scale(self) -> float:
        """Return the initial size relative to that of the base model."""
        power = {"hidden": 0.5, "output": 1.0}.get(self.kind, 0.0)
        return self.fan_in**-power


class WidthScaling:
    """Which multipliers the parameters of a wider model have; see `width_scaling`.

    Attributes:
      widths: a `Width` for each parameter, in their order.
    """

    def __init__(self, widths: tuple[Width, ...]):
        self.widths = widths

    def scaled(self, factory: Callable[..., Optimizer]) -> Callable[..., Optimizer]:
        """Return a factory of optimizers whose numbers are those of the base model.

        It has the arguments of `factory`. Learning rates, decoupled weight decays and, for Adam and
        its relatives, `eps` become `times` of what is given and the multipliers of the parameters,
        which are leaves of the state. The product of rate and weight decay does not depend on the
        width. Muon takes the hidden matrices alone, and Adam the rest.

        Args:
          factory: one of gdjax: SGD, Adam or a method whose step has entries of like size, Muon,
            NorMuon, Dion2, SOAP-Muon, Shampoo, or Scion, which needs no multipliers; or a partial
            of one, as `functools.partial(gdjax.shampoo, graft=None)`.

        Raises:
          ValueError: for a factory whose steps are of unknown size, such as a function of your own
            that calls one of gdjax.

        Example:
          >>> import gdjax, jax.numpy as jnp
          >>> base, params = {"w": jnp.ones((8, 8))}, {"w": jnp.ones((32, 32))}
          >>> adamw = gdjax.width_scaling(params, base).scaled(gdjax.adamw)
          >>> updates, state = (opt := adamw(0.1)).update(params, opt.init(params), params)
          >>> print(updates["w"][0, :2])
          [-0.025 -0.025]
        """
        function: Any = factory
        first: tuple[Any, ...] = ()
        named: dict[str, Any] = {}
        if isinstance(factory, functools.partial):
            function, first, named = factory.func, factory.args, factory.keywords
        name = getattr(function, "__name__", "")
        known = [*ENTRYWISE, *GRADIENT, *POLAR, "shampoo", "scion"]
        if name not in known:
            raise ValueError(
                f"width_scaling(...).scaled(factory=...) must be one of {nearest(name, known)}, "
                f"got {name or factory!r}, whose steps are of unknown size. Multiply its learning "
                "rate by that of a method with steps of like size, gdjax.times(0.1, "
                'scaling.learning_rate("adam")).'
            )
        if function is not load("gdjax", name):
            raise ValueError(
                f"width_scaling(...).scaled(factory=...) must be gdjax.{name} itself, got another "
                f"function of that name, {factory!r}, whose own arguments are not seen. Give them "
                f"by functools.partial(gdjax.{name}, ...)."
            )
        signature = inspect.signature(function)

        @functools.wraps(function)
        def scaled_factory(*args: Any, **kwargs: Any) -> Optimizer:
            try:
                given = signature.bind(*first, *args, **named | kwargs)
            except TypeError:
                return factory(*args, **kwargs)  # whose error names the argument
            given.apply_defaults()
            return function(**self._numbers(name, dict(given.arguments)))

        vars(scaled_factory)["__signature__"] = inspect.signature(factory)
        return scaled_factory

    def _numbers(self, name: str, given: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments of a factory with those multiplied that depend on the width."""
        if name == "scion":
            return given
        if name in POLAR:
            if given["muon_weight_dimension_numbers"] is not None:
                raise ValueError(
                    f"{name}(muon_weight_dimension_numbers=...) must be None with width_scaling, "
                    "which says what the hidden matrices are. Name their axes there, by "
                    "width_scaling(dimension_numbers=...)."
                )
            if all(width.kind == "fixed" for width in self.widths):
                raise ValueError(
                    f"width_scaling(...).scaled({name}): no axis of a parameter differs from that "
                    "of base_params, so which are hidden matrices is not known. Pass the "
                    "parameters of a wider model, or their shapes, as wide_params=... ."
                )
            given["muon_weight_dimension_numbers"] = self._matrices
        rates = [_rate(name, width, given) for width in self.widths]
        inverse = [1 / rate for rate in rates]
        for key in ("learning_rate", "adam_learning_rate"):
            self._multiply(given, key, rates)
        for key in ("weight_decay", "adam_weight_decay"):
            self._multiply(given, key, inverse)
        if name in EPS_OF_GRADIENTS:
            self._multiply(given, "eps", [1 / width.fan_out for width in self.widths])
        return given

    def _multiply(self, given: dict[str, Any], key: str, multipliers: list[float]) -> None:
        value = given.get(key)
        if value is not None and not (isinstance(value, (int, float)) and value == 0):
            given[key] = times(value, self._by_group(multipliers))

    @functools.cached_property
    def _matrices(self) -> ByGroup:  # one object, so that all rates share an update function
        return self._by_group([width.spec for width in self.widths])

    def _by_group(self, values: list[Any]) -> ByGroup:
        """Return the values as a tree in which parameters of a kind share a number."""
        names: dict[tuple[str, Any], str] = {}
        for width, value in zip(self.widths, values, strict=True):
            if (width.kind, value) not in names:
                others = sum(kind == width.kind for kind, _ in names)
                names[width.kind, value] = f"{width.kind}_{others}" if others else width.kind
        members = tuple(
            (width.path, names[width.kind, value], width.shape)
            for width, value in zip(self.widths, values, strict=True)
        )
        return ByGroup(tuple(names.values()), tuple(v for _, v in names), members, "width_scaling")

    def learning_rate(self, like: Literal["adam", "sgd", "muon"] = "adam") -> ByGroup:
        """Return the multipliers of the learning rate, for `times`.

        Args:
          like: the method whose steps are of like size: "adam", entries of size 1; "sgd",
            proportional to the gradient; "muon", hidden matrices of spectral norm 1, before any
            scale for their shape, and Adam for the rest.
        """
        check_choice("learning_rate(like=...)", like, ("adam", "sgd", "muon"))
        return self._by_group([_rate(like, w, {"scale": None}) for w in self.widths])

    def mask(self, *kinds: str) -> ByGroup:
        """Return for each parameter whether it is of one of the kinds, as in `Width`.

        Args:
          *kinds: for instance "hidden", for the mask of `hyperball` or of a weight decay.
        """
        for kind in kinds:
            check_choice("mask(*kinds)", kind, KINDS)
        return self._by_group([width.kind in kinds for width in self.widths])

    def init(self, params: P, base_params: Params) -> P:
        """Return the parameters with initial sizes that follow from those of the base model.

        The root mean square of a matrix of fan-in m becomes that of the base model's times
        (base fan-in / m)^(1/2) if it is hidden, (base fan-in / m) if it is an output layer, and 1
        if it is an input layer. So it does not matter how the initializer depends on the width.
        Vectors and arrays of zeros do not change.

        Args:
          params: the initial parameters.
          base_params: those of the base model, arrays.

        Example:
          >>> import gdjax, jax.numpy as jnp
          >>> base, params = {"out": jnp.ones((8, 3))}, {"out": jnp.ones((32, 3))}
          >>> print(gdjax.width_scaling(params, base).init(params, base)["out"][0])
          [0.25 0.25 0.25]
        """
        leaves, treedef = jax.tree.flatten(params)
        bases = jax.tree.leaves(base_params)
        if [jnp.shape(x) for x in leaves + bases] != [
            *(w.shape for w in self.widths),
            *(w.base_shape for w in self.widths),
        ]:
            raise ValueError(
                "width_scaling(...).init(params, base_params) must have the shapes that "
                "width_scaling was called with."
            )
        rows = zip(leaves, bases, self.widths, strict=True)
        return treedef.unflatten([_resized(x, base, width) for x, base, width in rows])

    def __repr__(self) -> str:
        """Show a table of the parameters with the multipliers for SGD, Adam and Muon."""
        head = ("path", "base shape", "shape", "kind", "init", "adam", "sgd", "muon")
        rows = [
            (
                w.path,
                str(w.base_shape),
                str(w.shape),
                w.kind,
                *(
                    f"{x:.4g}"
                    for x in (
                        w.init_scale(),
                        *(_rate(like, w, {"scale": None}) for like in ("adam", "sgd", "muon")),
                    )
                ),
            )
            for w in self.widths
        ]
        sizes = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
        lines = (
            "  ".join(x.ljust(n) for x, n in zip(row, sizes, strict=True)) for row in (head, *rows)
        )
        return "\n".join(line.rstrip() for line in lines)


def _resized(x: Array, base: Array, width: Width) -> Array:
    if width.kind in ("fixed", "vector"):
        return x
    size, base_size = root_mean_sq(upcast(x)), root_mean_sq(upcast(base))
    factor = jnp.where(size > 0, base_size * width.init_scale() / jnp.where(size > 0, size, 1), 1)
    return (upcast(x) * factor).astype(x.dtype)


def _rate(name: str, width: Width, given: Mapping[str, Any]) -> float:
    """Return the learning rate relative to that of the base model; see the module's docstring."""
    if name in POLAR and width.spec is not None:
        shapes = width.base_shape, width.shape
        base, now = (_polar_scale(given, *_sides(width.spec, shape)) for shape in shapes)
    else:
        base = _direction_norm(name, width.base_shape, 1.0, given)
        now = _direction_norm(name, width.shape, width.fan_out, given)
    return math.sqrt(width.fan_out / width.fan_in) * base / now


def _polar_scale(given: Mapping[str, Any], fan_in: int, fan_out: int) -> float:
    """Return what Muon multiplies the polar factor of a matrix by."""
    if given.get("consistent_rms") is not None:
        return math.sqrt(max(fan_in, fan_out))
    scale = given.get("scale")
    if scale == "width":
        return math.sqrt(max(1.0, fan_out / fan_in))
    return math.sqrt(fan_out / fan_in) if scale == "spectral" else 1.0


def _direction_norm(
    name: str, shape: tuple[int, ...], fan_out: float, given: Mapping[str, Any]
) -> float:
    """Return the spectral norm of a direction, where `fan_out` is relative to the base model."""
    size = max(math.prod(shape), 1)
    if name == "shampoo" and given["graft"] is None:
        cut = shampoo_blocks(shape, given["merge_dims"], given["block_size"], given["one_sided"])
        one_sided = given["one_sided"] and max(cut.block, default=1) > 1
        axes = 1 if one_sided else len(cut.block)
        exponent = given["exponent"]
        if not isinstance(exponent, (int, float, type(None))):
            raise ValueError(
                "shampoo(exponent=...) must be one number of Python with width_scaling, on which "
                f"the rates depend, got {short(exponent)}."
            )
        powers = 0.5 if exponent is None else axes * exponent
        blocks = math.prod(cut.grid)
    elif name in GRADIENT or (name == "shampoo" and given["graft"] == "sgd"):
        powers, blocks = 0.0, 1
    else:
        powers, blocks = 0.5, size
    return math.sqrt(blocks) * (math.sqrt(size / blocks) / fan_out) ** (1 - 2 * powers)


def _sides(spec: DimensionNumbers, shape: tuple[int, ...]) -> tuple[int, int]:
    """Return fan-in and fan-out."""
    fan_in, fan_out = (
        math.prod(shape[i] for i in (side if isinstance(side, tuple) else (side,)))
        for side in (spec.reduction_axis, spec.output_axis)
    )
    return fan_in, fan_out


@strict()
def width_scaling(
    params: ArrayTree,
    base_params: ArrayTree,
    wide_params: ArrayTree | None = None,
    *,
    layout: Layout = "in_out",
    dimension_numbers: Mapping[str, DimensionNumbers | None] | None = None,
) -> WidthScaling:
    r"""Compare a model with a narrower one, so that numbers tuned on that hold for it (µP).

    In the maximal update parametrization, activations and their changes by a step have sizes that
    do not depend on the width, and so the best learning rate does not either. With
    :math:`i` and :math:`o` the fan-in and fan-out of a parameter relative to the base model's:

    ======= ==================== ============ ================== ==============================
    kind    initial size         rate of Adam rate of SGD        rate of Muon, Shampoo
    ======= ==================== ============ ================== ==============================
    input   1                    1            :math:`o`          as Adam
    hidden  :math:`1 / \sqrt i`  :math:`1/i`  :math:`o / i`      :math:`\sqrt{o / i}`
    output  :math:`1 / i`        :math:`1/i`  :math:`1 / i`      as Adam
    vector  1                    1            :math:`o`          as Adam
    ======= ==================== ============ ================== ==============================

    The rate of Muon is before its own scale for the shape; with `scale="spectral"` it needs no
    multiplier. Shampoo with a graft has the rate of the graft; without one, that of its blocks and
    powers, also for inputs, outputs and vectors. Weight decay is divided by the multiplier of the
    rate. A base model of the same width has multipliers of 1: tune there, and use the same numbers
    for `params`. `wide_params` then says what the base model's own parameters are, which Muon has
    to know.

    An axis that differs between the two models belongs to the width. Where two do, the first is the
    fan-in; where one does, it is the fan-out if it is the last axis, else the fan-in; an array of
    one axis, or whose name is "bias" or "scale", is a vector. More than two are an error, unless
    `dimension_numbers` has the parameter.

    What is not a number of the optimizer is left to the model: attention whose heads become wider
    divides by their width, not its root, and an embedding that is also the output layer needs a
    factor of :math:`1 / i` on the outputs.

    Differences: `mup`, for torch, multiplies the output by :math:`1 / i` in the model (table
    8), where here its initial size and rate are smaller (table 3); the functions computed are the
    same for Adam without eps.

    Args:
      params: the parameters, or their shapes.
      base_params: those of the narrower model, a tree of the same structure.
      wide_params: those of a wider model, or their shapes, from which the kinds of the parameters
        are inferred; None is `params`.
      layout: "in_out" for kernels (..., fan_in, fan_out), as in Flax; "out_in" for weights
        (fan_out, fan_in, ...), as in Equinox and torch.
      dimension_numbers: pattern over paths, as in `by_path` -> `MuonDimensionNumbers`, the axes of
        fan-in and fan-out, or None for a vector, for parameters that are not stored in this way: an
        embedding (tokens, width) of Equinox, a kernel with axes for heads.

    Returns:
      A `WidthScaling`. Its `scaled(factory)` is a factory of optimizers, for `sweep` as well, and
      `init(params, base_params)` resizes initial parameters; printed, it is a table.

    Raises:
      ValueError: if the trees differ in structure or number of axes, if more than two axes of a
        parameter differ, or if a pattern matches no parameter.

    Example:
      >>> import gdjax, jax
      >>> def init(width):
      ...     return gdjax.models.mlp([8, width, width, 2]).init(jax.random.key(0))
      >>> scaling = gdjax.width_scaling(init(64), init(16))
      >>> scaling
      path             base shape  shape     kind    init  adam  sgd   muon
      linear_0/bias    (16,)       (64,)     vector  1     1     4     1
      linear_0/kernel  (8, 16)     (8, 64)   input   1     1     4     1
      linear_1/bias    (16,)       (64,)     vector  1     1     4     1
      linear_1/kernel  (16, 16)    (64, 64)  hidden  0.5   0.25  1     1
      linear_2/bias    (2,)        (2,)      fixed   1     1     1     1
      linear_2/kernel  (16, 2)     (64, 2)   output  0.25  0.25  0.25  0.25
      >>> params = scaling.init(init(64), init(16))
      >>> optimizer = scaling.scaled(gdjax.adamw)(3e-3, weight_decay=0.1)
      >>> state = optimizer.init(params)
      >>> print(gdjax.hyperparams(state)["learning_rate.multipliers.hidden"])
      0.25

    References:
      Yang, Hu et al. (2022), "Tensor Programs V: tuning large neural networks via zero-shot
      hyperparameter transfer". Yang, Simon & Bernstein (2023), "A spectral condition for feature
      learning". Gupta et al. (2026), "Extending µP: spectral conditions for feature learning across
      optimizers".
    """
    rows, treedef = jax.tree_util.tree_flatten_with_path(params)
    others = {
        "base_params": base_params,
        "wide_params": params if wide_params is None else wide_params,
    }
    for argument, other in others.items():
        if jax.tree.structure(other) != treedef:
            raise ValueError(
                f"width_scaling({argument}=...) must be a tree like params, got "
                f"{jax.tree.structure(other)} for {treedef}."
            )
    base, wide = map(jax.tree.leaves, others.values())
    specs = dimension_numbers or {}
    names = [path_name(path) for path, _ in rows]
    check_distinct("width_scaling: the parameters", names)
    found = [first_match(tuple(specs), name) for name in names]
    for i, pattern in enumerate(specs):
        if i not in found:
            raise ValueError(
                f"width_scaling(dimension_numbers=...): the pattern {pattern!r} is the first match "
                f"of no parameter; the paths are {nearest(pattern, names)}."
            )
    values = tuple(specs.values())
    widths = []
    for name, (_, x), b, w, i in zip(names, rows, base, wide, found, strict=True):
        shapes = jnp.shape(b), jnp.shape(x), jnp.shape(w)
        if len(set(map(len, shapes))) > 1:
            raise ValueError(
                f"width_scaling: {name!r} has the shape {shapes[1]}, in base_params {shapes[0]}, "
                f"in wide_params {shapes[2]}; the number of axes must be the same."
            )
        if i is None:
            widths.append(_inferred(name, *shapes, layout))
        else:
            widths.append(_named(name, *shapes, values[i]))
    return WidthScaling(tuple(widths))


def _inferred(
    name: str,
    base: tuple[int, ...],
    shape: tuple[int, ...],
    wide: tuple[int, ...],
    layout: Layout,
) -> Width:
    changed = [i for i, (m, n) in enumerate(zip(base, wide, strict=True)) if m != n]
    ratios = [_ratio(shape[i], base[i]) for i in changed]
    own = name.removesuffix("/value").rpartition("/")[2]
    if not changed:
        return Width(name, base, shape, "fixed", 1.0, 1.0)
    if len(shape) == 1 or own in VECTORS:
        return Width(name, base, shape, "vector", 1.0, math.prod(ratios))
    if len(changed) > 2:
        raise ValueError(
            f"width_scaling: more than two axes of {name!r} differ, {base} and {wide}, so that "
            "fan-in and fan-out are not known. Name them: dimension_numbers={"
            f"{name!r}: gdjax.MuonDimensionNumbers(reduction_axis, output_axis)}}."
        )
    if len(changed) == 2:
        fan_in, fan_out = ratios if layout == "in_out" else ratios[::-1]
        axes = (0, 1) if layout == "in_out" else (1, 0)
        spec = DimensionNumbers(*axes) if len(shape) == 2 else None
        return Width(name, base, shape, "hidden", fan_in, fan_out, spec)
    if changed[0] == (len(shape) - 1 if layout == "in_out" else 0):
        return Width(name, base, shape, "input", 1.0, ratios[0])
    return Width(name, base, shape, "output", ratios[0], 1.0)


def _named(
    name: str,
    base: tuple[int, ...],
    shape: tuple[int, ...],
    wide: tuple[int, ...],
    spec: DimensionNumbers | None,
) -> Width:
    if spec is None:
        ratio = math.prod(map(_ratio, shape, base))
        return Width(name, base, shape, "fixed" if base == wide else "vector", 1.0, ratio)
    matrix_axes("width_scaling(dimension_numbers=...)", {name: spec}, {name: np.empty(shape)})
    sides, base_sides, wide_sides = (_sides(spec, sizes) for sizes in (shape, base, wide))
    inputs, outputs = (m != n for m, n in zip(base_sides, wide_sides, strict=True))
    kinds = {(False, False): "fixed", (False, True): "input", (True, False): "output"}
    kind = kinds.get((inputs, outputs), "hidden")
    fan_in, fan_out = map(_ratio, sides, base_sides)
    return Width(name, base, shape, kind, fan_in, fan_out, spec if kind == "hidden" else None)


def _ratio(size: int, base: int) -> float:
    return size / base if base else 1.0
