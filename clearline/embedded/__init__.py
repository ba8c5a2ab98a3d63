"""Embedded parts: real servers run as child processes on this machine, for development and tests."""
