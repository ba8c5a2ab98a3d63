"""The ledger's rules said a second time, as plainly as they can be said; see tests/ledger_model.py."""
