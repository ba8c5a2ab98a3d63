"""Notifications to partners. Start at `worker.py`; docs/webhooks.md is the specification."""
