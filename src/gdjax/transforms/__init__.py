"""Gradients in, gradients out."""
