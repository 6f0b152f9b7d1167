"""
The expressions of `filter`, `derive` and `cast`: a part of SQL, with the meaning that it has in Postgres.

`parse.py` has the grammar, by Postgres's own rules for tokens and precedence, and lark makes trees by it (sqlglot takes
other precedences, and more than Postgres does). `compile.py` turns a tree into closures, and nothing but those closures
ever runs. What isn't known here exactly is refused. `expression.py` is what steps use.

Where something is decided otherwise than in Postgres:

- Integers have 64 bits under any of their names, since a column doesn't tell how many it has.
- Text orders as in the collation "C", and letters change case one to one, as in the locale C.UTF-8.
- A part without columns that can't be computed, such as `1 / 0`, is refused, whether or not a row comes to it.
- A pattern that ends in a lone backslash is a fault, whether or not a text gets that far.
- The first or last element of a json that is a plain value is a fault: json and jsonb differ in it.
- A composite of nothing but nulls isn't null.
"""
