"""Topics in files, and files in topics again: offset for offset, byte for byte (docs/production.md).

`take` writes a backup of a world that runs, `put` restores it on another cluster. The same offsets, gaps included,
because they are part of the ledger: a journal record names the offset of its command, and receipts, dead letters and
ClickHouse name offsets of the journal.
"""
