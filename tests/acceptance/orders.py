"""
A job with nine steps over many orders, and the expected result for each order, computed in SQL by Postgres.

`judged` has a row for each order: its `outcome` (written, filtered or rejected), where it must `stop`, and the values
of its columns then.
"""

from __future__ import annotations

import asyncio
from typing import Any

from tests.acceptance.service import Service, one_dataset
from tests.upstream_api import Asked, json_of

AGENCY = 1
SALT = "a salt with ' and ü"

ORDERS = """
CREATE TABLE orders AS
SELECT g::bigint AS id, 1::bigint AS agency_id, format('C%s', g::bigint * 7919 % {customers}) AS customer,
       CASE WHEN g % 97 = 0 THEN 'n/a' WHEN g % 101 = 0 THEN NULL WHEN g % 103 = 0 THEN E' 12.5\t'
            ELSE (g % 100000 * 0.375)::text END AS amount,
       CASE WHEN g % 89 = 0 THEN 0 ELSE g % 7 + 1 END::int AS pieces,
       CASE WHEN g % 29 = 0 THEN NULL WHEN g % 11 = 0 THEN 'deleted' WHEN g % 83 = 0 THEN 'odd'
            ELSE (ARRAY['new', 'paid', 'sent'])[g % 3 + 1] END AS status,
       CASE WHEN g % 31 > 0 THEN format('user%s@exämple.org', g) END AS email, format('+49 30 %s', g) AS phone,
       timestamptz '2026-01-01Z' + g * interval '1.000007 s' AS placed_at,
       CASE WHEN g % 79 = 0 THEN '{{"qty": "many"}}' WHEN g % 73 = 0 THEN '["no object"]' WHEN g % 71 = 0 THEN NULL
            WHEN g % 67 = 0 THEN '{{"qty": null, "ship": null}}'
            ELSE jsonb_build_object('qty', g % 20, 'ship', jsonb_build_object('city', format('"Città" %s', g % 50)))
            END::jsonb AS details,
       format('R-%s', g - (g % 53 = 0)::int) AS reference
FROM generate_series(1, {rows}) AS g;
ALTER TABLE orders ADD PRIMARY KEY (id);
CREATE TABLE statuses (code text PRIMARY KEY, label text);
INSERT INTO statuses VALUES ('new', 'brand new'), ('paid', 'paid in full'), ('sent', 'under way');
ANALYZE;
"""

STEPS: list[dict[str, Any]] = [
    {"cast": {"amount": "numeric(12, 2)"}},
    {
        "derive": {
            "gross": "amount * 1.20",
            "unit": "amount / pieces",
            "contact": "phone || ' ext ' || CAST(pieces AS text)",
        }
    },
    {"filter": "status <> 'deleted'"},
    {"mask": {"columns": ["email", "contact"], "using": "sha256", "salt": "orders_salt"}},
    {"flatten": {"column": "details", "fields": {"qty": "integer", "ship.city": "text"}}},
    {"dedupe": {"by": ["reference"]}},
    {
        "enrich_table": {
            "query": "SELECT code, label FROM statuses WHERE code = ANY($1)",
            "on": "status",
            "key": "code",
            "add": {"label": "label"},
            "missing": "fail",
        }
    },
    {
        "enrich_http": {
            "url": "set to the API's",
            "on": "customer",
            "key": "id",
            "add": {"tier": "tier", "credit": {"field": "credit", "kind": "number"}},
            "batch": 250,
            "cache_rows": 2000,
        },
        "timeout": "2m",
    },
    {"python": "order_steps:settle"},
]


def job(url: str) -> dict[str, Any]:
    """Return the job config, with the URL of the customers' API."""
    steps = [
        step | {"enrich_http": step["enrich_http"] | {"url": url}} if "enrich_http" in step else step for step in STEPS
    ]
    return one_dataset(
        "SELECT id, customer, amount, pieces, status, email, phone, placed_at, details, reference FROM orders "
        "WHERE agency_id = $1 ORDER BY id",
        steps=steps,
        on_row_error="quarantine",
        max_rejected="20%",
        expect={"unique": ["id"], "not_null": ["reference"]},
    )


async def customers(asked: Asked) -> Any:
    """The API: some customers are missing, some have a credit that isn't a number. Some answers are slow."""
    numbers = [int(customer.removeprefix("C")) for customer in asked.query["ids"].split(",")]
    if numbers[0] % 10 == 0:
        await asyncio.sleep(0.05)
    return [_customer(number) for number in numbers if number % 37]


def _customer(number: int) -> dict[str, Any]:
    credit: Any = "none" if number % 41 == 0 else b"%d.%02d" % (number % 1000, number % 100)
    return {"id": f"C{number}", "tier": None if number % 5 == 0 else f"tier {number % 3}", "credit": credit}


