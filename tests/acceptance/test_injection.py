"""
Whatever a request, the data or a job config hold, it stays data: in SQL, in URLs and headers, in names, in templates.

Every test also shows that all tables of the agencies are as they were before.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pytest

from tests.acceptance.running_api import running_api
from tests.acceptance.service import (
    PREFIX,
    SMALL,
    NewService,
    Service,
    completion,
    dataset_rows,
    message,
    one_dataset,
)
from tests.upstream_api import Asked, Reply, UpstreamApi

HOSTILE = (
    # to SQL
    "'", "''", "'; DROP TABLE victims; --", '"; DROP TABLE victims; --', "1 OR 1=1", "$1", "'$1'", "$x$", "--", "/* */",
    "$$; DROP TABLE victims; $$", "*/ DROP TABLE victims /*", "U&'\\0027; DROP TABLE victims --'", "\\", "E'\\x27'",
    "\\'; DROP TABLE victims; --", "NULL", "null", "\\N",
    # to URLs and headers
    "\n", "a\r\nX-Evil: 1\r\n\r\nGET /evil HTTP/1.1", "\t", " ", "%2e%2e/", "../", "../../admin", "..\\", "a/b", "?a=b",
    "&a=b", "#fragment", "@evil.example", "//evil.example/", "http://evil.example/", ":80", ";", "a,b", "+", "%", "%00",
    "%0d%0a", "../_manifest.json",
    # to templates, shells and readers
    "{agency_id}", "{run_id}", "{values}", "{{agency_id}}", "{", "}", "{0.__class__}", "{agency_id.__class__}",
    "{agency_id!r}", "%s %(a)s %n", "${HOME}", "`id`", "$(id)", "<script>", "é🦉", "\u202e", "\x1b[31m", "=1+1",
)  # fmt: skip
"""Nothing of it may mean anything."""
NOWHERE_IN_A_PATH = ("", ".", "..")
"""As a segment of a path they would lead elsewhere; so they are refused there."""
NAME = "a 'b\" ; DROP TABLE victims; -- $1 {agency_id} %s ü"
"""A name that columns may have."""


@pytest.fixture(scope="module")
def shared(new_service: NewService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with tables to be harmed."""
    with new_service(tmp_path_factory.mktemp("injection")) as service:
        service.sql("CREATE TABLE victims (id int); INSERT INTO victims VALUES (1), (2);")
        service.sql("CREATE TABLE texts (id int, value text, label text)")
        for number, text in enumerate(HOSTILE):
            service.sql("INSERT INTO texts VALUES ($1, $2, $3)", number, text, f"label {number}")
        yield service


@pytest.fixture(autouse=True)
def unharmed(shared: Service) -> Iterator[None]:
    """All tables but the history's have the rows that they had."""
    before = tables(shared)
    yield
    assert tables(shared) == before


def tables(service: Service) -> dict[str, list[dict[str, Any]]]:
    names = service.sql(
        "SELECT format('%I.%I', schemaname, tablename) AS name FROM pg_tables "
        "WHERE schemaname NOT IN ('pipeline', 'pg_catalog', 'information_schema')"
    )
    return {row["name"]: service.sql(f"SELECT t::text FROM {row['name']} t ORDER BY 1") for row in names}


@pytest.fixture(scope="module")
def api() -> Iterator[UpstreamApi]:
    """The API that the job configs name."""
    with running_api() as api:
        yield api


@pytest.fixture(scope="module")
def evil() -> Iterator[UpstreamApi]:
    """A server that no job config names."""
    with running_api() as evil:
        yield evil


def params(texts: Sequence[str] = HOSTILE) -> list[str]:
    """Options that send the texts as h0, h1, …"""
    return [option for number, text in enumerate(texts) for option in ("--param", f"h{number}={text}")]


