"""
The job configs of docs/examples, each run by the command line on real servers, its results compared row by row.

Only hosts, the bucket and the folder are put into them; the sample tables are made for them here.
"""

from __future__ import annotations

import csv
import hashlib
import hmac
import io
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.acceptance.running_api import running_api
from tests.acceptance.service import (
    Service,
    body_of,
    completion,
    dataset_rows,
    files_in,
    published,
    published_in,
    staged_in,
    unpacked,
)
from tests.upstream_api import Asked, Reply, first

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
AGENCY, OTHER = 123, 124


def example(service: Service, name: str, places: Mapping[str, str] | None = None) -> Path:
    """An example with this test's own bucket, or other places: each is there once, and nothing else is changed."""
    text = (EXAMPLES / f"{name}.yaml").read_text("utf-8")
    bucket = {"bucket: exports": f"bucket: {service.bucket}"} if "s3:" in text else {}
    for place, ours in {**bucket, **(places or {})}.items():
        assert text.count(place) == 1, place
        text = text.replace(place, ours)
    path = service.folder / f"{name}.yaml"
    path.write_text(text, "utf-8")
    return path


def tags_of(service: Service, key: str) -> dict[str, str]:
    """What an object is tagged with."""
    answer = service.s3.get_object_tagging(Bucket=service.bucket, Key=key)
    return {tag["Key"]: tag["Value"] for tag in answer["TagSet"]}


def as_json(service: Service, query: str, *arguments: object) -> list[dict[str, Any]]:
    """A query's rows, as Postgres has them in JSON."""
    return [row["row"] for row in service.sql(f"SELECT row_to_json(r) AS row FROM ({query}) r", *arguments)]


# -- nightly-archive -----------------------------------------------------------------------------

CASES = """
CREATE TABLE cases (id bigint PRIMARY KEY, agency_id bigint, title text, opened_at timestamptz, details jsonb);
CREATE TABLE case_events (id bigint PRIMARY KEY, case_id bigint, kind text, cost numeric);
INSERT INTO cases
SELECT agency_id * 1000000 + n, agency_id, 'case ' || n, timestamptz '2026-01-01 00:00Z' + n * interval '1 minute',
       CASE WHEN n = 1 THEN '{"tags": ["ä", null]}'::jsonb END
FROM (VALUES (123, 4), (124, 100002)) AS sizes (agency_id, cases), generate_series(1, cases) AS n;
INSERT INTO case_events
SELECT id * 10 + n, id, 'opened', n * 0.10 FROM cases, generate_series(1, 3) AS n WHERE agency_id = 123;
"""


def test_nightly_archive(service: Service) -> None:
    """Both datasets as row_to_json has them, zstd, tagged; 100,000 rows are a file, and the rest another one."""
    service.sql(CASES)
    config = example(service, "nightly-archive")

    small = service.run(AGENCY, "--run-id", "night-1", "--config", config)
    large = service.run(OTHER, "--run-id", "night-2", "--config", config)

    assert (small.returncode, large.returncode) == (0, 0), small.stderr + large.stderr
    manifest = published_in(service, "night-1", AGENCY, prefix="archive")
    assert [(e["dataset"], e["compression"], e["rows"]) for e in manifest["entries"]] == [
        ("cases", "zstd", 4),
        ("events", "zstd", 12),
    ]
    cases = as_json(service, "SELECT * FROM cases WHERE agency_id = $1 ORDER BY id", AGENCY)
    assert dataset_rows(service, manifest, "cases") == cases
    assert dataset_rows(service, manifest, "events") == as_json(service, "SELECT * FROM case_events ORDER BY id")
    for key in service.listed(f"archive/agency_id={AGENCY}/"):
        assert tags_of(service, key) == {"agency": str(AGENCY), "kind": "archive"}
        head = service.s3.head_object(Bucket=service.bucket, Key=key)
        assert head["StorageClass"] == "STANDARD_IA"

    manifest = published_in(service, "night-2", OTHER, prefix="archive")
    assert [(e["dataset"], e["rows"]) for e in manifest["entries"]] == [
        ("cases", 100_000),
        ("cases", 2),
        ("events", 0),
    ]
    ids = [row["id"] for row in dataset_rows(service, manifest, "cases")]
    assert ids == list(range(124_000_001, 124_100_003))


