"""Messaging on Apache Kafka, by aiokafka."""
