"""What finance asks of the ledger in ClickHouse: cuts, the catalogue of reports, and their views (docs/finance.md)."""
