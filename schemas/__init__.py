"""Contracts: Avro schemas, the records they describe, and the codec between them. Imports nothing else of ours."""
