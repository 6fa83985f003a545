"""What a compiled program costs on each device, read from its HLO text."""

import re
from collections import defaultdict
from typing import NamedTuple

BYTES = {"f64": 8, "f32": 4, "bf16": 2, "f16": 2, "c64": 8, "c128": 16}
BYTES |= {"s64": 8, "s32": 4, "s8": 1, "u64": 8, "u32": 4, "u8": 1, "pred": 1}
COLLECTIVES = (
    *("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter"),
    "ragged-all-to-all",
)


class Costs(NamedTuple):
    """Work and communication of one device."""

    flops: int  # of matrix products
    collectives: dict[str, tuple[int, int]]  # name -> how many, bytes of their outputs

    @property
    def bytes(self):
        """Return the bytes of the outputs of all collectives."""
        return sum(size for _, size in self.collectives.values())

    @property
    def count(self):
        """Return how many collectives there are."""
        return sum(n for n, _ in self.collectives.values())


def costs(compiled):
    """Return the costs of `jax.jit(f).lower(...).compile()`.

    Loops count by their known trip count, conditionals by their dearest branch.
    """
    computations, entry = _computations(compiled.as_text())
    known = {}

    def of(name):
        if name not in known:
            known[name] = Costs(0, {})
            known[name] = _of_lines(computations.get(name, []), of)
        return known[name]

    return of(entry)


def _of_lines(lines, of):
    shapes, flops, ops = {}, 0, defaultdict(lambda: [0, 0])
    for line in lines:
        found = re.match(r"(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$", line)
        if not found:
            continue
        out, shape, op, rest = found.groups()
        shapes[out] = shape
        base = op.removesuffix("-start")
        if base in COLLECTIVES:
            ops[base][0] += 1
            ops[base][1] += _bytes(shape)
        elif op == "dot":
            flops += _of_product(line, shape, rest, shapes)
        times, called = _called(op, line)
        parts = [of(name) for name in called]
        if op == "conditional" and parts:
            parts = [max(parts, key=lambda part: part.flops + part.bytes)]
        for part in parts:
            flops += times * part.flops
            for name, (n, size) in part.collectives.items():
                ops[name][0] += times * n
                ops[name][1] += times * size
    return Costs(flops, {name: tuple(pair) for name, pair in ops.items()})


def _called(op, line):
    """Return how often an instruction runs other computations, and which."""
    if op == "while":
        trips = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', line)
        body = re.search(r"body=%?([\w.\-]+)", line).group(1)
        return int(trips.group(1)) if trips else 1, [body]
    if op in ("fusion", "call", "custom-call", "async-start"):
        found = re.search(r"(?:calls|to_apply|called_computations=\{)=?%?([\w.\-]+)", line)
        return 1, [found.group(1)] if found else []
    if op == "conditional":
        found = re.search(r"branch_computations=\{([^}]*)\}", line)
        if found:
            return 1, [name.strip().lstrip("%") for name in found.group(1).split(",")]
        return 1, re.findall(r"(?:true|false)_computation=%?([\w.\-]+)", line)
    return 1, []


def _of_product(line, shape, rest, shapes):
    operands = re.findall(r"%([\w.\-]+)", rest.split(")")[0])
    left = _dims(shapes.get(operands[0], "")) if operands else None
    inline = re.match(r"(\w+\[[\d,]*\])", rest)
    left = left or (_dims(inline.group(1)) if inline else None)
    over = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", line)
    product = 2
    for n in _dims(shape) or []:
        product *= n
    for axis in over.group(1).split(",") if over else []:
        product *= left[int(axis)] if left and axis else 1
    return product


def _computations(text):
    found, name, entry = {}, None, None
    for line in text.splitlines():
        head = re.match(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{", line)
        if head:
            name = head.group(2)
            found[name] = []
            entry = name if head.group(1) else entry
        elif line.startswith("}"):
            name = None
        elif name:
            found[name].append(line.strip())
    return found, entry


def _dims(shape):
    found = re.match(r"\w+\[([\d,]*)\]", shape)
    return [int(n) for n in found.group(1).split(",") if n] if found else None


def _bytes(shape):
    total = 0
    for dtype, dims in re.findall(r"\b(\w+)\[([\d,]*)\]", shape):
        size = BYTES.get(dtype, 0)
        for n in dims.split(","):
            size *= int(n) if n else 1
        total += size
    return total
