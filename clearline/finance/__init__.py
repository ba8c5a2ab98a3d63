"""Finance on top of the ledger: report files, day close, reconciliation, partners' own data (docs/finance.md)."""