def exported(service: Service, job: Mapping[str, Any], run_id: str, *options: str) -> dict[str, Any]:
    """The manifest of a run that succeeds."""
    done = service.run(SMALL, "--run-id", run_id, "--config", service.job_config(job), *options)
    assert done.returncode == 0, done.stderr
    completion(done)
    key = f"{PREFIX}/agency_id={SMALL}/run_id={run_id}/_manifest.json"
    manifest: dict[str, Any] = json.loads(service.s3.get_object(Bucket=service.bucket, Key=key)["Body"].read())
    return manifest


# -- requests ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["ndjson", "csv"])
def test_params_in_a_query(shared: Service, form: str) -> None:
    """Each arrives as the text that it is; what looks like a parameter inside of a literal or a comment isn't one."""
    numbers = range(len(HOSTILE))
    values = ", ".join(f"${number + 2}::text AS h{number}" for number in numbers)
    query = f"""
        SELECT $1::bigint AS agency, {values}, '$1 '' $2' AS quoted, E'\\'$1' AS escaped, $$ $1 ' $2 $$ AS dollars,
               $x$ $$ $1 $x$ AS tagged, U&'\\0027 $1' AS unicode, 1 AS "$1 "" $2" -- $99 '
               /* $98 ' /* $97 */ */
    """
    steps = [{"add": {f"added{number}": f"<{{h{number}}}>" for number in numbers}}]
    job = one_dataset(query, args=("agency_id", *(f"h{number}" for number in numbers)), steps=steps, format=form)

    manifest = exported(shared, job, f"query-{form}", *params())

    (row,) = dataset_rows(shared, manifest, "records")
    expected = {
        "agency": SMALL,
        **{f"h{number}": HOSTILE[number] for number in numbers},
        "quoted": "$1 ' $2",
        "escaped": "'$1",
        "dollars": " $1 ' $2 ",
        "tagged": " $$ $1 ",
        "unicode": "' $1",
        '$1 " $2': 1,
        **{f"added{number}": f"<{HOSTILE[number]}>" for number in numbers},
    }
    assert row == (expected if form == "ndjson" else {name: str(value) for name, value in expected.items()})
    assert shared.history(f"query-{form}")["request"]["params"] == {f"h{n}": HOSTILE[n] for n in numbers}


def test_names_of_params(shared: Service) -> None:
    """They are looked up as a whole: nothing of them is reached into."""
    names = [name for name in HOSTILE if "=" not in name and not set(name) & set("{}!:[") and name.strip()]
    names += ["0.__class__", "agency_id.real"]
    job = one_dataset(
        "SELECT 1 AS one", args=(), steps=[{"add": {f"a{n}": f"{{{name}}}" for n, name in enumerate(names)}}]
    )

    manifest = exported(shared, job, "names-1", *(f"--param={name}=value of {name}" for name in names))

    (row,) = dataset_rows(shared, manifest, "records")
    assert row == {"one": 1, **{f"a{n}": f"value of {name}" for n, name in enumerate(names)}}


def test_times(shared: Service) -> None:
    """`since` and `until` arrive as times; where text is asked for, as their own text."""
    query = "SELECT $1::timestamptz AS since, $2::timestamptz AS until, '$1' AS literal"
    done = shared.run(
        SMALL, "--run-id", "times-1", "--config", shared.job_config(one_dataset(query, args=("since", "until"))),
        "--since", "2026-01-18T10:00+02:00", "--until", "2026-01-19T00:00Z",
    )  # fmt: skip

    assert done.returncode == 0, done.stderr


