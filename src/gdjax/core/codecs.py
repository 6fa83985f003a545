"""Slots in few bits, or on the host: decoded where a rule reads them, encoded where it stores.

A slot in 8 bits has a code for each element, shaped like the slot, and a scale for each block of
elements, so that both are sharded as the parameter is. A number is kept as `scale * level(code)`,
where levels are in [-1, 1] and the largest number of a block is the scale: it is kept exactly, and
to encode what was decoded changes nothing.

Dettmers et al. (2022), "8-bit optimizers via block-wise quantization",
https://arxiv.org/abs/2110.02861: dynamic codes (section 2.1, appendix F), blocks (section 2).
Deviations: the scale of "int8" has the sign of the largest number, since the code has a level +1
but no level -1; with an absolute value, as in the paper, -1 becomes -0.993. And in a block without
negative numbers, none becomes 0 that was not, since a mean of squares is divided by (Li et al.
2023, https://arxiv.org/abs/2309.01507, section 4.1).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gdjax.core.host import to_device, to_memory_of
from gdjax.core.numerics import cast, compute_dtype, rounded
from gdjax.core.remember import register_node
from gdjax.core.types import PyTree, T

STOCHASTIC = "bfloat16_stochastic"
HOST = "host"  # in the host's memory, in all its bits; see `gdjax.core.host`
CODES = ("int8", "uint8", "float8_e4m3fn", "float8_e5m2")
NAMES = (*CODES, STOCHASTIC)
DECADES = 7  # of the dynamic codes, from 1e-7 to 1


@dataclasses.dataclass(frozen=True)
class Codec:
    """How the numbers of a slot are stored.

    Attributes:
      name: one of `NAMES`, or `HOST`.
      dtype: that of the numbers: a real floating one, on the host also a complex one.
      tile: the sizes of a block along the last axes; () for a storage without scales.
    """

    name: str
    dtype: np.dtype
    tile: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Encoded:
    """A slot as it is stored: a node of the state, which `decoded` turns into an array.

    Attributes:
      codes: shaped like the slot.
      scales: one for each block; None for a storage without.
      key: where the next rounding takes its random bits from; None for a rounding without.
      codec: static.
    """

    codes: Array
    scales: Array | None
    key: Array | None
    codec: Codec

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the slot."""
        return self.codes.shape

    @property
    def ndim(self) -> int:
        """The number of axes of the slot."""
        return self.codes.ndim

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the numbers, not of the codes."""
        return self.codec.dtype

    @property
    def nbytes(self) -> int:
        """The bytes of codes, scales and key."""
        return sum(x.nbytes for x in (self.codes, self.scales, self.key) if x is not None)

    def decode(self) -> Array:
        """Return the numbers, in their own dtype."""
        if self.codec.name == HOST:
            return to_device(self.codes)
        if self.scales is None:
            return self.codes.astype(self.dtype)
        levels = _levels(self.codes, self.codec)
        return levels * _spread(cast(self.scales, self.dtype), self.codec.tile, self.shape)

    def encode(self, x: Array) -> Encoded:
        """Return the numbers `x` in this storage."""
        x = cast(jnp.asarray(x), self.dtype)
        if self.codec.name == HOST:
            return dataclasses.replace(self, codes=to_memory_of(self.codes, x))
        if self.key is not None:
            key, new = jax.random.split(self.key)
            return dataclasses.replace(self, codes=_rounded_up_or_down(x, key), key=new)
        assert self.scales is not None
        codes, scales = _encode(x, self.codec, self.scales.dtype)
        return dataclasses.replace(self, codes=codes, scales=scales)

    def __jax_array__(self) -> Array:
        """Return the numbers: functions of `jax.numpy` take a slot as its array."""
        return self.decode()

    def __repr__(self) -> str:
        """Show storage and shape; a structure of JAX may hold something else than arrays."""
        shape = list(self.shape) if hasattr(self.codes, "shape") else f", {self.codes!r}"
        return f"Encoded({self.codec.name}{shape})"


register_node(Encoded, ["codes", "scales", "key"], meta_fields=["codec"])


def is_encoded(node: object) -> TypeGuard[Encoded]:
    """Return whether a node is a slot in few bits, or on the host."""
    return isinstance(node, Encoded)


def decoded(tree: T) -> T:
    """Return a state, or a part of one, with all slots as arrays of their own dtype.

    For reading and plotting; `update` needs the state as it is stored.

    Args:
      tree: any tree, such as a state of an optimizer in `with_slot_dtypes`.

    Returns:
      The tree with an array of at least float32 in place of each slot that has codes.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> opt = gdjax.with_slot_dtypes(gdjax.adam(0.1), mu="int8", min_size=0)
      >>> _, state = opt.update(jnp.array([10.0, -20.0]), opt.init(jnp.zeros(2)))
      >>> print(state.mu, gdjax.decoded(state).mu.round(2))
      Encoded(int8[2]) [ 1. -2.]
    """
    return jax.tree.map(lambda x: x.decode() if is_encoded(x) else x, tree, is_leaf=is_encoded)


def stored(new: PyTree, like: PyTree, read: PyTree = None) -> Any:
    """Return new slots as the old ones are stored: encoded, or cast to their dtypes.

    Args:
      new: the slots that a rule returned, a tree like `read`.
      like: the old slots.
      read: what `decoded` made of the old slots: what a rule returns as it was is not encoded
        again. None if it is not known.
    """

    def one(old, x, was=None):
        if not is_encoded(old):
            return cast(jnp.asarray(x), old.dtype)
        return old if x is was else x if is_encoded(x) else old.encode(x)

    trees = (new,) if read is None else (new, read)
    return jax.tree.map(one, like, *trees, is_leaf=is_encoded)


def in_turn(row: T, done: PyTree) -> T:
    """Return `row`, whose slots with codes are only decoded after those in `done` are encoded.

    Without this, XLA decodes the slots of all parameters at once where it schedules for speed, as
    on a CPU, so that the whole state is in memory in float32 (and it drops optimization barriers).

    Args:
      row: the arrays of one parameter.
      done: what was computed of the arrays of another one; without effect unless it is like `row`.
    """
    parts, treedef = jax.tree.flatten(row, is_leaf=is_encoded)
    places = [i for i, x in enumerate(parts) if is_encoded(x)]
    before = [x for x in jax.tree.leaves(done, is_leaf=is_encoded) if is_encoded(x)]
    if len(places) != len(before):
        return row
    for i, x in zip(places, before, strict=True):
        if x.codec.name != HOST and x.codec == parts[i].codec and x.shape == parts[i].shape:
            parts[i] = _after(parts[i], x)
    return treedef.unflatten(parts)


def _after(x: Encoded, done: Encoded) -> Encoded:
    name = "codes" if x.scales is None else "scales"
    mine, other = getattr(x, name), getattr(done, name)
    bits = jax.lax.bitcast_convert_type(other, jnp.dtype(f"uint{8 * other.dtype.itemsize}"))
    never = (bits | 1) == 0  # elementwise, so that nothing is communicated between devices
    return dataclasses.replace(x, **{name: jnp.where(never, jnp.nan, mine)})


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def encoded(
    x: Array, name: str, block: int, scale_dtype: np.dtype | None, key: Array | None = None
) -> Encoded:
    """Return an array in a storage.

    Args:
      x: real, floating.
      name: one of `NAMES`.
      block: the most elements that share a scale.
      scale_dtype: bfloat16, float32 or float64; None is that of the numbers, at least float32.
      key: for a rounding with random bits.
    """
    codec = codec_of(x, name, block)
    scales = None if name == STOCHASTIC else jnp.zeros((), scale_dtype or codec.dtype)
    return Encoded(x, scales, key, codec).encode(x)


def codec_of(x: Array, name: str, block: int) -> Codec:
    """Return how an array is stored; see `encoded`."""
    return Codec(name, compute_dtype(x), () if name == STOCHASTIC else tile(x.shape, block))


def tile(shape: tuple[int, ...], block: int) -> tuple[int, ...]:
    """Return the sizes of a block of at most `block` elements of an array.

    A block is along the last axis; where that is shorter, it continues along the axes before it, in
    powers of 2, so that it lies within a shard.

    Example:
      >>> tile((512, 1024), 256), tile((512, 10), 256), tile((3, 3, 8, 16), 256), tile((), 256)
      ((1, 256), (16, 10), (1, 2, 8, 16), ())
    """
    sizes: list[int] = []
    for i, n in enumerate(reversed(shape)):
        left = block // math.prod(sizes)
        if 0 < n <= left:
            sizes.append(n)
        else:
            sizes.append(left if i == 0 else 1 << (left.bit_length() - 1))
    return tuple(reversed(sizes))


def _axes(x: Array, sizes: tuple[int, ...]) -> list[tuple[int, int]]:
    """Return (axis, size of a block) where it is not 1; further axes in front are of lanes."""
    first = x.ndim - len(sizes)
    return [(first + i, n) for i, n in enumerate(sizes) if n != 1]


def _largest(x: Array, sizes: tuple[int, ...]) -> tuple[Array, Array]:
    """Return the largest and smallest number, or 0, of each block; infinity if one is NaN."""
    axes = _axes(x, sizes)
    x = jnp.where(jnp.isnan(x), jnp.inf, x)  # maxima of XLA pass over NaN on some CPUs
    missing = [(0, 0)] * x.ndim
    for axis, n in axes:
        missing[axis] = (0, -x.shape[axis] % n)
    if any(after for _, after in missing):
        x = jnp.pad(x, missing)
    for axis, n in reversed(axes):
        x = x.reshape(*x.shape[:axis], x.shape[axis] // n, n, *x.shape[axis + 1 :])
    within = tuple(axis + 1 + i for i, (axis, _) in enumerate(axes))
    return jnp.max(x, within, initial=0), jnp.min(x, within, initial=0)


def _spread(per_block: Array, sizes: tuple[int, ...], shape: tuple[int, ...]) -> Array:
    """Return the number of its block for each element of an array of that shape."""
    for axis, n in _axes(per_block, sizes):
        many = jnp.repeat(per_block, n, axis)
        per_block = jax.lax.slice_in_dim(many, 0, shape[axis], axis=axis)
    return per_block


def _encode(x: Array, codec: Codec, scale_dtype: np.dtype) -> tuple[Array, Array]:
    """Return codes and scales; a block that cannot be stored has the scale NaN."""
    most, least = _largest(x, codec.tile)
    if codec.name == "int8":
        scale = jnp.where(most >= -least, most, least)
    else:
        scale = jnp.maximum(most, -least)
    by = _cut(scale, scale_dtype)
    fits = jnp.isfinite(most) & jnp.isfinite(least) & jnp.isfinite(by)
    if codec.name == "uint8":  # what has a sign must not lose it in silence
        fits &= least >= 0
    scales = jnp.where(fits, by, jnp.nan).astype(scale_dtype)
    by = jnp.where(by == 0, 1, by)
    less = jnp.where(jnp.abs(by) > 1, 2.0**-64, 1)  # XLA multiplies by 1 / by, which may be 0
    units = x * _spread(less, codec.tile, x.shape) / _spread(by * less, codec.tile, x.shape)
    units = jnp.clip(jnp.where(units == units, units, 0), -1, 1)
    positive = _spread(least >= 0, codec.tile, x.shape) & (x > 0)
    units = jnp.where(positive, jnp.maximum(units, _smallest(codec.name)), units)
    return _codes(units, codec.name), scales


def _cut(x: Array, dtype: np.dtype) -> Array:
    """Return x cut to a dtype, in its own: the largest number of a block still is of level 1."""
    if x.dtype == dtype:
        return x
    x = rounded(x, jnp.float32) if x.dtype != jnp.float32 else x
    if dtype == jnp.float32:
        return x
    bits = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32)
    return jax.lax.bitcast_convert_type((bits >> 16) << 16, jnp.float32).astype(x.dtype)


# --- codes ----------------------------------------------------------------------------------------


@functools.cache
def magnitudes(signed: bool) -> np.ndarray:
    """Return the levels >= 0 of the dynamic code of 8 bits, in increasing order.

    A level of decade i, from 10**(i - 7) to 10**(i - 6), is the middle of one of 2**i (signed) or
    2**(i + 1) equal parts: a code of one number has few bits for the exponent and one of another
    has few for the fraction ("dynamic tree"). 0 and 1 are levels, too.

    Example:
      >>> levels = magnitudes(True)
      >>> print(len(levels), levels[1], levels[-2])
      129 5.5e-07 0.99296875
    """
    levels = [0.0]
    for i in range(DECADES):
        parts = 2 ** (i + (not signed))
        levels += [10.0 ** (i - 6) * (0.1 + 0.9 * (j + 0.5) / parts) for j in range(parts)]
    return np.array([*levels, 1.0])


def _smallest(name: str) -> float:
    """Return the smallest level > 0."""
    if name in ("int8", "uint8"):
        return float(magnitudes(name == "int8")[1])
    return float(jnp.finfo(name).smallest_subnormal) / _top(name)


def _top(name: str) -> float:
    """Return the number of a float of 8 bits that is level 1: a power of 2, so nothing rounds."""
    return 2.0 ** math.floor(math.log2(float(jnp.finfo(name).max)))


def _levels(codes: Array, codec: Codec) -> Array:
    if codec.name not in ("int8", "uint8"):
        return codes.astype(codec.dtype) / _top(codec.name)
    known = magnitudes(codec.name == "int8")
    if codec.name == "int8":  # -127 ... 127 are a sign and a magnitude, and -128 is +1
        known = np.concatenate([known[-1:], -known[-2:0:-1], known[:-1]])
    places = codes.astype(jnp.int32) + (128 if codec.name == "int8" else 0)
    return jnp.asarray(known, codec.dtype).at[places].get(mode="promise_in_bounds")


def _codes(units: Array, name: str) -> Array:
    """Return the code of the nearest level for numbers in [-1, 1]."""
    if name == "uint8":
        return _nearest(units, signed=False).astype(jnp.uint8)
    if name != "int8":
        return (units * _top(name)).astype(name)
    places = _nearest(jnp.abs(units), signed=True)
    signs = jnp.where(units < 0, -1, 1)
    places = jnp.where(units < 0, jnp.minimum(places, 127), places)
    return jnp.where(places == 128, -128, signs * places).astype(jnp.int8)


def _nearest(x: Array, signed: bool) -> Array:
    """Return which of `magnitudes` is the nearest: first the decade, then the part of it.

    A search in the table would take 20 times as long (measured on a CPU).
    """
    known = magnitudes(signed)
    middles = ((known[1:] + known[:-1]) / 2).tolist()
    parts = 2.0 ** (np.arange(DECADES) + (not signed))
    firsts = np.cumsum(parts) - parts + 1  # the place of the first level of each decade
    decade = sum((x >= middles[int(n) - 1]).astype(jnp.int32) for n in firsts[1:])

    def of_decade(values: np.ndarray) -> Array:
        return jnp.asarray(values, x.dtype).at[decade].get(mode="promise_in_bounds")

    per_unit, most = of_decade(10.0 ** (6 - np.arange(DECADES)) * parts / 0.9), of_decade(parts)
    inside = jnp.clip(jnp.floor(x * per_unit - most / 9), 0, most - 1)
    place = inside + most + (0 if signed else -1)
    place = jnp.where(x >= middles[0], place, 0)
    return jnp.where(x >= middles[-1], len(known) - 1, place).astype(jnp.int32)


def _rounded_up_or_down(x: Array, key: Array) -> Array:
    """Return x in bfloat16, up or down at random, so that it is x in the mean."""
    wide = x.astype(jnp.float32)
    bits = jax.lax.bitcast_convert_type(wide, jnp.uint32)
    cut = jax.lax.bitcast_convert_type(((bits + _noise(key, x.shape)) >> 16) << 16, jnp.float32)
    return jnp.where(jnp.isfinite(wide), cut, wide).astype(jnp.bfloat16)


def _noise(key: Array, shape: tuple[int, ...]) -> Array:
    """Return random integers of 16 bits: hashes of the place in the array.

    Those of `jax.random.bits` are made in a loop, before the step, for all arrays at once; these
    are made where they are added, and each device makes its own.
    """
    first, second = jax.random.bits(key, (2,), jnp.uint32)
    place = jnp.zeros(shape, jnp.uint32)
    for axis, n in enumerate(shape):
        place = place * n + jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
    return _mixed(_mixed(place ^ first) + second) >> 16


def _mixed(x: Array) -> Array:
    """Return a bijective hash of integers of 32 bits (C. Wellons, "lowbias32", public domain)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
