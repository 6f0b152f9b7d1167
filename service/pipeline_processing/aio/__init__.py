"""Helpers for asyncio: clocks, retries, budgets, threads and a second event loop."""
