"""Optimizers of matrices: galore and muon, and which axes make a matrix."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

import gdjax
from gdjax.compat.optax.adding import add_decayed_weights
from gdjax.compat.optax.alias import adamw
from gdjax.compat.optax.base import (
    GradientTransformation,
    MaskOrFn,
    OptState,
    Params,
    ScalarOrSchedule,
    Updates,
    init_empty_state,
)
from gdjax.compat.optax.combine import chain, partition
from gdjax.compat.optax.contrib.adapting import as_numbers, on_trees
from gdjax.compat.optax.masking import tree_given_by
from gdjax.compat.optax.transform import scale_by_adam, scale_by_learning_rate
from gdjax.core.checks import check_choice
from gdjax.core.numerics import cast_like, compute_dtype, upcast
from gdjax.core.types import Number
from gdjax.linalg.matrices import Axes, DimensionNumbers, MatrixSpec, matrix_axes
from gdjax.linalg.polar import NAMED, Preconditioning
from gdjax.optimizers.galore import Projector
from gdjax.optimizers.shared.orthogonal import Table, scaled


class MuonDimensionNumbers(NamedTuple):
    """Which axis or axes of a parameter are the two sides of a matrix; the others are a batch."""

    reduction_axis: Sequence[int] | int = 0
    output_axis: Sequence[int] | int = 1


class GaLoreDimensionNumbers(NamedTuple):
    """Which axis or axes of a parameter are the two sides of a matrix."""

    reduction_axis: Sequence[int] | int = 0
    output_axis: Sequence[int] | int = 1


def _is_spec(node: Any) -> bool:
    return isinstance(node, (MuonDimensionNumbers, GaLoreDimensionNumbers, DimensionNumbers))


def _is_spec_or_none(node: Any) -> bool:
    return node is None or _is_spec(node)


def axes_of(what: str, spec: Any, params: Params) -> list[Axes | None]:
    """Return for each leaf the axes of its matrices, or None.

    Args:
      what: the argument's name, for errors.
      spec: optax's dimension numbers: those of all leaves, a prefix tree of them and None, a
        function of the parameters that gives one, or None for the leaves of two dimensions.
      params: the parameters.
    """
    if not jax.tree.leaves(params):
        return []
    spec = tree_given_by(spec, params)
    native: MatrixSpec = jax.tree.map(_native, spec, is_leaf=_is_spec_or_none)
    return matrix_axes(what, native, params)


def _native(spec: Any) -> DimensionNumbers | None:
    if not _is_spec(spec):
        return spec
    sides = (side if isinstance(side, int) else tuple(side) for side in spec[:2])
    return DimensionNumbers(*sides)


# --- GaLore ---------------------------------------------------------------------------------------


class GaLoreState(NamedTuple):
    """What GaLore remembers.

    Attributes:
      count: number of updates so far, int32.
      base_optimizer_state: that of the transformation that sees the projected gradients.
      projector: the basis of each parameter, of shape (0, 0) where there is none.
    """

    count: Array
    base_optimizer_state: OptState
    projector: Updates


GaLoreDimNumsOrFn = GaLoreDimensionNumbers | Params | Callable[[Params], Params | None]


def scale_by_galore(
    rank: int = 128,
    update_proj_gap: int = 200,
    scale: float = 1.0,
    base_optimizer: GradientTransformation | None = None,
    weight_dimension_numbers: GaLoreDimNumsOrFn | None = None,
) -> GradientTransformation:
    """Return GaLore's direction, uphill; see `galore`.

    Raises:
      TypeError: if `rank` is not an integer.
      ValueError: if it is not positive.
    """
    what = "scale_by_galore"
    if not isinstance(rank, int):
        raise TypeError(f"{what}(rank=...) must be an integer, got {type(rank).__name__}.")
    base = scale_by_adam() if base_optimizer is None else base_optimizer
    spec = weight_dimension_numbers
    if not callable(spec) and _is_spec(spec):
        one = spec
        spec = lambda params: jax.tree.map(lambda x: one if x.ndim >= 2 else None, params)  # noqa: E731
    what = f"{what}(weight_dimension_numbers=...)"
    optimizer = gdjax.scale_by_galore(
        rank,
        update_proj_gap,
        scale,
        base,
        lambda params: _tree_of_native(what, spec, params),
        side="larger",
    )

    def read(state):
        bases = jax.tree.map(
            lambda p: p.basis, state.slots.projector, is_leaf=lambda x: isinstance(x, Projector)
        )
        return GaLoreState(state.count, state.slots.inner_state, bases)

    def write(native, state, updates, params):
        leaves, treedef = jax.tree.flatten(updates)
        axes = axes_of(what, spec, updates)
        bases = treedef.flatten_up_to(state.projector)
        projectors = [
            None if a is None else Projector(basis, a, _from_left(a, x))
            for basis, a, x in zip(bases, axes, leaves, strict=True)
        ]
        slots = native.slots._replace(
            inner_state=state.base_optimizer_state, projector=treedef.unflatten(projectors)
        )
        return native._replace(count=state.count, slots=slots)

    pair = on_trees(optimizer, GaLoreState, read, write)

    def init(params):
        return _with_all_bases(params, pair.init(params))

    def update(updates, state, params=None, **extra):
        new, state = pair.update(updates, state, params, **extra)
        return new, _with_all_bases(updates, state)

    return GradientTransformation(init, update)


def _with_all_bases(tree: Params, state: GaLoreState) -> GaLoreState:
    """Return the state with an empty basis for each leaf of the tree that has none."""
    treedef = jax.tree.structure(tree)
    bases = treedef.flatten_up_to(state.projector)
    filled = [jnp.zeros((0, 0)) if basis is None else basis for basis in bases]
    return state._replace(projector=treedef.unflatten(filled))


def _from_left(axes: Axes, x: Array) -> bool:
    rows, columns = axes.shape(x)[-2:]
    return rows >= columns


def _tree_of_native(what: str, spec: Any, params: Params) -> Any:
    """Return a tree like the parameters with gdjax's dimension numbers or None at each leaf."""
    treedef = jax.tree.structure(params)
    return treedef.unflatten(
        [a and DimensionNumbers(a.rows, a.columns) for a in axes_of(what, spec, params)]
    )