def test_nightly_archive_checks_before_it_publishes(service: Service) -> None:
    """A case that is twice there, one without a time, or half of them gone: 1 each time, and nothing is published."""
    service.sql(CASES.replace("100002", "3"))
    config = example(service, "nightly-archive")
    assert service.run(AGENCY, "--run-id", "night-1", "--config", config).returncode == 0
    before = service.listed()

    for agency, said, change in (
        (AGENCY, "`expect.max_change`", "DELETE FROM cases WHERE agency_id = 123 AND id > 123000001"),
        (AGENCY, "`expect.min_rows`", "DELETE FROM cases WHERE agency_id = 123"),
        (OTHER, "row 2: 'opened_at' is null", "UPDATE cases SET opened_at = NULL WHERE id = 124000002"),
        (
            OTHER,
            "row 2: 'id' should be unique",
            "ALTER TABLE cases DROP CONSTRAINT cases_pkey; UPDATE cases SET id = 1, opened_at = now();",
        ),
    ):
        service.sql(change)
        done = service.run(agency, "--config", config)
        assert done.returncode == 1, (said, done.stderr)
        error = completion(done)["error"]
        assert error["kind"] == "expectation_failed"
        assert said in error["message"]

    assert service.listed() == before
    assert service.pending_uploads() == []


# -- partner-csv ---------------------------------------------------------------------------------

CLIENTS = """
CREATE TABLE clients (
    id bigint PRIMARY KEY, agency_id bigint, name text, email text, phone text, birth_date date, balance numeric,
    status text
);
INSERT INTO clients VALUES
    (1, 123, 'Ada', 'ada@example.com', '+44 20 7946 0001', '1990-02-28', 1000.50, 'active'),
    (2, 123, 'Bob', '', '12', '2008-01-01', 0.49, 'dormant'),
    (3, 123, 'Cyd', NULL, NULL, NULL, NULL, 'active'),
    (4, 123, 'Dee', 'ä;b@example.com', '004', '2000-12-31', -2.5, 'active'),
    (5, 123, 'Eve', 'eve@example.com', '1', '1999-01-01', 5, 'closed'),
    (6, 123, 'Fay', 'fay@example.com', '1', '1999-01-01', 5, NULL),
    (7, 124, 'Gus', 'gus@example.com', '1', '1999-01-01', 5, 'active');
"""


def test_partner_csv(service: Service) -> None:
    """The partner gets pseudonyms, half a phone number, years and whole amounts of those it may see; no name."""
    service.sql(CLIENTS)

    done = service.run(
        AGENCY,
        *("--run-id", "delivery-1", "--config", example(service, "partner-csv")),
        env={"PIPELINE_SECRETS__PARTNER_KEY": "change-me"},
    )

    assert done.returncode == 0, done.stderr
    manifest = published_in(service, "delivery-1", AGENCY, prefix="partner")
    assert [manifest[count] for count in ("rows_read", "rows_written", "rows_filtered", "rows_rejected")] == [
        6,
        4,
        2,
        0,
    ]
    (entry,) = manifest["entries"]
    text = unpacked(entry, body_of(service, entry)).decode()

    def pseudonym(email: str) -> str:
        return hmac.digest(b"change-me", email.encode(), hashlib.sha256).hex()

    assert text.splitlines() == [
        "client_id;email;phone;balance;status;birth_year;segment;delivery",
        f"1;{pseudonym('ada@example.com')};*************001;1001;active;1990;large;delivery-1",
        f"2;{pseudonym('')};**;0;dormant;2008;small;delivery-1",
        "3;NULL;NULL;NULL;active;NULL;none;delivery-1",
        f"4;{pseudonym('ä;b@example.com')};***;-3;active;2000;none;delivery-1",
    ]
    key = f"partner/agency_id={AGENCY}/run_id=delivery-1/clients/part-00000.csv.gz"
    head = service.s3.head_object(Bucket=service.bucket, Key=key)
    assert head["ServerSideEncryption"] == "AES256"


