"""What can be wrong with an expression, before the first row and with one row."""


class Refused(Exception):
    """
    An expression can't be used.

    `at` is where in its text, from 0; `unsupported` tells that it uses what there isn't, so that a list of what
    there is may help.
    """

    def __init__(self, why: str, at: int, *, unsupported: bool = False) -> None:
        super().__init__(why)
        self.why = why
        self.at = at
        self.unsupported = unsupported


class RowFault(Exception):
    """An expression has no value for one row. `reason` says why, without any value of the row."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
