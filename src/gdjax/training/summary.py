"""What an optimizer will do with each parameter, as a table, before anything is allocated."""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.core.base import Optimizer, State, is_state, short
from gdjax.core.chain import with_extra_args_support
from gdjax.core.checks import strict
from gdjax.core.codecs import is_encoded
from gdjax.core.hyper import Schedule, leaf_values, path_name, value_at
from gdjax.core.lift import noting_names
from gdjax.core.protocols import HasBranches, HasGroups, states_in
from gdjax.core.remember import weak_functions
from gdjax.core.types import OptState, Pair, Params, PyTree, TreeDef

MOST_ROWS = 200  # of a table that is printed; a notebook and `rows` have all
HEAVY = ("learning_rate", "weight_decay")  # the numbers that have a column of their own
Numeric: TypeAlias = float | str | None  # a number; of a schedule the first one and its name


@dataclasses.dataclass(frozen=True)
class ParamSummary:
    """One parameter; see `Summary`.

    Attributes:
      path: its keys, joined by "/", as `by_path` takes them.
      shape: its shape.
      dtype: its dtype.
      size: the number of its elements.
      bytes: its bytes, on all devices together, each element once.
      device_bytes: its bytes on each device.
      group: the group that it is in; None without groups.
      frozen: whether its updates are 0.
      unchanged: whether its updates are its gradients, as for a parameter that `masked` leaves out.
      optimizers: the names of what sees its gradient, the outer before the inner.
      branch: how it is treated, where an optimizer treats some parameters in another way.
      hyperparams: name -> number; None where a term is off for this parameter; of a schedule a
        text, with the number of the first step.
      slots: name -> shapes and dtypes of what the state remembers of it.
      state_bytes: the bytes of these.
      state_device_bytes: their bytes on each device.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    size: int
    bytes: int
    device_bytes: int
    group: str | None = None
    frozen: bool = False
    unchanged: bool = False
    optimizers: tuple[str, ...] = ()
    branch: str | None = None
    hyperparams: dict[str, Numeric] = dataclasses.field(default_factory=dict)
    slots: dict[str, str] = dataclasses.field(default_factory=dict)
    state_bytes: int = 0
    state_device_bytes: int = 0


@dataclasses.dataclass(frozen=True, repr=False)
class Summary:
    """What `summary` returns: it prints as a table.

    Attributes:
      rows: one `ParamSummary` for each array.
      size: the number of elements.
      bytes: the bytes of the parameters.
      device_bytes: those on each device.
      state_bytes: the bytes of the optimizer's state; None without an optimizer.
      state_device_bytes: those on each device. Of a slot with another shape than its parameter it
        is not known how it is spread: it counts as a whole copy, which is the most that it can be.
      shared_bytes: the part of the state that belongs to no single parameter: counts, numbers.
      left_out: the paths of leaves that are not arrays, which the optimizer is not given here.
    """

    rows: tuple[ParamSummary, ...]
    size: int
    bytes: int
    device_bytes: int
    state_bytes: int | None
    state_device_bytes: int | None
    shared_bytes: int
    left_out: tuple[str, ...]

    def columns(self) -> dict[str, list[Any]]:
        """Return name -> values, one for each parameter: `pandas.DataFrame(summary.columns())`."""
        names = [field.name for field in dataclasses.fields(ParamSummary)]
        return {name: [getattr(row, name) for row in self.rows] for name in names}

    def __str__(self) -> str:
        """Return the table as text."""
        header, lines, right = self._cells()
        hidden = len(lines) - MOST_ROWS
        shown = lines[: MOST_ROWS // 2] + lines[-MOST_ROWS // 2 :] if hidden > 0 else lines
        widths = [max(map(len, column)) for column in zip(header, *shown, strict=True)]

        def text(cells):
            parts = zip(cells, widths, right, strict=True)
            return "  ".join(x.rjust(n) if r else x.ljust(n) for x, n, r in parts).rstrip()

        rows = [text(line) for line in shown]
        if hidden > 0:
            rows.insert(MOST_ROWS // 2, f"... {hidden} more in .rows ...")
        rule = "-" * (sum(widths) + 2 * len(widths) - 2)
        return "\n".join([text(header), rule, *rows, rule, *self._totals()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """Return the table for a notebook."""
        header, lines, right = self._cells()

        def row(cells, tag):
            aligned = zip(cells, right, strict=True)
            return "".join(
                f'<{tag} style="text-align:{"right" if r else "left"}">{html.escape(x)}</{tag}>'
                for x, r in aligned
            )

        body = "".join(f"<tr>{row(line, 'td')}</tr>" for line in lines)
        below = "<br>".join(map(html.escape, self._totals()))
        head = f"<thead><tr>{row(header, 'th')}</tr></thead>"
        return f"<table>{head}<tbody>{body}</tbody></table><p>{below}</p>"

    def _cells(self) -> tuple[list[str], list[list[str]], list[bool]]:
        """Return header, rows, and which columns are of numbers; columns without content go."""
        spread = any(row.bytes != row.device_bytes for row in self.rows)
        columns: list[tuple[str, bool, Callable[[ParamSummary], str]]] = [
            ("path", False, lambda row: row.path),
            ("shape", False, lambda row: str(list(row.shape))),
            ("dtype", False, lambda row: row.dtype),
            ("elements", True, lambda row: f"{row.size:,}"),
            ("bytes", True, lambda row: f"{row.bytes:,}"),
        ]
        if spread:
            columns.append(("on each device", True, lambda row: f"{row.device_bytes:,}"))
        if self.state_bytes is not None:
            columns += [
                ("group", False, lambda row: row.group or ""),
                ("optimizer", False, _optimizer_text),
                *((name, False, _number_text(name)) for name in HEAVY),
                ("slots", False, _slots_text),
                ("state bytes", True, lambda row: f"{row.state_bytes:,}"),
            ]
        if self.state_bytes is not None and spread:
            columns.append(("on each device", True, lambda row: f"{row.state_device_bytes:,}"))
        cells = [[text(row) for row in self.rows] for _, _, text in columns]
        kept = [i for i, column in enumerate(cells) if i < 5 or any(column)]
        lines = [list(line) for line in zip(*(cells[i] for i in kept), strict=True)]
        return [columns[i][0] for i in kept], lines, [columns[i][1] for i in kept]

    def _totals(self) -> list[str]:
        def bytes_of(total, device):
            more = f", {device:,} on each device" if device != total else ""
            return f"{total:,} bytes{more}"

        count, frozen = len(self.rows), [row for row in self.rows if row.frozen]
        lines = [
            f"parameters: {_number_of(count, 'array')}, {_number_of(self.size, 'element')}, "
            f"{bytes_of(self.bytes, self.device_bytes)}"
        ]
        if frozen:
            elements = _number_of(sum(row.size for row in frozen), "element")
            lines[0] += f"; {len(frozen)} frozen, {elements}"
        if self.state_bytes is not None and self.state_device_bytes is not None:
            lines.append(
                f"state: {bytes_of(self.state_bytes, self.state_device_bytes)}, of which "
                f"{self.shared_bytes:,} belong to no single parameter"
            )
        if self.left_out:
            first = ", ".join(self.left_out[:5]) + ", ..." * (len(self.left_out) > 5)
            lines.append(
                f"left out: {_number_of(len(self.left_out), 'object')} that are no arrays "
                f"({first}). Leave them out of init as well: "
                "equinox.filter(model, equinox.is_array)."
            )
        return lines


def _number_of(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"


def _optimizer_text(row: ParamSummary) -> str:
    if row.unchanged:
        return "none: the gradient is added"
    names = ", ".join(row.optimizers)
    names += f" ({row.branch})" if row.branch else ""
    return f"frozen ({names})" if row.frozen and names else "frozen" if row.frozen else names


def _number_text(name: str) -> Callable[[ParamSummary], str]:
    def text(row):
        found = [v for k, v in row.hyperparams.items() if k.rpartition(".")[2] == name]
        if not found or row.frozen:
            return ""
        words = ("none" if v is None else v if isinstance(v, str) else f"{v:.4g}" for v in found)
        return ", ".join(words)

    return text


def _slots_text(row: ParamSummary) -> str:
    names: dict[str, list[str]] = {}
    for name, text in row.slots.items():
        names.setdefault(text.split("[")[0], []).append(name)
    return ", ".join(f"{' '.join(alike)}: {dtype}" for dtype, alike in names.items())


@strict()
def summary(params: Params, optimizer: Pair | None = None) -> Summary:
    """Return a table of the parameters, and of what an optimizer will do with each of them.

    Nothing is allocated: shapes come from `jax.eval_shape`, and the numbers from a program that
    computes nothing else.

    Args:
      params: a tree of arrays, or of their `jax.ShapeDtypeStruct`. Leaves that are not arrays, such
        as the functions in an Equinox module, are left out, and named.
      optimizer: an `(init, update)` pair, of gdjax or of another library, of which only the bytes
        of its state are known.

    Returns:
      A `Summary`, which prints as a table, in a notebook too. For each parameter: path, shape,
      dtype and bytes; with an optimizer also its group, whether it is frozen, the optimizers that
      see its gradient, the learning rate and the weight decay that hold for it ("none" where a mask
      or a pattern switches the decay off), the slots of the state and their bytes. `rows` has all
      numbers, `columns()` is for pandas.

    Raises:
      ValueError: what `optimizer.init` raises for these parameters.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params = {"embed": jnp.ones((8, 2)), "w": jnp.ones((2, 3)), "b": jnp.ones(3)}
      >>> opt = gdjax.groups({
      ...     "embed": None, r".*": gdjax.adamw(1e-3, weight_decay=0.1, mask=gdjax.mask_by_ndim())})
      >>> print(gdjax.summary(params, opt))
      path   shape   dtype    elements  bytes  group  optimizer  learning_rate  weight_decay  slots           state bytes
      -------------------------------------------------------------------------------------------------------------------
      b      [3]     float32         3     12  .*     adamw      0.001          none          mu nu: float32           24
      embed  [8, 2]  float32        16     64  embed  frozen                                                            0
      w      [2, 3]  float32         6     24  .*     adamw      0.001          0.1           mu nu: float32           48
      -------------------------------------------------------------------------------------------------------------------
      parameters: 3 arrays, 25 elements, 100 bytes; 1 frozen, 16 elements
      state: 108 bytes, of which 36 belong to no single parameter
    """  # noqa: E501
    flat, treedef = jax.tree_util.tree_flatten_with_path(params)
    arrays = [_as_shape(leaf) for _, leaf in flat]
    names = [path_name(path).removesuffix("/value") for path, _ in flat]
    kept = [i for i, x in enumerate(arrays) if x is not None]
    rows = {
        i: _Row(names[i], array, flat[i][1]) for i, array in enumerate(arrays) if array is not None
    }
    state_bytes = device_bytes = None
    shared = 0
    if optimizer is not None:
        pair = with_extra_args_support(optimizer)
        with weak_functions():
            state, known = _shapes_of_state(pair, treedef.unflatten(arrays))
            reader = _Reader(treedef, rows, known)
            reader.visit(state, kept, "", in_slots=False)
        shared = reader.shared
        state_bytes = shared + sum(row.state_bytes for row in rows.values())
        device_bytes = shared + sum(row.state_device_bytes for row in rows.values())
    made = tuple(row.made() for row in rows.values())
    return Summary(
        rows=made,
        size=sum(row.size for row in made),
        bytes=sum(row.bytes for row in made),
        device_bytes=sum(row.device_bytes for row in made),
        state_bytes=state_bytes,
        state_device_bytes=device_bytes,
        shared_bytes=shared,
        left_out=tuple(names[i] for i, x in enumerate(arrays) if x is None),
    )


def _as_shape(leaf: Any) -> jax.ShapeDtypeStruct | None:
    """Return the shape of an array, with its sharding if it has one; None for another object."""
    if hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
    if isinstance(leaf, bool | int | float | complex):
        return jax.ShapeDtypeStruct((), jnp.result_type(leaf))
    return None


class _Row:
    """A row in the making."""

    def __init__(self, path: str, array: jax.ShapeDtypeStruct, leaf: Any):
        self.path, self.array = path, array
        sharding = getattr(leaf, "sharding", None)
        part = array.shape if sharding is None else sharding.shard_shape(array.shape)
        self.share = math.prod(part) / max(math.prod(array.shape), 1)  # on each device
        self.group: str | None = None
        self.frozen, self.kept = False, False  # in a group without updates, without optimizer
        self.state_bytes, self.state_device_bytes = 0, 0
        self.optimizers: list[str] = []
        self.branch: str | None = None
        self.hyperparams: dict[str, Numeric] = {}
        self.slots: dict[str, list[str]] = {}

    def add_slot(self, name: str, tree: PyTree) -> None:
        for x in jax.tree.leaves(tree, is_leaf=is_encoded):
            self.slots.setdefault(name, []).append(short(x.codes if is_encoded(x) else x))
            own = sum(part.size * part.dtype.itemsize for part in jax.tree.leaves(x))
            self.state_bytes += own
            self.state_device_bytes += (
                round(own * self.share) if x.shape == self.array.shape else own
            )

    def made(self) -> ParamSummary:
        size = math.prod(self.array.shape)
        total = size * self.array.dtype.itemsize
        return ParamSummary(
            path=self.path,
            shape=tuple(self.array.shape),
            dtype=str(self.array.dtype),
            size=size,
            bytes=total,
            device_bytes=round(total * self.share),
            group=self.group,
            frozen=self.frozen,
            unchanged=self.kept and not (self.frozen or self.optimizers or self.slots),
            optimizers=tuple(self.optimizers),
            branch=self.branch,
            hyperparams=self.hyperparams,
            slots={name: ", ".join(texts) for name, texts in self.slots.items()},
            state_bytes=self.state_bytes,
            state_device_bytes=self.state_device_bytes,
        )


Known: TypeAlias = "dict[int, tuple[str, dict[str, PyTree]]]"  # id of a state -> name, numbers


def _shapes_of_state(pair: Optimizer, tree: Params) -> tuple[OptState, Known]:
    """Return the shapes of a state, and what is known of the states in it."""
    init, names = pair.init, []

    def shapes(params):
        with noting_names() as name_of:
            state = init(params)
            names.extend(name_of(node) or "" for _, node in states_in(state))
        return state

    state = jax.eval_shape(shapes, tree)
    nodes = [node for _, node in states_in(state)]
    if is_state(state):  # of a solver, which makes its state itself
        names[0] = names[0] or getattr(pair.update, "__name__", "")
    numbers, treedef = jax.tree.flatten([node.hyperparams for node in nodes])

    @jax.jit
    def values():  # the arrays of the state are not used, so XLA drops them
        params = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), tree)
        return jax.tree.leaves([node.hyperparams for _, node in states_in(init(params))])

    known = treedef.unflatten(values()) if numbers else [node.hyperparams for node in nodes]
    return state, {
        id(node): (name, own) for node, name, own in zip(nodes, names, known, strict=True)
    }


class _Reader:
    """Goes through a state and notes in the rows what belongs to which parameter."""

    def __init__(self, treedef: TreeDef, rows: dict[int, _Row], known: Known):
        self.treedef, self.rows, self.known, self.shared = treedef, rows, known, 0

    def visit(self, node: PyTree, mine: list[int], name: str, in_slots: bool) -> None:
        """Note a part of a state.

        Args:
          node: the part.
          mine: the parameters that its optimizer sees.
          name: what the part is called in what contains it.
          in_slots: whether it is in the slots of an optimizer of gdjax.
        """
        if node is None:
            return
        if is_state(node):
            self._note(node, mine)
            self._count((node.count, node.hyperparams, node.rounding))
            self.visit(node.slots, mine, "", in_slots=True)
        elif isinstance(node, HasGroups) and hasattr(node.labels, "frozen"):
            self._split(node, mine, in_slots)
        elif (parts := self._parts(node, in_slots)) is not None:
            for i, part in enumerate(parts):
                if i in self.rows:
                    self.rows[i].add_slot(name, part)
                else:
                    self._count(part)
        elif jax.tree_util.all_leaves([node]):
            self._count(node)
        else:
            below = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda x: x is not node)[0]
            for (key,), child in below:
                index = isinstance(key, jax.tree_util.SequenceKey)
                own = name if index else jax.tree_util.keystr((key,), simple=True)
                self.visit(child, mine, own, in_slots)

    def _count(self, tree: PyTree) -> None:
        self.shared += sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))

    def _parts(self, node: PyTree, in_slots: bool) -> list[PyTree] | None:
        """Return the part of each parameter, if this is a tree like the parameters."""
        if jax.tree_util.treedef_is_leaf(self.treedef):  # a single array: so are its slots
            array = jax.tree_util.all_leaves([node]) or is_encoded(node)
            alike = array and (node.ndim or self._is_scalar())
            return [node] if alike and in_slots else None
        try:
            parts = self.treedef.flatten_up_to(node)
        except (ValueError, TypeError):
            return None
        return None if any(self._has_states(part, in_slots) for part in parts) else parts

    def _is_scalar(self) -> bool:
        return any(row.array.shape == () for row in self.rows.values())

    @staticmethod
    def _has_states(part: PyTree, in_slots: bool) -> bool:
        """Return whether this is a state, so that its container is a chain like the parameters."""

        def is_other(node):
            named = not in_slots and isinstance(node, tuple) and bool(getattr(node, "_fields", ()))
            return is_state(node) or named

        return any(is_other(x) for x in jax.tree.leaves(part, is_leaf=is_other))

    def _split(self, node: Any, mine: list[int], in_slots: bool) -> None:
        labels = dict(zip(mine, node.labels.names, strict=False))
        for i, label in labels.items():
            row = self.rows[i]
            row.group = f"{row.group}/{label}" if row.group else str(label)
            row.frozen |= label in node.labels.frozen
            row.kept |= label not in node.inner_states
        for label, state in node.inner_states.items():
            self.visit(state, [i for i in mine if labels.get(i) == label], "", in_slots)

    def _note(self, state: State, mine: list[int]) -> None:
        """Note the name of a state and its numbers in the rows of its parameters."""
        name, numbers = self.known.get(id(state), ("", {}))
        leaves = [None] * self.treedef.num_leaves
        for i in mine:
            leaves[i] = self.rows[i].array
        tree = self.treedef.unflatten(leaves)
        columns = {}
        for key, value in numbers.items():
            try:
                columns[key] = leaf_values(key, value, tree)
            except (ValueError, TypeError):  # of a tree that is not that of the parameters
                continue
        slots = self._slots_of_leaves(state)
        for place, i in enumerate(mine):
            row = self.rows[i]
            of_leaf = {k: column[place] for k, column in columns.items()}
            if slots is not None:
                row.branch, of_leaf = slots[i].branch(of_leaf)
            for key, value in of_leaf.items():
                if not getattr(value, "ndim", 0) and _is_number(value):
                    row.hyperparams[f"{name}.{key}" if key in row.hyperparams else key] = _read(
                        value
                    )
            if name and row.optimizers[-1:] != [name]:
                row.optimizers.append(name)

    def _slots_of_leaves(self, state: State) -> list[Any] | None:
        """Return the slots of each parameter, if they say in which way it is treated."""
        slots = state.slots
        if not isinstance(slots, HasBranches) or not isinstance(slots, tuple):
            return None
        columns = [self._parts(field, True) for field in slots]
        if any(column is None for column in columns):
            return None
        kind: Any = type(slots)
        return [kind(*row) for row in zip(*columns, strict=True)]


def _is_number(value: Any) -> bool:
    return not isinstance(value, Schedule) or value.one_number


def _read(value: Any) -> Numeric:
    """Return a number, or what is known of a schedule; None where a term is off."""
    if value is None:
        return None
    if not isinstance(value, Schedule):
        return float(value)
    try:
        first = f", first {float(np.asarray(value_at(value, jnp.zeros((), jnp.int32)))):.4g}"
    except (ValueError, TypeError):  # in epochs, and the data are not known yet
        first = ""
    return _name_of(value) + first


def _name_of(value: Schedule) -> str:
    if isinstance(inside := getattr(value, "schedule", None), Schedule):
        return f"{type(value).__name__} {_name_of(inside)}"
    return getattr(getattr(value, "function", None), "__name__", type(value).__name__)
