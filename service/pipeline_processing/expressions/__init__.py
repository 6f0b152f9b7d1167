"""
The expressions of `filter`, `derive` and `cast`: a part of SQL, with the meaning that it has in Postgres.

`parse.py` reads text into a tree, by Postgres's own rules for tokens and precedence; `compile.py` turns the tree into
closures, and nothing but those closures ever runs. What isn't known here exactly is refused. `expression.py` is what
steps use.
"""
