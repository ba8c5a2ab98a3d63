"""Composition: command line, configuration, embedded runtime, audit."""

__version__ = "0.1.0"  # as in pyproject.toml
