"""Optimizers, one family per file."""
