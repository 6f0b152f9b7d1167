"""The composition root: it knows every adapter and hands everything its dependencies."""