# -- enriched-orders -----------------------------------------------------------------------------

ORDERS = """
CREATE TABLE order_statuses (code text PRIMARY KEY, label text NOT NULL);
INSERT INTO order_statuses VALUES ('new', 'Neu'), ('paid', 'Bezahlt');
CREATE TABLE orders (
    id bigint PRIMARY KEY, agency_id bigint, customer_id bigint, status text, items jsonb, total numeric(20, 2)
);
INSERT INTO orders
SELECT agency_id * 1000 + n, agency_id, nullif(n % 10, 0), CASE WHEN n % 2 = 0 THEN 'new' ELSE 'paid' END,
       jsonb_build_array(jsonb_build_object('sku', n)), n + 0.10
FROM unnest(ARRAY[123, 124]) AS agency_id, generate_series(1, 80) AS n;
UPDATE orders SET status = 'lost' WHERE id IN (123003, 124003, 124004, 124005);
UPDATE orders SET total = -0.01 WHERE id IN (123040, 124040, 124041);
UPDATE orders SET items = '[]' WHERE id = 123041;
UPDATE orders SET total = NULL, items = NULL WHERE id = 123079;
"""
CUSTOMERS = {number: f"Customer {number}" for number in range(1, 9)}
"""One that orders have isn't there."""


def names(asked: Asked) -> list[dict[str, Any]]:
    """`/names?ids=1,2`."""
    numbers = map(int, asked.query["ids"].split(","))
    return [{"id": number, "name": CUSTOMERS[number]} for number in numbers if number in CUSTOMERS]


def test_enriched_orders(service: Service) -> None:
    """Labels and names stand beside the orders; what can't be used is kept apart, and too much of it fails the run."""
    service.sql(ORDERS)
    with running_api() as api:
        api.on("/names", names)
        api.faults.append(first(2, Reply(status=503, headers={"Retry-After": "0"})))
        config = example(service, "enriched-orders", {"https://customers.example.com": api.url("")})
        env = {"PIPELINE_SECRETS__CUSTOMERS_TOKEN": "t0ken"}
        done = service.run(AGENCY, "--run-id", "orders-1", "--config", config, env=env)
        too_many = service.run(OTHER, "--run-id", "orders-2", "--config", config, env=env)

    assert done.returncode == 0, done.stderr
    manifest = published_in(service, "orders-1", AGENCY, prefix="orders", rejected=["orders"])
    assert [manifest[count] for count in ("rows_read", "rows_written", "rows_rejected")] == [80, 76, 4]
    orders = as_json(
        service,
        """
        SELECT o.id, customer_id, status, items, total, label AS status_label, c.name AS customer
        FROM orders o JOIN order_statuses s ON s.code = o.status
        LEFT JOIN json_to_recordset($2) AS c (id bigint, name text) ON c.id = customer_id
        WHERE agency_id = $1 AND total >= 0 AND jsonb_array_length(items) > 0 ORDER BY o.id
        """,
        AGENCY,
        [{"id": number, "name": name} for number, name in CUSTOMERS.items()],
    )
    assert dataset_rows(service, manifest, "orders") == orders
    assert {None, "Customer 8"} <= {order["customer"] for order in orders}
    (kept,) = manifest["rejected"]
    lines = [json.loads(line) for line in body_of(service, kept).splitlines()]
    lines.sort(key=lambda line: line["row_number"])
    assert [(line["row_number"], line["step"]) for line in lines] == [
        (3, "enrich_table: status"),
        (40, "validate"),
        (41, "validate"),
        (79, "validate"),
    ]
    said = [line["reason"] for line in lines]
    assert said[0].startswith("its 'status' ")
    assert said[1:3] == ["total: too small (minimum)", "items: too few items (minItems)"]
    assert sorted(said[3].split("; ")) == ["items: not of type array (type)", "total: not of type number (type)"]
    assert [line["row"] for line in lines] == as_json(
        service,
        "SELECT id, customer_id, status, items, total FROM orders "
        "WHERE id IN (123003, 123040, 123041, 123079) ORDER BY id",
    )

    assert {asked.headers["Authorization"] for asked in api.asked} == {"Bearer t0ken"}
    asked_for = [asked.query["ids"] for asked in api.asked]
    assert len(set(asked_for[:3])) == 1, "twice it was too busy"
    assert {number for numbers in asked_for for number in numbers.split(",")} == set("123456789")
    assert "t0ken" not in done.stdout + done.stderr + too_many.stderr

    assert too_many.returncode == 1, too_many.stderr
    assert completion(too_many)["error"]["kind"] == "too_many_rejected"
    assert service.listed(f"orders/agency_id={OTHER}/") == []


