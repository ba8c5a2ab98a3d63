"""Backup and restore of a world: its topics, its schemas and what ClickHouse alone has (docs/production.md)."""
