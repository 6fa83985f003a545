"""optax's second name for `partition`."""

from __future__ import annotations

from gdjax.wrappers.groups import partition

multi_transform = partition
