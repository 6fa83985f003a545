"""Functions of trees: those of `gdjax.tree`."""

from gdjax.tree import *  # noqa: F403
