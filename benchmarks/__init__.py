"""Measurements of the whole pipeline and of the ledger core; see docs/benchmarks.md."""
