"""The console for operators, `/operations` on the gateway: HTML from the server, live by server-sent events, readable
without scripts (docs/console.md)."""
