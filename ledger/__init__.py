"""The pure double-entry core: no I/O, no clock, no randomness, no framework. Start reading at `ledger.book`."""