REFUSED: dict[str, tuple[int, str, list[str]]] = {
    **{
        f"agency {text!r}": (64, "--agency-id", ["--agency-id", text])
        for text in ("1; DROP TABLE victims", "1 OR 1=1", "1'", "''", "", "1.5", "0x1", "{agency_id}", "1\n2")
    },
    **{f"agency {text!r}": (65, "agency_id", ["--agency-id", text]) for text in ("0", "-1", str(2**63))},
    **{
        f"run id {text!r}": (65, "run_id", ["--agency-id", "1", "--run-id", text])
        for text in (
            "", ".", "..", "../x", "a/b", "a\\b", "a b", "a'b", "a;b", "a\n", "%2e", "a?b", "a#b", "{agency_id}", "é",
            "a\r\nX-Evil: 1", "a" * 129, "_installation.json",
        )
    },
    **{
        f"since {text!r}": (65, "since", ["--agency-id", "1", "--since", text])
        for text in ("now()", "infinity", "'; DROP TABLE victims", "2026-01-18", "2026-01-18T10:00:00Z'", "0", "today")
    },
    "until": (65, "until", ["--agency-id", "1", "--until", "$1"]),
    **{
        f"dataset {text!r}": (65, "Correct the request", ["--agency-id", "1", "--dataset", text])
        for text in ("records'; DROP TABLE victims; --", "../records", "*", "", "records\n", "RECORDS")
    },
    "format": (65, "format", ["--agency-id", "1", "--format", "csv; DROP TABLE victims"]),
    **{
        f"param {text!r}": (65, "built in", ["--agency-id", "1", "--param", text])
        for text in ("agency_id=2", "run_id=x", "since=2026-01-18T10:00:00Z")
    },
    "param without a name": (64, "KEY=VALUE", ["--agency-id", "1", "--param", "=x"]),
    "half a character": (65, "surrogate", ["--agency-id", "1", "--param", "x=\udc80"]),
    "another job": (65, "agency_data_job", ["--agency-id", "1"]),
}  # fmt: skip


def test_requests_that_are_refused(shared: Service) -> None:
    """Each with its code and a message that says which part is wrong; nothing is accepted or written."""
    before = shared.everything()
    found = {}
    for name, (_, says, options) in REFUSED.items():
        job = "agency_data_job; DROP TABLE victims" if name == "another job" else "agency_data_job"
        done = shared.cli("run", job, *options)
        found[name] = (done.returncode, done.stdout, says in message(done))

    assert found == {name: (code, "", True) for name, (code, _, _) in REFUSED.items()}
    assert shared.everything() == before


# -- APIs -------------------------------------------------------------------------------------------


def of_api(source: Mapping[str, Any], name: str = "records", *steps: Any) -> dict[str, Any]:
    """A job config whose one dataset comes from an API."""
    dataset = {"name": name, "source": {"http": source}, "shared": True, "steps": list(steps)}
    return {"job": "agency_data_job", "datasets": [dataset]}


def test_params_in_urls(shared: Service, api: UpstreamApi) -> None:
    """Each is one segment of the path, and one value in the query: nothing else of a request changes."""
    job: dict[str, Any] = {"job": "agency_data_job", "datasets": []}
    for number, text in enumerate(HOSTILE):
        name = f"h{number}"
        api.on(f"/{name}/{text}/all", [{"value": text + "\0", "name": text}])
        source = {
            "url": api.url(f"/{name}/{{{name}}}/all?q={{{name}}}"),
            "query": {"raw": f"{{{name}}}", "mixed": f"<{{{name}}}>", NAME: "{agency_id}"},
            "headers": {"X-Client": "{h0} stays as it is"},
            "columns": {"value": "text", NAME: {"kind": "text", "path": "name"}},
        }
        job["datasets"] += of_api(source, name, {"add": {"added": f"{{{name}}}"}})["datasets"]

    manifest = exported(shared, job, "urls-1", *params())

    for number, text in enumerate(HOSTILE):
        expected = [{"value": text + "\0", NAME: text, "added": text}]
        assert dataset_rows(shared, manifest, f"h{number}") == expected
    asked = api.asked[-len(HOSTILE) :]
    name = quote(NAME, safe="")
    for number, (each, text) in enumerate(zip(asked, HOSTILE, strict=True)):
        value = quote(text, safe="")
        assert each.raw == f"/h{number}/{value}/all?q={value}&raw={value}&mixed=%3C{value}%3E&{name}={SMALL}"
        assert each.query == {"q": text, "raw": text, "mixed": f"<{text}>", NAME: str(SMALL)}
        assert each.host == f"127.0.0.1:{api.port}"
        assert each.headers["X-Client"] == "{h0} stays as it is"
        assert set(each.headers) == {"Host", "Accept", "Accept-Encoding", "User-Agent", "X-Client"}


