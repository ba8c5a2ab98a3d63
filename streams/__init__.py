"""Kafka and Faust: topics, clients, the transactional settlement host, publishing and reading."""
