"""Whole training runs as one compiled program: `fit`, `sweep`, and what is built on them."""

from gdjax.namespace import make_namespace

make_namespace(__name__)
