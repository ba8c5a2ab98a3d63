"""The continuous tie-out: journal, ClickHouse and Redis compared while they move, and what differs named.

`running` sums the journal, `stored` compares ClickHouse with it, `shards` compares Redis with ledger.state, `naming`
finds the rows behind a difference, `checkpoint` keeps the sums over a restart, `role` runs it all.
"""