# -- warehouse-increments ------------------------------------------------------------------------

VERSIONS = """
CREATE TABLE payment_versions (id bigint, agency_id bigint, payee text, amount numeric(12, 2), updated_at timestamptz);
INSERT INTO payment_versions
SELECT agency_id * 1000 + id, agency_id, payee, amount, now() - age
FROM unnest(ARRAY[123, 124]) AS agency_id, (VALUES
    (1, 'first', 1.10, interval '2 days'), (1, 'first, paid twice', 1.20, interval '1 day'),
    (2, NULL, 2.00, interval '1 day'), (3, '', 3.00, interval '1 minute'),
    (9, 'with a date in the future', 9.00, interval '-1 hour')
) AS versions (id, payee, amount, age);
CREATE SCHEMA lake;
CREATE TABLE lake.agency_payments (
    id bigint PRIMARY KEY, agency_id bigint, payee text, amount numeric(12, 2), updated_at timestamptz
);
INSERT INTO lake.agency_payments VALUES (124009, 124, 'of another agency', 1, '2020-01-01');
"""
LATER = """
INSERT INTO payment_versions VALUES
    (123001, 123, 'first, corrected', 1.30, now()), (123004, 123, 'new', 4.00, now()),
    (124004, 124, 'new', 4.00, now());
"""


def test_warehouse_increments(service: Service) -> None:
    """
    The second run exports what has changed since the first one, and five minutes more; the table has the newest
    version of each payment all the same, and nobody else's is touched.
    """
    service.sql(VERSIONS)
    config = example(service, "warehouse-increments")
    env = {"PIPELINE_SECRETS__WAREHOUSE_DSN": service.environment["PIPELINE_SOURCE__DSN"]}

    def table() -> list[tuple[Any, ...]]:
        rows = service.sql("SELECT id, payee, amount::text FROM lake.agency_payments ORDER BY id")
        return [tuple(row.values()) for row in rows]

    def exported(run_id: str, *options: str) -> list[tuple[str, ...]]:
        done = service.run(AGENCY, "--run-id", run_id, "--config", config, *options, env=env)
        assert done.returncode == 0, done.stderr
        manifest = published_in(service, run_id, AGENCY, prefix="increments")
        (entry,) = manifest["entries"]
        lines = list(csv.reader(io.StringIO(body_of(service, entry).decode())))
        assert lines[0] == ["id", "agency_id", "payee", "amount", "updated_at"]
        assert manifest["rows_read"] == manifest["rows_written"] + manifest["rows_filtered"]
        return [(line[0], line[2], line[3]) for line in lines[1:]]

    until = "--until", service.sql("SELECT to_json(now() + interval '1 minute') #>> '{}' AS t")[0]["t"]
    assert exported("first", *until) == [
        ("123001", "first, paid twice", "1.20"),
        ("123002", "", "2.00"),
        ("123003", "", "3.00"),
    ]
    assert table() == [
        (123001, "first, paid twice", "1.20"),
        (123002, None, "2.00"),
        (123003, "", "3.00"),
        (124009, "of another agency", "1.00"),
    ]

    service.sql(LATER)
    assert exported("second", *until) == [
        ("123001", "first, corrected", "1.30"),
        ("123003", "", "3.00"),
        ("123004", "new", "4.00"),
    ]
    after = [
        (123001, "first, corrected", "1.30"),
        (123002, None, "2.00"),
        (123003, "", "3.00"),
        (123004, "new", "4.00"),
        (124009, "of another agency", "1.00"),
    ]
    assert table() == after

    assert [row[0] for row in exported("third")] == ["123001", "123003", "123004", "123009"]
    assert table() == [*after[:4], (123009, "with a date in the future", "9.00"), after[4]]
    loads = service.sql("SELECT run_id, rows, state FROM lake.pipeline_loads ORDER BY at")
    assert [tuple(load.values()) for load in loads] == [
        ("first", 3, "loaded"),
        ("second", 3, "loaded"),
        ("third", 4, "loaded"),
    ]


