-- The demo's data: a state's agencies and three years of their records, made up, the same on every machine.
-- One row is wrong on purpose: see the last statement but one.

CREATE SCHEMA records;
SET search_path TO records;

SELECT setseed(0.1848);

CREATE TYPE permit_status AS ENUM ('submitted', 'in_review', 'granted', 'refused', 'withdrawn');

CREATE TABLE agencies (
    agency_id integer PRIMARY KEY,
    code text NOT NULL,
    name text NOT NULL
);

CREATE TABLE permits (
    id integer NOT NULL,
    agency_id integer NOT NULL,
    number text NOT NULL,
    holder text NOT NULL,
    status permit_status NOT NULL,
    fee numeric(12, 2),
    decided_at timestamptz,
    expires_on date,
    attributes jsonb NOT NULL
);

CREATE TABLE inspections (
    id integer NOT NULL,
    agency_id integer NOT NULL,
    site text NOT NULL,
    inspector text NOT NULL,
    visited_at timestamptz NOT NULL,
    passed boolean,
    score numeric(4, 1),
    findings text,
    readings jsonb NOT NULL
);

-- Amounts are text, as the previous accounting system left them.
CREATE TABLE payments (
    id integer NOT NULL,
    agency_id integer NOT NULL,
    payee text NOT NULL,
    amount text NOT NULL,
    currency text NOT NULL,
    paid_at timestamptz NOT NULL,
    note text
);

INSERT INTO agencies (agency_id, code, name) VALUES
    (101, 'ENV', 'Environment'),
    (102, 'HOU', 'Housing'),
    (103, 'TRN', 'Transport'),
    (104, 'AGR', 'Agriculture'),
    (105, 'HLT', 'Public Health'),
    (106, 'EDU', 'Education'),
    (107, 'LAB', 'Labour'),
    (108, 'WTR', 'Water'),
    (109, 'FSH', 'Fisheries'),
    (110, 'PRK', 'Parks'),
    (111, 'HER', 'Heritage'),
    (112, 'ENE', 'Energy');

-- The people in the records. Squares of random() favour the front of a list, so agencies differ in size.
CREATE TEMPORARY TABLE words AS
SELECT
    ARRAY[101, 103, 102, 104, 105, 111, 107, 106, 109, 108, 112, 110] AS agency,
    ARRAY['Åsa Lindqvist', 'Nguyễn Thị Hoa', 'José Ñáñez', 'Łukasz Wójcik', 'Müller & Söhne', '山田工務店',
        'O''Brien Fisheries', 'Ngāti Whakaue Trust', 'Σταύρος Παπαδόπουλος', 'Green Valley Co-op', 'Acme, Inc.',
        'أحمد الفارسي', 'Zoë "Zee" van Dijk', 'Sunflower Homes 🌻', 'Tūranga Builders', 'Çelik Makina'] AS holder,
    ARRAY['M. Okafor', 'L. Sørensen', 'P. Castañeda', 'J. Whitehorse', 'K. Müller', 'S. Rao', 'T. Kowalczyk'] AS inspector,
    ARRAY['Mill Creek', 'Old Harbour', 'Route 9', 'St. Anne''s School', 'Pier 4', 'North Ridge', 'Canal Street'] AS site,
    ARRAY['Handrail loose', 'No fire door on level 2, "temporarily"', E'Two points:\n1. drainage\n2. signage', 'Permit not displayed', ''] AS finding,
    ARRAY['granted', 'granted', 'in_review', 'submitted', 'refused', 'withdrawn']::permit_status[] AS status,
    ARRAY['urban', 'coastal', 'listed', 'seasonal', 'wetland'] AS tag;

INSERT INTO permits (id, agency_id, number, holder, status, fee, decided_at, expires_on, attributes)
SELECT
    id,
    agency_id,
    code || '-' || extract(year FROM filed_at) || '-' || lpad(id::text, 6, '0'),
    holder,
    status,
    CASE WHEN dice > 0.04 THEN round((40 + 2600 * dice * dice)::numeric, 2) END,
    CASE WHEN status IN ('granted', 'refused') THEN filed_at + dice * interval '60 days' END,
    CASE WHEN status = 'granted' THEN (filed_at + interval '2 years')::date END,
    jsonb_build_object('area_m2', round((dice * 9000)::numeric, 1), 'tags', to_jsonb(tags), 'online', dice > 0.3)
FROM (
    SELECT
        id,
        words.agency[1 + floor(12 * random() * random())::integer] AS agency_id,
        words.holder[1 + floor(16 * random())::integer] AS holder,
        words.status[1 + floor(6 * random())::integer] AS status,
        words.tag[1 + floor(5 * random())::integer:3 + floor(2 * random())::integer] AS tags,
        timestamptz '2023-01-01 06:00+00' + id * interval '26 minutes' + random() * interval '9 hours' AS filed_at,
        random() AS dice
    FROM generate_series(1, 60000) AS id, words
) AS made
JOIN agencies USING (agency_id);

INSERT INTO inspections (id, agency_id, site, inspector, visited_at, passed, score, findings, readings)
SELECT
    id,
    agency_id,
    site,
    inspector,
    visited_at,
    CASE WHEN dice > 0.05 THEN dice > 0.2 END,
    CASE WHEN dice > 0.05 THEN round((100 * sqrt(dice))::numeric, 1) END,
    CASE WHEN dice < 0.3 THEN finding END,
    jsonb_build_array(round((60 * dice)::numeric, 3), round((7 + dice)::numeric, 2), NULL)
FROM (
    SELECT
        id,
        words.agency[1 + floor(12 * random() * random())::integer] AS agency_id,
        words.site[1 + floor(7 * random())::integer] AS site,
        words.inspector[1 + floor(7 * random())::integer] AS inspector,
        words.finding[1 + floor(5 * random())::integer] AS finding,
        timestamptz '2023-01-01 07:30+00' + id * interval '26 minutes' + random() * interval '8 hours' AS visited_at,
        random() AS dice
    FROM generate_series(1, 60000) AS id, words
) AS made;

INSERT INTO payments (id, agency_id, payee, amount, currency, paid_at, note)
SELECT
    id,
    agency_id,
    payee,
    round((5 + 48000 * dice * dice * dice)::numeric, 2)::text,
    CASE WHEN dice > 0.93 THEN 'CAD' ELSE 'USD' END,
    paid_at,
    CASE WHEN dice < 0.2 THEN 'instalment ' || 1 + id % 4 WHEN dice < 0.3 THEN '' END
FROM (
    SELECT
        id,
        words.agency[1 + floor(12 * random() * random())::integer] AS agency_id,
        words.holder[1 + floor(16 * random())::integer] AS payee,
        timestamptz '2023-01-01 08:00+00' + id * interval '19 minutes 41.7 seconds' AS paid_at,
        random() AS dice
    FROM generate_series(1, 80000) AS id, words
) AS made;

ALTER TABLE permits ADD PRIMARY KEY (agency_id, id);
ALTER TABLE inspections ADD PRIMARY KEY (agency_id, id);
ALTER TABLE payments ADD PRIMARY KEY (agency_id, id);

-- The clerk of agency 111 had no amount at hand.
UPDATE payments SET amount = 'n/a'
WHERE agency_id = 111 AND id = (SELECT max(id) FROM payments WHERE agency_id = 111 AND id < 60000);

ANALYZE agencies, permits, inspections, payments;