@pytest.mark.parametrize("text", NOWHERE_IN_A_PATH)
def test_params_that_would_lead_elsewhere(shared: Service, api: UpstreamApi, text: str) -> None:
    """A segment that a server may normalise away is refused, and nothing is asked."""
    source = {"url": api.url("/agencies/{agency_id}/{h0}/all"), "columns": {"value": "text"}}
    asked = len(api.asked)

    done = shared.run(SMALL, "--config", shared.job_config(of_api(source)), *params([text]))

    assert done.returncode == 65
    assert "Dataset 'records'" in message(done)
    assert "lead to another path" in message(done)
    assert len(api.asked) == asked


TOKEN = {"PIPELINE_SECRETS__API_TOKEN": "t0ken-pw"}
LINKS = {
    "another port": "http://{evil}/stolen",
    "another port without a scheme": "//{evil}/stolen",
    "user info": "http://{api}@{evil}/stolen",
    "backslashes": "http:\\\\{evil}\\stolen",
    "another scheme": "file:///etc/passwd",
}


@pytest.mark.parametrize("link", LINKS.values(), ids=LINKS)
def test_links_that_lead_elsewhere(shared: Service, api: UpstreamApi, evil: UpstreamApi, link: str) -> None:
    """What an API calls its next page is asked for at that API, with its secret, or not at all."""
    next_page = link.format(evil=f"127.0.0.1:{evil.port}", api=f"127.0.0.1:{api.port}")
    api.on("/first", {"items": [{"value": "x"}], "next": next_page})
    source = {
        "url": api.url("/first"),
        "records": "items",
        "pages": {"next_link": "next"},
        "auth": {"bearer": "api_token"},
        "columns": {"value": "text"},
    }
    asked = len(api.asked)

    done = shared.run(SMALL, "--config", shared.job_config(of_api(source)), env=TOKEN)

    assert (done.returncode, completion(done)["error"]["kind"]) == (1, "source_data_invalid")
    assert evil.asked == []
    assert {each.host for each in api.asked[asked:]} == {f"127.0.0.1:{api.port}"}
    assert "t0ken-pw" not in done.stdout + done.stderr


def test_a_redirect_gets_no_secret(shared: Service, api: UpstreamApi, evil: UpstreamApi) -> None:
    """It may lead to another server, which gets nothing that the job config says to the first."""
    evil.on("/taken", [{"value": "x"}])
    api.on("/moved", Reply(status=302, headers={"Location": evil.url("/taken")}))
    source = {
        "url": api.url("/moved"),
        "auth": {"header": {"name": "X-Api-Key", "secret": "api_token"}},
        "headers": {"X-Client": "exporter"},
        "columns": {"value": "text"},
    }

    done = shared.run(SMALL, "--config", shared.job_config(of_api(source)), env=TOKEN)

    assert done.returncode == 0, done.stderr
    assert api.asked[-1].headers["X-Api-Key"] == "t0ken-pw"
    asked = evil.asked.pop()
    assert set(asked.headers) == {"Host", "Accept", "Accept-Encoding", "User-Agent"}


def test_a_cursor_is_a_value(shared: Service, api: UpstreamApi) -> None:
    """Whatever an API calls its pages comes back as one value, until all of them are read."""

    def page(asked: Asked) -> Any:
        number = HOSTILE.index(asked.query["cursor"]) + 1 if "cursor" in asked.query else 0
        return {"items": [{"value": number}], "cursor": HOSTILE[number] if number < len(HOSTILE) else None}

    api.on("/pages", page)
    source = {
        "url": api.url("/pages?fixed=1"),
        "records": "items",
        "pages": {"cursor": {"path": "cursor", "param": "cursor"}},
        "columns": {"value": "integer"},
    }
    asked = len(api.asked)

    manifest = exported(shared, of_api(source), "cursor-1")

    rows = dataset_rows(shared, manifest, "records")
    assert [row["value"] for row in rows] == list(range(len(HOSTILE) + 1))
    further = [f"/pages?fixed=1&cursor={quote(text, safe='')}" for text in HOSTILE]
    assert [each.raw for each in api.asked[asked:]] == ["/pages?fixed=1", *further]


