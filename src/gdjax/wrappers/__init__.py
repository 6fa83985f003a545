"""Wrappers: they take an optimizer and return one."""

from gdjax.namespace import make_namespace

make_namespace(__name__)