def galore(
    learning_rate: ScalarOrSchedule,
    rank: int = 128,
    update_proj_gap: int = 200,
    scale: float = 1.0,
    base_optimizer: GradientTransformation | None = None,
    weight_decay: Number = 0.0,
    mask: MaskOrFn = None,
    weight_dimension_numbers: GaLoreDimNumsOrFn | None = None,
) -> GradientTransformation:
    """GaLore on the larger side of each matrix, as in optax; see `gdjax.galore`.

    The signs of the basis are fixed, which optax leaves to the SVD; axes that are not named are a
    batch, which optax refuses.
    """
    return chain(
        scale_by_galore(rank, update_proj_gap, scale, base_optimizer, weight_dimension_numbers),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


# --- Muon -----------------------------------------------------------------------------------------


ReshapeFn = Callable[[Array], Array]


def compute_muon_reshape(x: Array, dim_nums: Any) -> tuple[ReshapeFn, ReshapeFn]:
    """Return a function that gives an array as matrices [batch, m, n], and its inverse.

    Raises:
      ValueError: if the array has less than two dimensions, or an axis is named twice.
    """
    what = "compute_muon_reshape(dim_nums=...)"
    (axes,) = axes_of(what, dim_nums, x)
    if axes is None:
        raise ValueError(f"{what} needs an array of two axes or more, got shape {x.shape}.")

    def reshape(y):
        matrices = axes.matrices(y)
        return matrices.reshape(-1, *matrices.shape[-2:])

    return reshape, lambda y: axes.array(y, x)


def orthogonalize_via_newton_schulz(
    x: Array,
    ns_coeffs: Array,
    ns_steps: int = 5,
    preconditioning: Preconditioning = "frobenius",
    eps: Number = 1e-8,
    dimension_numbers: MuonDimensionNumbers | None = None,
) -> Array:
    """Return the polar factor of a matrix, or of each matrix of an array; see `gdjax.polar`.

    Raises:
      ValueError: for more than two dimensions without dimension numbers, wrong coefficients and
        unknown names.
    """
    (axes,) = axes_of(
        "orthogonalize_via_newton_schulz(dimension_numbers=...)", dimension_numbers, x
    )
    if axes is None:
        raise ValueError(
            "orthogonalize_via_newton_schulz(x=...) must be a matrix, or dimension_numbers=... "
            f"must name its axes; got shape {x.shape}."
        )
    factor = gdjax.polar(axes.matrices(x), ns_coeffs, ns_steps, eps, preconditioning)
    return axes.array(factor, x)


class MuonState(NamedTuple):
    """What Muon remembers.

    Attributes:
      count: number of updates so far, int32.
      mu: running mean of the gradient, shaped like the parameters.
      ns_coeffs: coefficients of the Newton-Schulz steps: three for all steps, or a table.
    """

    count: Array
    mu: Updates
    ns_coeffs: Array


Triple = tuple[Number, Number, Number]
WeightDimNumOrFn = MuonDimensionNumbers | Params | Callable[[Params], Params | None]
STANDARD: Triple = NAMED["standard"][0]


def scale_by_muon(
    ns_coeffs: Triple | tuple[Triple, ...] = STANDARD,
    ns_steps: int = 5,
    beta: Number = 0.95,
    eps: Number = 1e-8,
    mu_dtype: DTypeLike | None = None,
    *,
    nesterov: bool = True,
    adaptive: bool = False,
    preconditioning: Preconditioning = "frobenius",
    weight_dimension_numbers: WeightDimNumOrFn | None = None,
) -> GradientTransformation:
    """Return the polar factor of each matrix's momentum; see `muon`.

    Raises:
      ValueError: if the coefficients have another shape than (3,) or (k, 3); in `update`, if a
        parameter does not have two dimensions and no dimension numbers.
    """
    what = "scale_by_muon(weight_dimension_numbers=...)"
    optimizer = gdjax.scale_by_muon(
        ns_coeffs,
        ns_steps,
        beta,
        eps,
        mu_dtype,
        nesterov="corrected" if nesterov else False,
        adaptive=adaptive,
        preconditioning=preconditioning,
    )

    def init(params):
        mu = jax.tree.map(lambda x: jnp.zeros_like(x, dtype=mu_dtype or compute_dtype(x)), params)
        return MuonState(jnp.zeros((), jnp.int32), mu, as_numbers(ns_coeffs))

    def write(native, state, updates, params):
        axes = axes_of(what, weight_dimension_numbers, updates)
        leaves, treedef = jax.tree.flatten(updates)
        for x, a in zip(leaves, axes, strict=True):
            if a is None and x.size:
                raise ValueError(
                    f"{what} must name two axes of every parameter, got none for the shape "
                    f"{x.shape}. Give such parameters to another optimizer, as muon does."
                )
        slots = native.slots._replace(
            mu=state.mu,
            nu=treedef.unflatten([None] * len(leaves)),
            axes=treedef.unflatten(axes),
        )
        table = state.ns_coeffs
        if table.ndim == 1:
            table = jnp.broadcast_to(table, (ns_steps, 3))
        numbers = {**native.hyperparams, "ns_coeffs": Table(table)}
        return native._replace(count=state.count, hyperparams=numbers, slots=slots)

    def read(state):
        return MuonState(state.count, state.slots.mu, state.hyperparams["ns_coeffs"].values)

    pair = on_trees(optimizer, MuonState, read, write)

    def update(updates, state, params=None, **extra):
        updates, new = pair.update(updates, state, params, **extra)
        return updates, new._replace(ns_coeffs=state.ns_coeffs)

    return GradientTransformation(init, update)


def scale_by_shape(
    weight_dimension_numbers: WeightDimNumOrFn | None = None,
    consistent_rms: Number | None = None,
) -> GradientTransformation:
    """Scale each matrix by its shape, as `scale` and `consistent_rms` of `gdjax.muon` say."""
    what = "scale_by_shape(weight_dimension_numbers=...)"
    rms = None if consistent_rms is None else jnp.asarray(consistent_rms)

    def update(updates, state, params=None, **extra):
        leaves, treedef = jax.tree.flatten(updates)
        axes = axes_of(what, weight_dimension_numbers, updates)
        out = [
            x if a is None else cast_like(scaled(upcast(x), a, "width", rms), x)
            for x, a in zip(leaves, axes, strict=True)
        ]
        return treedef.unflatten(out), state

    return GradientTransformation(init_empty_state, update)


def muon(
    learning_rate: ScalarOrSchedule,
    ns_coeffs: Triple | tuple[Triple, ...] | str = STANDARD,
    ns_steps: int = 5,
    beta: Number = 0.95,
    eps: Number = 1e-8,
    weight_decay: Number = 0.0,
    weight_decay_mask: MaskOrFn = None,
    mu_dtype: DTypeLike | None = None,
    *,
    nesterov: bool = True,
    adaptive: bool = False,
    preconditioning: Literal["frobenius", "spectral", "aol", "schatten"] = "frobenius",
    adam_b1: Number = 0.9,
    adam_b2: Number = 0.999,
    adam_eps_root: Number = 0.0,
    adam_weight_decay: Number = 0.0,
    adam_learning_rate: ScalarOrSchedule | None = None,
    muon_weight_dimension_numbers: WeightDimNumOrFn | None = None,
    consistent_rms: Number | None = None,
) -> GradientTransformation:
    """Muon for matrices, Adam for the rest; see `gdjax.muon`.

    Nesterov's momentum has optax's bias correction, `nesterov="corrected"` there. All rows of a
    table of coefficients are used, whatever `ns_steps` is.

    Args:
      learning_rate: see `gdjax.muon`, like all arguments that are not named here.
      ns_coeffs: see there.
      ns_steps: see there.
      beta: see there.
      eps: see there.
      weight_decay: see there.
      weight_decay_mask: see there.
      mu_dtype: see there.
      nesterov: see there.
      adaptive: see there.
      preconditioning: see there.
      adam_b1: see there.
      adam_b2: see there.
      adam_eps_root: see there.
      adam_weight_decay: see there.
      adam_learning_rate: see there.
      muon_weight_dimension_numbers: `MuonDimensionNumbers` for all parameters, a prefix tree of
        them and None (Adam), or a function of the parameters that gives one. None takes the
        parameters of two dimensions.
      consistent_rms: see there.

    Example:
      >>> from gdjax.compat import optax
      >>> import jax.numpy as jnp
      >>> params = {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}
      >>> state = optax.contrib.muon(0.1).init(params)
      >>> print(state.inner_states["muon"].inner_state[0].mu)
      {'b': MaskedNode(), 'w': Array([[0., 0., 0.],
             [0., 0., 0.]], dtype=float32)}
    """
    if isinstance(ns_coeffs, str):
        check_choice("muon(ns_coeffs=...)", ns_coeffs, NAMED)
        rows = NAMED[ns_coeffs]
        ns_coeffs = rows[0] if len(set(rows)) == 1 else tuple(rows)
    numbers = muon_weight_dimension_numbers

    def of_all(params):
        """Return a tree like the parameters with dimension numbers or None at each leaf."""
        if numbers is None:
            return jax.tree.map(lambda x: MuonDimensionNumbers() if x.ndim == 2 else None, params)
        return jax.tree.map(
            lambda one, part: jax.tree.map(lambda _: one, part),
            tree_given_by(numbers, params),
            params,
            is_leaf=_is_spec_or_none,
        )

    def labels(params):
        specs = of_all(params)
        return jax.tree.map(
            lambda one: "adam" if one is None else "muon", specs, is_leaf=_is_spec_or_none
        )

    return partition(
        {
            "muon": chain(
                scale_by_muon(
                    ns_coeffs,
                    ns_steps,
                    beta,
                    eps,
                    mu_dtype,
                    nesterov=nesterov,
                    adaptive=adaptive,
                    preconditioning=preconditioning,
                    weight_dimension_numbers=of_all,
                ),
                scale_by_shape(of_all, consistent_rms),
                add_decayed_weights(weight_decay, weight_decay_mask),
                scale_by_learning_rate(learning_rate),
            ),
            "adam": adamw(
                learning_rate if adam_learning_rate is None else adam_learning_rate,
                b1=adam_b1,
                b2=adam_b2,
                eps=eps,
                eps_root=adam_eps_root,
                weight_decay=adam_weight_decay,
                mu_dtype=mu_dtype,
                nesterov=nesterov,
            ),
        },
        labels,
    )
