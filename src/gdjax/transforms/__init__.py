"""Gradients in, gradients out."""

from gdjax.namespace import make_namespace

make_namespace(__name__)
