"""Optimizers, one family per file."""

from gdjax.namespace import make_namespace

make_namespace(__name__)