# -- upstream-api --------------------------------------------------------------------------------


def ticket(number: int, **fields: Any) -> dict[str, Any]:
    """A record as the API has it."""
    reporter = {"name": f"Reporter {number}", "address": {"city": f"City {number}"}}
    meta = {"opened_at": f"2026-01-18T10:00:{number % 60:02}+01:00"}
    return {"id": number, "title": f"Ticket {number}", "meta": meta, "reporter": reporter, **fields}


def test_upstream_api(service: Service) -> None:
    """
    Pages of tickets become a file below a folder: each ticket once, without names; no source database is needed.
    """
    tickets = [ticket(number) for number in range(1, 451)]
    tickets[1]["title"] = None
    tickets[2]["reporter"] = None
    tickets[3]["reporter"] = {"name": "Ann"}
    tickets[4]["reporter"] = {"name": 5}
    tickets.insert(210, ticket(200, title="has moved to the second page"))
    folder = service.folder / "exports"
    folder.mkdir()

    def pages(asked: Asked) -> dict[str, Any]:
        start, size = int(asked.query.get("cursor", "0")), int(asked.query["per_page"])
        end = start + size
        return {"data": {"items": tickets[start:end], "next": str(end) if end < len(tickets) else None}}

    with running_api() as api:
        api.on(f"/agencies/{AGENCY}/tickets", pages)
        api.faults.append(first(1, Reply(status=429, headers={"Retry-After": "0"})))
        places = {"https://tickets.example.com": api.url(""), "/srv/exports": str(folder)}
        config = example(service, "upstream-api", places)
        done = service.run(
            AGENCY,
            *("--run-id", "tickets-1", "--since", "2026-01-01T00:00Z", "--config", config),
            env={
                "PIPELINE_SOURCE__DSN": None,
                "PIPELINE_HISTORY__DSN": service.environment["PIPELINE_SOURCE__DSN"],
                "PIPELINE_SECRETS__TICKETS_KEY": "k3y",
            },
        )

    assert done.returncode == 0, done.stderr
    manifest = published(files_in(folder), "tickets-1", AGENCY, folder.as_uri())
    counts = [manifest[count] for count in ("rows_read", "rows_written", "rows_filtered", "rows_rejected")]
    assert counts == [451, 448, 2, 1]
    artifact = folder / f"agency_id={AGENCY}/run_id=tickets-1/tickets/part-00000.ndjson"
    rows = [json.loads(line) for line in artifact.read_text("utf-8").splitlines()]
    for row in rows:
        row["opened"] = datetime.fromisoformat(row["opened"])
    expected = [
        {
            "id": number,
            "title": f"Ticket {number}",
            "opened": datetime(2026, 1, 18, 9, 0, number % 60, tzinfo=UTC),
            "reporter_name": None if number == 3 else "***",
            "reporter_address_city": None if number in (3, 4) else f"City {number}",
        }
        for number in range(1, 451)
        if number not in (2, 5)
    ]
    assert rows == expected
    assert staged_in(folder) == []

    assert [asked.query.get("cursor") for asked in api.asked] == [None, None, "200", "400"]
    assert {asked.query["updated_after"] for asked in api.asked} == {"2026-01-01T00:00:00Z"}
    assert {asked.headers["X-Api-Key"] for asked in api.asked} == {"k3y"}