@pytest.mark.parametrize("secret", ["t0ken-pw\r\nX-Evil: 1", "t0ken-pw\n", "t0ken-pw\tx"])
def test_a_secret_that_would_be_more_than_a_header(shared: Service, api: UpstreamApi, secret: str) -> None:
    """It is refused without being told, and nothing is asked."""
    source = {"url": api.url("/first"), "auth": {"bearer": "api_token"}, "columns": {"value": "text"}}
    asked = len(api.asked)

    env = {"PIPELINE_SECRETS__API_TOKEN": secret}
    done = shared.run(SMALL, "--config", shared.job_config(of_api(source)), env=env)

    assert done.returncode == 78
    assert "'api_token'" in message(done)
    assert "t0ken-pw" not in done.stdout + done.stderr
    assert len(api.asked) == asked


# -- data -------------------------------------------------------------------------------------------


def test_values_that_lookups_look_for(shared: Service, api: UpstreamApi) -> None:
    """Each finds its own record, in a table and at an API: in a query, where many go together, and in a path."""

    def labels(asked: Asked) -> Any:
        # As servers do that split a list before they decode it.
        values = [unquote(each) for each in asked.raw.partition("ids=")[2].split(",")]
        return [{"id": value, "label": value[::-1]} for value in values]

    api.on("/labels", labels)
    for text in HOSTILE:
        api.on(f"/one/{text}/label", [{"id": text, "label": f"one {text}"}])
    steps = [
        {
            "enrich_table": {
                "query": 'SELECT value AS "v\'", label AS "l$1" FROM texts WHERE value = ANY($1) -- $1 \'',
                "on": "value",
                "key": "v'",
                "add": {NAME: "l$1"},
            }
        },
        {
            "enrich_http": {
                "url": api.url("/labels?fixed=1&ids={values}"),
                "on": "value",
                "key": "id",
                "add": {"label": "label"},
                "batch": 10,
            }
        },
        {
            "enrich_http": {
                "url": api.url("/one/{values}/label"),
                "on": "value",
                "key": "id",
                "add": {"one": "label"},
                "batch": 1,
            }
        },
    ]
    query = "SELECT id, value FROM texts WHERE $1 = 1 ORDER BY id"
    asked = len(api.asked)

    manifest = exported(shared, one_dataset(query, steps=steps), "lookups-1")

    assert dataset_rows(shared, manifest, "records") == [
        {"id": number, "value": text, NAME: f"label {number}", "label": text[::-1], "one": f"one {text}"}
        for number, text in enumerate(HOSTILE)
    ]
    requests = [each.raw for each in api.asked[asked:]]
    values = sorted(quote(text, safe="") for text in HOSTILE)
    lists = [raw.removeprefix("/labels?fixed=1&ids=").split(",") for raw in requests if raw.startswith("/labels")]
    assert sorted(value for each in lists for value in each) == values
    alone = [raw.removeprefix("/one/").removesuffix("/label") for raw in requests if raw.startswith("/one/")]
    assert sorted(alone) == values
    assert len(lists) + len(alone) == len(requests)


@pytest.mark.parametrize("form", ["ndjson", "csv"])
def test_names_of_columns(shared: Service, form: str) -> None:
    """In a query, in every step that takes names, and in the artifact."""
    other, quoted = NAME[::-1], sql_name(NAME)
    steps = [
        {"select": ["id", NAME]},
        {"filter": f"{quoted} IS NOT NULL AND {quoted} || '''; $1 --' <> '$1'"},
        {"rename": {NAME: other}},
        {"add": {NAME: "{run_id}"}},
        {"derive": {f"{NAME} 2": f"{quoted} || '''; $1 --'"}},
        {"mask": {"columns": [NAME], "using": "redact"}},
        {"dedupe": {"by": [other]}},
        {"drop": ["id"]},
    ]
    job = one_dataset(f"SELECT id, value AS {quoted} FROM texts WHERE $1 = 1 ORDER BY id", steps=steps, format=form)

    manifest = exported(shared, job, f"columns-{form}")

    assert dataset_rows(shared, manifest, "records") == [
        {other: text, NAME: "***", f"{NAME} 2": f"columns-{form}'; $1 --"} for text in HOSTILE
    ]