def load(service: Service, rows: int) -> None:
    """Create this many orders, and `judged`."""
    service.sql(ORDERS.format(rows=rows, customers=max(rows // 10, 1000) + 1))
    service.sql("CREATE TABLE faults (stop text, step text, reason text)")
    for stop, (step, reason) in FAULTS.items():
        service.sql("INSERT INTO faults VALUES ($1, $2, $3)", stop, step, reason)
    quoted_salt, filtered = SALT.replace("'", "''"), ", ".join(f"'{stop}'" for stop in FILTERED)
    service.sql(JUDGED.format(salt=f"'{quoted_salt}'", filtered=f"ARRAY[{filtered}]"))


assert json_of(_customer(7)) == b'{"id":"C7","tier":"tier 1","credit":7.07}', "exact digits, as the SQL below has them"


FAULTS = {
    # where a row stops: the step's name, and its reason
    "cast": ("cast", "column 'amount': the text isn't a number"),
    "derive": ("derive", "column 'unit': division by zero"),
    "flatten object": ("flatten: details", "details: not an object"),
    "flatten qty": ("flatten: details", "details.qty: not an integer"),
    "table": ("enrich_table: status", "its 'status' is the key of no record, and `missing` is fail"),
    "http": (
        "enrich_http: customer",
        "in the record of its 'customer' the field 'credit' is not a number; say in `add` what it is, such as "
        "{field: credit, kind: json}",
    ),
    "python raised": ("python: order_steps:settle", "ValueError: no tax rate for this order"),
}
FILTERED = ("filter", "dedupe", "python dropped")

JUDGED = """
CREATE TABLE judged AS
WITH numbered AS (
    SELECT *, row_number() OVER (ORDER BY id) AS row_number, substr(customer, 2)::int AS c FROM orders
    WHERE agency_id = 1
), cast_or_not AS (
    SELECT *, CASE WHEN pg_input_is_valid(amount, 'numeric(12,2)') THEN amount::numeric(12, 2) END AS cast_amount,
           NOT pg_input_is_valid(amount, 'numeric(12,2)') AS uncastable
    FROM numbered
), before_dedupe AS (
    SELECT *,
           CASE WHEN uncastable THEN 'cast'
                WHEN cast_amount IS NOT NULL AND pieces = 0 THEN 'derive'
                WHEN (status <> 'deleted') IS NOT TRUE THEN 'filter'
                WHEN jsonb_typeof(details) <> 'object' THEN 'flatten object'
                WHEN jsonb_typeof(details -> 'qty') NOT IN ('number', 'null') THEN 'flatten qty'
           END AS first_stop
    FROM cast_or_not
), deduped AS (
    SELECT *, coalesce(first_stop, CASE WHEN row_number() OVER
        (PARTITION BY reference, first_stop IS NULL ORDER BY id) > 1 THEN 'dedupe' END) AS second_stop
    FROM before_dedupe
), stopped AS (
    SELECT deduped.*, label,
           coalesce(second_stop, CASE WHEN label IS NULL THEN 'table'
                                      WHEN c % 37 > 0 AND c % 41 = 0 THEN 'http'
                                      WHEN id % 2999 = 0 THEN 'python raised'
                                      WHEN id % 59 = 0 THEN 'python dropped' END) AS stop
    FROM deduped LEFT JOIN statuses ON code = status
)
SELECT row_number, id,
       CASE WHEN stop IS NULL THEN 'written' WHEN stop = ANY({filtered}) THEN 'filtered' ELSE 'rejected' END AS outcome,
       stop,
       customer, amount, cast_amount, pieces, status, label, phone, placed_at, details, reference,
       encode(sha256(convert_to({salt} || email, 'UTF8')), 'hex') AS email,
       encode(sha256(convert_to({salt} || phone || ' ext ' || pieces, 'UTF8')), 'hex') AS contact,
       cast_amount * 1.20 AS gross, cast_amount / nullif(pieces, 0) AS unit,
       CASE WHEN jsonb_typeof(details -> 'qty') = 'number' THEN (details ->> 'qty')::bigint END AS qty,
       details -> 'ship' ->> 'city' AS ship_city,
       CASE WHEN c % 37 > 0 AND c % 5 > 0 THEN format('tier %s', c % 3) END AS tier,
       CASE WHEN c % 37 > 0 AND c % 41 > 0 THEN (c % 1000 + (c % 100) / 100.0)::numeric(10, 2) END AS credit
FROM stopped
"""

WRITTEN = """
SELECT row_to_json(r)::text FROM (
    SELECT id, customer, cast_amount AS amount, pieces, status, email, phone, placed_at, reference, gross, unit,
           contact, qty, ship_city, label, tier, credit, gross - coalesce(credit, 0) AS due,
           format('%s → %s', label, coalesce(ship_city, 'None')) AS summary
    FROM judged WHERE outcome = 'written' ORDER BY id) r
"""

REJECTED = """
SELECT row_to_json(q)::text FROM (
    SELECT row_number, step, reason, row_to_json(r) AS row FROM judged JOIN faults USING (stop), LATERAL (
        SELECT id, customer, amount, '***' AS pieces, status, email, '***' AS phone, placed_at, details, reference
    ) r WHERE outcome = 'rejected' ORDER BY row_number) q
"""
