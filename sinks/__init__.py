"""Rows into stores: the ledger in ClickHouse, the balances in Redis. Both are projections and can be built again."""
