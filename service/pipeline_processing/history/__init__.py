"""The run table: queue, history and outbox."""
