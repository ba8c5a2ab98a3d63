"""The auditor: recomputes the ledger with rules of its own and compares it with everything that is written down.

It imports nothing of `ledger/` or `processors/`. Start reading at `verify`; `recompute` holds the rules, `replay` the
merge of commands and outcomes, `tieout` the quick comparison of control totals.
"""
