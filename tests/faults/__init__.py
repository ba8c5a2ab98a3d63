"""Faults on purpose: a harness that kills and pauses real parts, and a set of known bugs that the auditor must find."""
