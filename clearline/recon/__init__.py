"""Reconciliation of an account with statements of it that come from outside (docs/reconciliation.md)."""
