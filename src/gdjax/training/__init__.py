"""Whole runs as one compiled program."""
