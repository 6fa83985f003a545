"""Transforms: they take gradients and return gradients."""

from gdjax.namespace import make_namespace

make_namespace(__name__)
