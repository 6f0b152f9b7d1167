"""The privileges that `doctor` looks for are those that `serve` needs."""

import re
from collections import defaultdict
from pathlib import Path

from pipeline_processing.doctor.postgres import NEEDED_PRIVILEGES
from pipeline_processing.history.postgres import store

OF_COMMANDS = {"board.sql", "pruning.sql"}
WRITES = {
    r"INSERT INTO (\w+)": "INSERT",
    r"INSERT INTO (\w+)(?:(?!INSERT INTO).)*ON CONFLICT [^;]*?DO UPDATE": "UPDATE",
    r"\bUPDATE (\w+)(?: AS \w+)?\s+SET": "UPDATE",
    r"DELETE FROM (\w+)": "DELETE",
    r"FOR (?:NO KEY UPDATE|UPDATE|SHARE) OF (\w+)": "UPDATE",
}


def test_privileges_are_those_of_the_queries() -> None:
    """No more, or a role with the least privileges would be told to have more; no less, or it would stop with 77."""
    written = defaultdict[str, set[str]](set)
    for file in Path(store.__file__).parent.glob("*.sql"):
        for query in re.sub(r"--.*", "", file.read_text()).split(";") if file.name not in OF_COMMANDS else ():
            for pattern, privilege in WRITES.items():
                for table in re.findall(pattern, query, re.DOTALL):
                    written[table].add(privilege)
    assert written.keys() <= NEEDED_PRIVILEGES.keys()
    for table, needed in NEEDED_PRIVILEGES.items():
        assert set(needed.split(", ")) - {"SELECT"} == written[table], table
