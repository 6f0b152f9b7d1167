"""
The expressions of `filter`, `derive` and `cast`: a part of SQL, with the meaning that it has in Postgres.

`parse.py` makes a tree of the text, `compile.py` makes closures of the tree, and only those closures ever run. What
isn't known exactly is refused. Steps use `expression.py`. docs/decisions/0003 says why this is our own.

Exceptions from Postgres:

- Integers have 64 bits under any of their names, since a column doesn't tell how many it has.
- Text orders as in the collation "C", and letters change case one to one, as in the locale C.UTF-8.
- A part without columns that can't be computed, such as `1 / 0`, is refused even if no row would reach it.
- A pattern that ends in a lone backslash is a fault even if no text gets that far.
- The first or last element of a json that is a plain value is a fault: json and jsonb differ in it.
- A composite of nothing but nulls isn't null.
"""
