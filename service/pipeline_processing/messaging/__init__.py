"""Kafka topics, and the clients that read and write them."""
