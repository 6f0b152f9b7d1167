"""Job requests: parse, submit, follow, replay and redrive them."""
