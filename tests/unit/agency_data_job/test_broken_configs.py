"""Broken job configs, and every word that is said of each: YAML's words, with line, column and path."""

# ruff: noqa: E501 - whole messages

import re
from pathlib import Path
from textwrap import dedent
from typing import NamedTuple

import pytest

from pipeline_processing.agency_data_job.checking import faults_without_servers
from pipeline_processing.agency_data_job.config import InvalidJobConfig
from pipeline_processing.agency_data_job.loading import load_job_config


class Broken(NamedTuple):
    """A job config, and its faults."""

    text: str
    faults: list[str]


CONFIGS = {
    "a query with a colon": Broken(
        """\
            datasets:
              - name: people
                source:
                  postgres:
                    query: SELECT id AS key: FROM people
            """,
        [
            "5:32 a colon and a space make a mapping: put a text with a colon in quotes, or below the key after `|`",
        ],
    ),
    "a tab": Broken(
        "datasets:\n\t- name: people\n",
        [
            "2:1 a tab can't indent: use spaces",
        ],
    ),
    "a key twice": Broken(
        """\
            datasets:
              - name: people
                format: csv
                format: ndjson
            """,
        [
            "4:5 the key 'format' is written twice",
        ],
    ),
    "misspelt keys": Broken(
        """\
            dataset:
              - name: people
            datasets:
              - nmae: people
                source: {postgres: {query: "SELECT id, name, email FROM people WHERE agency_id = $1", args: [agency_id]}}
                stpes: []
                destination: {s3: {bucket: exports}}
            """,
        [
            "1:1 dataset: unknown key: did you mean datasets?",
            "4:5 datasets[0].nmae: unknown key: did you mean name?",
            "6:5 datasets[0].stpes: unknown key: did you mean steps?",
            "7:5 datasets[0].destination: unknown key: did you mean destinations, at the top of the file?",
        ],
    ),
    "a list that isn't one": Broken(
        """\
            datasets:
              people:
                source: {postgres: {query: "SELECT id, name, email FROM people WHERE agency_id = $1", args: [agency_id]}}
            """,
        [
            "2:3 datasets: must be a list: begin each item with `- `",
        ],
    ),
    "text for lists and mappings": Broken(
        """\
            datasets:
              - name: people
                source: {postgres: {query: "SELECT id, name, email FROM people WHERE agency_id = $1", args: [agency_id]}}
                steps:
                  - select: id
                  - derive: upper(name)
                  - dedupe: id
            """,
        [
            "5:17 datasets[people].steps[0].select: must be a list: put it in brackets",
            "6:17 datasets[people].steps[1].derive: must be a mapping of `key: value`",
            "7:17 datasets[people].steps[2].dedupe: must be a mapping with by, keep",
        ],
    ),
    "nothing where something is needed": Broken(
        """\
            datasets:
              - name: people
                source:
                  postgres:
                    query:
                    args: [agency_id]
                steps:
                  - select:
                  - filter: ""
            """,
        [
            "5:9 datasets[people].source.postgres: needs one of `table`, `query` and `query_file`",
            "8:16 datasets[people].steps[0].select: is empty, but must be a list",
            "9:17 datasets[people].steps[1].filter: must not be empty",
        ],
    ),
    "numbers and words of YAML for text": Broken(
        """\
            datasets:
              - name: 2026
                source: {postgres: {query: "SELECT id, name, email FROM people WHERE agency_id = $1", args: [agency_id]}}
                steps:
                  - select: [id, true]
                max_artifact_rows: 1k
                compression: zip
                expect: {min_rows: -1, max_change: 20}
            """,
        [
            "2:11 datasets[0].name: must be text: put it in quotes",
            "5:22 datasets[0].steps[0].select[1]: must be text: put it in quotes",
            "6:24 datasets[0].max_artifact_rows: must be a whole number",
            "7:18 datasets[0].compression: must be none, gzip or zstd: did you mean gzip?",
            "8:24 datasets[0].expect.min_rows: must be at least 0",
            '8:40 datasets[0].expect.max_change: must be a share with a percent sign, such as "0.1%"',
        ],
    ),
    "an unknown step and a misspelt one": Broken(
        """\
            datasets:
              - name: people
                source: {postgres: {query: "SELECT id, name, email FROM people WHERE agency_id = $1", args: [agency_id]}}
                steps:
                  - filtre: "id > 1"
                  - shuffle: true
                  - select: [id]
                    drop: [name]
            """,
        [
            "5:9 datasets[people].steps[0]: unknown step: did you mean filter?",
            "6:9 datasets[people].steps[1]: unknown step. A step is a mapping with one of the keys select, drop, rename, add, cast, filter, derive, mask, flatten, dedupe, validate, enrich_table, enrich_http, python, or the name of another package's step, which has a dot",
            "7:9 datasets[people].steps[2]: needs one key beside `timeout`, and has 'select', 'drop'",
        ],
    ),
    "a step without its dash": Broken(
        """\
            datasets:
              - name: people
                source: {postgres: {query: "SELECT id, name, email FROM people WHERE agency_id = $1", args: [agency_id]}}
                steps:
                  select: [id]
            """,
        [
            "5:7 datasets[people].steps: must be a list: begin each item with `- `",
        ],
    ),
    "mask": Broken(
        """\
            datasets:
              - name: people
                source: {postgres: {query: "SELECT id, name, email FROM people WHERE agency_id = $1", args: [agency_id]}}
                steps:
                  - mask: {columns: [email], using: md5}
                  - mask: {columns: [email], using: redact, salt: pepper}
                  - mask: {columns: [email], using: hmac, secret: Name-Key}
                  - mask: {columns: [emial], using: sha256}
            """,
        [
            "5:41 datasets[people].steps[0].mask.using: must be sha256, hmac, redact or partial",
            "6:55 datasets[people].steps[1].mask.salt: `salt` is an option of `using: sha256`, not of `using: redact`",
            "7:55 datasets[people].steps[2].mask.secret: must be the name of a secret, such as warehouse_dsn: lower-case letters, digits and `_`. The secret itself belongs into the setting PIPELINE_SECRETS__WAREHOUSE_DSN",
            "8:26 datasets[people].steps[3].mask.columns[0]: Step 'mask: emial' reads column 'emial', but the rows there have id, name, email. Did you mean 'email'? Correct the step, or keep the column in an earlier `select`.",
        ],
    ),
    "expressions of other languages": Broken(
        """\
            datasets:
              - name: people
                source: {postgres: {query: "SELECT id, name, email FROM people WHERE agency_id = $1", args: [agency_id]}}
                steps:
                  - filter: "name == 'x'"
                  - filter: id > 1 && id < 9
                  - filter: name ~ '^a'
                  - derive:
                      a: uper(name)
                      b: "nmae || '!'"
                      c: sleep(5)
            """,
        [
            "5:17 datasets[people].steps[0].filter: Step \"filter: name == 'x'\" uses '==': write `=` (character 6: == 'x').",
            "6:17 datasets[people].steps[1].filter: Step 'filter: id > 1 && id < 9' uses '&&': write `AND` (character 8: && id < 9).",
            "7:17 datasets[people].steps[2].filter: Step \"filter: name ~ '^a'\" uses '~': write `LIKE`, where `%` stands for any text (character 6: ~ '^a').",
            "9:14 datasets[people].steps[3].derive.a: Step 'derive', column 'a', calls UPER: did you mean upper? (character 1: uper(name)). `pipeline-processing config expressions` lists what expressions may have.",
            "10:14 datasets[people].steps[3].derive.b: Step 'derive' reads column 'nmae', but the rows there have id, name, email. Did you mean 'name'? Correct the step, or keep the column in an earlier `select`.",
            "11:14 datasets[people].steps[3].derive.c: Step 'derive', column 'c', calls SLEEP, which isn't a function here (character 1: sleep(5)). `pipeline-processing config expressions` lists what expressions may have.",
        ],
    ),
    "columns": Broken(
        """\
            datasets:
              - name: people
                source: {postgres: {query: "SELECT id, name, email FROM people WHERE agency_id = $1", args: [agency_id]}}
                steps:
                  - rename: {nmae: label}
                  - drop: [email]
                  - filter: email <> ''
                  - cast: {id: int4, agency: text}
                expect: {unique: [id, keey]}
            """,
        [
            "5:18 datasets[people].steps[0].rename.nmae: Step 'rename' reads column 'nmae', but the rows there have id, name, email. Did you mean 'name'? Correct the step, or keep the column in an earlier `select`.",
            "7:17 datasets[people].steps[2].filter: Step \"filter: email <> ''\" reads column 'email', but the rows there have id, name, label. Correct the step, or keep the column in an earlier `select`.",
            "8:20 datasets[people].steps[3].cast.id: Step 'cast', column 'id', has 'int4' where a type is expected. Supported types: text, integer, bigint, numeric[(p[, s])], double precision, boolean, date, timestamp, timestamptz, uuid, json (character 1: int4).",
            "8:26 datasets[people].steps[3].cast.agency: Step 'cast' reads column 'agency', but the rows there have id, name, label. Correct the step, or keep the column in an earlier `select`.",
            "9:27 datasets[people].expect.unique[1]: Step 'expect unique: id, keey' reads column 'keey', but the rows there have id, name, label. Correct the step, or keep the column in an earlier `select`.",
        ],
    ),
    "python": Broken(
        """\
            datasets:
              - name: people
                source: {postgres: {query: "SELECT id, name, email FROM people WHERE agency_id = $1", args: [agency_id]}}
                steps:
                  - python: normalise
                  - python: {function: "shop.steps:normalise", read: [name]}
                  - python: {function: "shop.steps:normalise", reads: [name], adds: {n: int}}
            """,
        [
            "5:17 datasets[people].steps[0].python: must be `package.module:name`, such as shop.steps:normalise",
            "6:52 datasets[people].steps[1].python.read: unknown key: did you mean reads?",
            "7:77 datasets[people].steps[2].python.adds.n: must be text, integer, number, float, boolean, date, timestamp, timestamptz, uuid or json: did you mean integer?",
        ],
    ),
    "limits": Broken(
        """\
            datasets:
              - name: people
                source: {postgres: {query: "SELECT id, name, email FROM people WHERE agency_id = $1", args: [agency_id]}}
                overlap: 5 minutes
                max_rejected: many
              - name: others
                source: {postgres: {query: "SELECT id, name, email FROM people WHERE agency_id = $1", args: [agency_id]}}
                max_rejected: 5
                since: yesterday
            """,
        [
            "4:14 datasets[people].overlap: '5 minutes' isn't a duration: write a number and a unit, such as 250ms, 90s, 15m, 1h or 2d",
            '5:19 datasets[people].max_rejected: must be a whole number or a share with a percent sign, such as "0.1%"',
            "9:12 datasets[others].since: must be last_success",
        ],
    ),
    "csv": Broken(
        """\
            datasets:
              - name: people
                source: {postgres: {query: "SELECT id, name, email FROM people WHERE agency_id = $1", args: [agency_id]}}
                format: xlsx
                csv: {delimiter: "||", headers: no}
            """,
        [
            "4:13 datasets[people].format: must be ndjson, csv or parquet",
            "5:22 datasets[people].csv.delimiter: must be one printable ASCII character, or a tab",
            "5:28 datasets[people].csv.headers: unknown key: did you mean header?",
        ],
    ),
    "sources": Broken(
        """\
            datasets:
              - name: people
                source: SELECT * FROM people
              - name: others
                source: {postgres: SELECT * FROM others}
              - name: api
                source: {http: {url: "api.example.com/{agency_id}", columns: {id: int}}}
            """,
        [
            "3:13 datasets[people].source: unknown source. A source is a mapping with one of the keys postgres, http, or the name of another package's source, which has a dot",
            "5:24 datasets[others].source.postgres: must be a mapping with table, columns, agency_column, key, updated_column, query, query_file, args, statement_timeout",
            "7:26 datasets[api].source.http.url: names in braces are allowed in the path and the query, not in the scheme or the host",
            "7:71 datasets[api].source.http.columns.id: must be text, integer, number, float, boolean, date, timestamp, timestamptz, uuid or json: did you mean integer?",
        ],
    ),
    "destinations": Broken(
        """\
            datasets:
              - name: people
                source: {postgres: {query: "SELECT id, name, email FROM people WHERE agency_id = $1", args: [agency_id]}}
            destinations:
              - azure: {container: exports}
              - s3: {bucket: Exports}
              - file: {path: exports}
              - postgres: {dsn: "postgresql://app:s3cret@db/warehouse"}
            """,
        [
            "5:5 destinations[0]: unknown destination. A destination is a mapping with one of the keys s3, file, postgres, or the name of another package's destination, which has a dot",
            "6:9 destinations[1].s3: must be s3://bucket/prefix, and a bucket's name has 3 to 63 lower-case letters, digits, dots and hyphens",
            "7:18 destinations[2].file.path: must be an absolute path, not 'exports'",
            "8:21 destinations[3].postgres.dsn: must be the name of a secret, such as warehouse_dsn: lower-case letters, digits and `_`. The secret itself belongs into the setting PIPELINE_SECRETS__WAREHOUSE_DSN",
        ],
    ),
    "all agencies' rows": Broken(
        """\
            datasets:
              - name: people
                source: {postgres: {query: SELECT id FROM people}}
              - name: people
                source: {postgres: {query: SELECT id FROM people}}
            """,
        [
            "3:24 datasets[people].source.postgres: The postgres source doesn't use `agency_id`, so each agency would get all agencies' rows. Name it in `args`, and write its $1, $2, … into the query. If every agency should get the same rows, set `shared: true`.",
            "4:11 datasets[people].name: two datasets are named people: give each a unique name",
            "5:24 datasets[people].source.postgres: The postgres source doesn't use `agency_id`, so each agency would get all agencies' rows. Name it in `args`, and write its $1, $2, … into the query. If every agency should get the same rows, set `shared: true`.",
        ],
    ),
    "meaning of one and form of another": Broken(
        """\
            datasets:
              - name: people
                source: {postgres: {query: "SELECT id, name FROM people", args: [agency_id]}}
                steps:
                  - select: [id, nmae]
                  - add: {x: [1]}
                  - filter: id =
              - name: others
                sauce: {}
                steps:
                  - filter: name == 'a'
            """,
        [
            "3:24 datasets[people].source.postgres: The postgres source doesn't use `agency_id`, so each agency would get all agencies' rows. Name it in `args`, and write its $1, $2, … into the query. If every agency should get the same rows, set `shared: true`.",
            "5:22 datasets[people].steps[0].select[1]: Step 'select' reads column 'nmae', but the rows there have id, name. Did you mean 'name'? Correct the step, or keep the column in an earlier `select`.",
            "6:18 datasets[people].steps[1].add.x: must be text, a number or true or false",
            "7:17 datasets[people].steps[2].filter: Step 'filter: id =' ends where a value is expected.",
            "9:5 datasets[others].sauce: unknown key: did you mean source?",
            "11:17 datasets[others].steps[0].filter: Step \"filter: name == 'a'\" uses '==': write `=` (character 6: == 'a').",
        ],
    ),
    "params": Broken(
        """\
            params:
              region: {type: string}
              "1st": {type: text}
              agency_id: {type: text}
            datasets:
              - name: people
                source: {postgres: {query: "SELECT id, name, email FROM people WHERE agency_id = $1", args: [agency_id]}}
            """,
        [
            "2:18 params.region.type: must be text, integer, number, boolean, date or timestamp",
            "3:3 params.1st: must be a param's name: a letter or `_`, then up to 62 letters, digits, `_` and `-`",
            "4:3 params.agency_id: agency_id is built in: a param needs another name",
        ],
    ),
    "keys one level too high": Broken(
        """\
            datasets:
              - name: people
                postgres: {query: SELECT 1}
                min_rows: 1
              - name: others
                source: {query: SELECT id FROM others}
            """,
        [
            "2:5 datasets[people]: needs `source`",
            "3:5 datasets[people].postgres: unknown key: it belongs below `source`",
            "4:5 datasets[people].min_rows: unknown key: it belongs below `expect`",
            "6:13 datasets[others].source: unknown source. A source is a mapping with one of the keys postgres, http, or the name of another package's source, which has a dot",
        ],
    ),
    "texts and lists of other languages": Broken(
        """\
            datasets:
              - name: people
                source: {postgres: {query: "SELECT id, name, email FROM people WHERE agency_id = $1", args: [agency_id]}}
                steps:
                  - filter: name = "x"
                  - filter: id in [1, 2]
                  - filter: id =
            """,
        [
            "5:17 datasets[people].steps[0].filter: Step 'filter: name = \"x\"' reads column 'x', but the rows there have id, name, email. Correct the step, or keep the column in an earlier `select`. If it is a text, put it in single quotes: 'x'.",
            "6:17 datasets[people].steps[1].filter: Step 'filter: id in [1, 2]' uses '[': write parentheses, as in `IN (1, 2)` (character 7: [1, 2]).",
            "7:17 datasets[people].steps[2].filter: Step 'filter: id =' ends where a value is expected.",
        ],
    ),
    "defaults": Broken(
        """\
            defaults:
              max_rejected: 5
              expect: {unique: [id, keey]}
            datasets:
              - name: people
                source: {postgres: {query: "SELECT id, name, email FROM people WHERE agency_id = $1", args: [agency_id]}}
              - name: others
                source: {postgres: {query: "SELECT id, name, email FROM people WHERE agency_id = $1", args: [agency_id]}}
                on_row_error: skip
            """,
        [
            "2:17 defaults.max_rejected: `max_rejected` needs `on_row_error: skip` or `quarantine`: with `fail` none is rejected",
            "3:25 defaults.expect.unique[1]: Step 'expect unique: id, keey' reads column 'keey', but the rows there have id, name, email. Correct the step, or keep the column in an earlier `select`.",
        ],
    ),
    "defaults that need each other": Broken(
        """\
            defaults: {since: last_success, overlap: 5m, expect: {not_null: [idd]}}
            datasets:
              - name: people
                source: {postgres: {query: "SELECT id FROM people WHERE agency_id = $1 AND at > $2", args: [agency_id, since]}}
                stpes: []
              - name: others
                source: {postgres: {query: "SELECT id FROM people WHERE agency_id = $1 AND at > $2", args: [agency_id, since]}}
            """,
        [
            "1:66 defaults.expect.not_null[0]: Step 'expect not_null: idd' reads column 'idd', but the rows there have id. Did you mean 'id'? Correct the step, or keep the column in an earlier `select`.",
            "5:5 datasets[people].stpes: unknown key: did you mean steps?",
        ],
    ),
    "a comma in a text without quotes": Broken(
        """\
            datasets:
              - name: people
                source: {postgres: {query: SELECT id, name FROM people WHERE agency_id = $1, args: [agency_id]}}
            """,
        [
            "3:43 datasets[people].source.postgres.name FROM people WHERE agency_id = $1: unknown key: within braces a comma ends a text, so put it in quotes",
        ],
    ),
    "two documents": Broken(
        """\
            datasets: []
            ---
            datasets: []
            """,
        [
            "2:1 a config is one document: leave out this `---` and what is below it",
        ],
    ),
}
_NOT_YAML = re.compile(
    r"Input should|valid (tuple|dictionary|string|integer)|function-|constrained-|Extra inputs|Field required"
)


def _faults(path: Path) -> list[str]:
    try:
        config = load_job_config(path)
    except InvalidJobConfig as error:
        return [line.strip() for line in str(error).splitlines()[1:]]
    return [str(fault) for fault in faults_without_servers(config, secrets=(), path=path)]


@pytest.mark.parametrize("broken", CONFIGS.values(), ids=CONFIGS)
def test_all_faults_in_one_round(broken: Broken, tmp_path: Path) -> None:
    """In the order of the file, each with its place. A config is mended without a second look at the docs."""
    path = tmp_path / "job.yaml"
    path.write_text(dedent(broken.text))

    faults = _faults(path)

    assert [fault.removeprefix("job.yaml:") for fault in faults] == broken.faults
    assert not _NOT_YAML.search("\n".join(faults))
    assert "s3cret" not in "".join(faults)