def sql_name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


# -- names and templates of the job config ----------------------------------------------------------


NAMES = ("../x", "a/b", "_rejected", ".", "a'b", "a b", "a" * 64, "{agency_id}", "ä", "a\n", "")
URLS = (
    *("http://{agency_id}/x", "http://x@evil.example/", "http://h/../x", "http://h/x#y", "http://h/\r\nX: 1"),
    *("file:///etc/passwd", "http://h\\@evil.example/", "//evil.example/", "http:///x", "http://h:99999/"),
)
HEADERS = ({"X-A\r\nX-Evil": "1"}, {"X-A": "1\r\nX-Evil: 1"}, {"Host": "evil.example"}, {"Authorization": "x"})
TAGS = ("{0.__class__}", "{agency_id.__class__}", "{agency_id!r}", "{other}", "a&b=c", "a\r\nX-Evil: 1", "{", "{{x}}")
PREFIXES = ("../x", "a/../b", "a//b", "a\nb", ".")
OTHER_DESTINATIONS: tuple[dict[str, Any], ...] = (
    {"s3": {"bucket": "a/../b"}},
    {"s3": {"bucket": "b?x=y"}},
    {"file": {"path": "exports"}},
    {"postgres": {"dsn": "postgresql://user:t0ken-pw@evil.example/x"}},
    {"postgres": {"dsn": "warehouse_dsn", "schema": "a\0b"}},
    {"postgres": {"dsn": "warehouse_dsn", "tables": {"records": "t" * 64}}},
)


def test_names_and_addresses_that_are_refused(shared: Service) -> None:
    """All at once, each by its place in the job config."""
    datasets = [
        *(one_dataset("SELECT 1 AS one", args=())["datasets"][0] | {"name": name} for name in NAMES),
        *(of_api({"url": url, "columns": {"a": "text"}})["datasets"][0] for url in URLS),
        *(of_api({"url": "http://h/", "columns": {"a": "text"}, "headers": each})["datasets"][0] for each in HEADERS),
    ]
    destinations = [
        *({"s3": {"bucket": shared.bucket, "tags": {"tag": tag}}} for tag in TAGS),
        *({"s3": {"bucket": shared.bucket, "prefix": prefix}} for prefix in PREFIXES),
        *OTHER_DESTINATIONS,
    ]
    config = shared.job_config({"job": "agency_data_job", "datasets": datasets, "destinations": destinations})

    done = shared.cli("config", "check", "--config", config)

    assert done.returncode == 65
    said = message(done)
    written = {f"datasets[{number}].": each for number, each in enumerate(datasets)}
    written |= {f"destinations[{number}].": each for number, each in enumerate(destinations)}
    faults = re.findall(r"^  job-\w+\.yaml:\d+:\d+ (.*)$", said, re.MULTILINE)
    assert {
        place: each for place, each in written.items() if not any(fault.startswith(place) for fault in faults)
    } == {}
    assert len(faults) == len(said.splitlines()) - 1, "each is one line, whatever it names"
    assert "t0ken-pw" not in said


TEMPLATES = ("{0.__class__}", "{agency_id.__class__}", "{agency_id!r}", "{agency_id:>999}", "{}", "{h0[0]}", "{", "}")


def test_templates_reach_into_nothing(shared: Service) -> None:
    """Only plain names of arguments stand in the braces of `add`: all else is refused before a row is read."""
    found = {}
    for template in TEMPLATES:
        steps = [{"add": {"h0": "{h0}"}}, {"add": {"x": template}}]
        config = shared.job_config(one_dataset("SELECT 1 AS one", args=(), steps=steps))
        done = shared.run(SMALL, "--config", config, "--param", "h0=x")
        found[template] = (done.returncode, "Step 'add'" in message(done), "plain braces" in message(done))

    assert found == dict.fromkeys(TEMPLATES, (65, True, True))


