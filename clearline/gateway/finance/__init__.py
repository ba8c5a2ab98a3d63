"""The page for finance, `/finance` on the gateway: HTML from the server, readable without scripts (docs/finance.md)."""
