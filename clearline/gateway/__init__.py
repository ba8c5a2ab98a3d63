"""The HTTP way in. Start at `app.py`; docs/gateway.md is the specification."""