def test_url_templates_reach_into_nothing(shared: Service, api: UpstreamApi) -> None:
    """The same of URLs and their queries; nothing is asked."""
    asked, found = len(api.asked), {}
    for template in TEMPLATES:
        for where in ({"url": api.url(f"/x/{template}")}, {"url": api.url("/x"), "query": {"q": template}}):
            config = shared.job_config(of_api({"columns": {"a": "text"}, **where}, "x", {"add": {"h0": "{h0}"}}))
            done = shared.run(SMALL, "--config", config, "--param", "h0=x")
            found[template, "query" in where] = done.returncode, "Traceback" in done.stderr

    assert set(found.values()) == {(65, False)}, found
    assert len(api.asked) == asked


def test_tags_are_values(shared: Service) -> None:
    """Every object has just these, with the run's values in them."""
    tags = {"who = what": "a=b +c@d/e:{run_id}", "agency": "{agency_id}-{agency_id}", "ü": "ß_.-"}
    job = one_dataset("SELECT 1 AS one", args=())
    job["destinations"] = [{"s3": {"bucket": shared.bucket, "prefix": PREFIX, "tags": tags}}]

    manifest = exported(shared, job, "tags-1")

    key = manifest["entries"][0]["url"].removeprefix(f"s3://{shared.bucket}/")
    found = shared.s3.get_object_tagging(Bucket=shared.bucket, Key=key)["TagSet"]
    assert {tag["Key"]: tag["Value"] for tag in found} == {
        "who = what": "a=b +c@d/e:tags-1",
        "agency": f"{SMALL}-{SMALL}",
        "ü": "ß_.-",
    }


# -- tables that are loaded -------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["ndjson", "csv"])
def test_a_postgres_destination(new_service: NewService, tmp_path: Path, form: str) -> None:
    """Values, and names of schema, table and columns, are what they are; other tables and agencies' rows stay."""
    schema, table, key, value, agency = (f"{letter} {NAME}" for letter in "stkva")
    where = f"{sql_name(schema)}.{sql_name(table)}"
    with new_service(tmp_path) as service:
        service.sql(
            f"""
            CREATE TABLE victims (id int); INSERT INTO victims VALUES (1);
            CREATE SCHEMA {sql_name(schema)};
            CREATE TABLE {where} ({sql_name(key)} int PRIMARY KEY, {sql_name(value)} text, {sql_name(agency)} bigint);
            INSERT INTO {where} VALUES (0, 'old', {SMALL}), (1000, 'theirs', 2);
            CREATE TABLE texts (id int, value text);
            """
        )
        for number, text in enumerate(HOSTILE):
            service.sql("INSERT INTO texts VALUES ($1, $2)", number, text)
        query = f"SELECT id AS {sql_name(key)}, value AS {sql_name(value)} FROM texts WHERE $1 = 1 ORDER BY id"
        job = one_dataset(query, format=form)
        tables_at = {"dsn": "warehouse_dsn", "schema": schema, "tables": {"records": table}}
        job["destinations"] = [
            {"s3": {"bucket": service.bucket, "prefix": PREFIX}},
            {"postgres": {**tables_at, "mode": "merge", "key": [key], "agency_column": agency}},
        ]
        service.environment["PIPELINE_SECRETS__WAREHOUSE_DSN"] = service.environment["PIPELINE_SOURCE__DSN"]

        exported(service, job, f"loaded-{form}")

        columns = f"{sql_name(key)} AS k, {sql_name(value)} AS v, {sql_name(agency)} AS a"
        rows = service.sql(f"SELECT {columns} FROM {where} WHERE $1 ORDER BY 1", True)
        loaded = [{"k": number, "v": text, "a": SMALL} for number, text in enumerate(HOSTILE)]
        assert rows == [*loaded, {"k": 1000, "v": "theirs", "a": 2}]
        assert service.sql("SELECT id FROM victims") == [{"id": 1}]
        assert service.sql(r"SELECT FROM pg_tables WHERE tablename LIKE '\_pp\_%'") == []
