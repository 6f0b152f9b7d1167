"""Helpers for asyncio: clocks, budgets, threads and loops of their own."""
