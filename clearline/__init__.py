"""Composition: command line, configuration, embedded runtime, audit."""
