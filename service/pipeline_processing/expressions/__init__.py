"""
The expressions of `filter`, `derive` and `cast`: a subset of SQL, with Postgres's semantics.

`parse.py` parses text into a tree, `compile.py` makes typed parts of it, and `code.py` one Python function of those.
Anything whose exact semantics aren't implemented is refused. Steps use `expression.py`. docs/decisions/0003 explains
why this is our own implementation.

Differences from Postgres:

- Integers of any name have 64 bits, because the width of a column isn't known.
- Text sorts as in the collation "C", and case changes map letters one to one, as in the locale C.UTF-8.
- A constant part that can't be computed, such as `1 / 0`, is refused even if no row would reach it.
- A pattern that ends in a single backslash is a fault even if matching would never reach it.
- The first or last element of a json scalar is a fault, because json and jsonb differ there.
- A composite of only nulls isn't null.
"""
