"""A table with a column of every type that expressions know, full of values that are hard to get right."""

# ruff: noqa: E501 - tables of samples

TABLE = r"""
CREATE TYPE mood AS ENUM ('zen', 'angry');
CREATE TABLE things (id int, i bigint, k bigint, n numeric, m numeric, f float8, g float8, t text, s text, c char(4),
    b bool, "B" bool, d date, ts timestamp, tz timestamptz, u uuid, j json, o jsonb, mood mood, list int[]);
INSERT INTO things
SELECT g,
    ('{0,1,-1,5,-7,NULL,2147483648,3,NULL,9223372036854775807,-9223372036854775808,12}'::bigint[])[1 + g % 12],
    ('{2,0,-3,NULL,1,10,100000,-1}'::bigint[])[1 + g % 8],
    ('{0,0.00,1.5,1.50,NULL,NaN,Infinity,-Infinity,0.1,5,-1234567890123456789012345678901234567890.5,1e-30,-2.5,99999.99995}'
        ::numeric[])[1 + g % 14],
    ('{3,-0.5,NULL,1.005,10000,NaN,0,7.25,1e20,-Infinity,2.5}'::numeric[])[1 + g % 11],
    ('{0,-0,1.5,NULL,NaN,Infinity,-Infinity,0.1,2.5,-2.5,1e300,5e-324,0.30000000000000004,1e23,1e15,123456789012345680,1e-5}'
        ::float8[])[1 + g % 17],
    ('{2,0,-3.5,NULL,1e308,0.2,1e-300}'::float8[])[1 + g % 7],
    (ARRAY['', 'a', 'Straße', NULL, ' 12 ', '1.50', '-7', '2026-01-18', '2026-01-18 10:00:00.5+02', 'yes', 'É', 'ΑΣ', '🦉🦉',
        'a,b,,c', 'x''y\z%_', '{"a": [1, {"b": null}], "k": "é\n"}', E'line\nend', '1e5', 'NaN', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11',
        'infinity', ' tRu ', '9223372036854775808'])[1 + g % 23],
    (ARRAY['a', ',', NULL, '', '%', ' ', 'É', '_', '1'])[1 + g % 9],
    (ARRAY['ab', 'a', NULL, '', ' a', 'ÉÉ', '12'])[1 + g % 7],
    ('{t,f,NULL}'::bool[])[1 + g % 3],
    ('{t,t,NULL,f}'::bool[])[1 + g % 4],
    (ARRAY['2026-01-18', '2024-02-29', NULL, 'infinity', '-infinity', '0044-03-15 BC', '9999-12-31', '12026-01-18', '300000-01-01',
        '4714-11-24 BC', '0001-01-01', '1999-12-31']::date[])[1 + g % 12],
    (ARRAY['2026-01-18 10:00:00', '2026-01-18 00:00:00.000001', NULL, 'infinity', '-infinity', '0044-03-15 23:59:59.5 BC',
        '294276-12-31 23:59:59.999999', '2024-02-29 12:00:00.120']::timestamp[])[1 + g % 8],
    (ARRAY['2026-01-18 10:00:00+02', '2026-01-18 00:00:00+00', NULL, 'infinity', '-infinity', '0044-03-15 23:59:59.5+00 BC',
        '10000-01-01 00:00:00+00', '2023-12-31 23:30:00-01']::timestamptz[])[1 + g % 8],
    (ARRAY['a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '00000000-0000-0000-0000-000000000000', NULL]::uuid[])[1 + g % 3],
    (ARRAY['{"a": 1, "a": {"b": [1.50, "x"]}, "": 0}', NULL, '[1, "zwei", null, [3], {"a": "ü\u00fc\ud83e\udd89"}]', '"text"', '5', 'null',
        '  {"a" : [ 1 , 2 ]  ,  "k" : null}  ', '{"a": "\u0000"}', '[]', '{}'])[1 + g % 10]::json,
    (ARRAY['{"a": 1.50, "k": {"b": [1e3, "x"]}}', NULL, '[1, "zwei", null, [3], {"a": "ü"}]', '[]', 'null', '{"a": null, "i": "5"}'
        ])[1 + g % 6]::jsonb,
    (ARRAY['zen', 'angry', NULL]::mood[])[1 + g % 3],
    (ARRAY['{1,2}', NULL, '{}'])[1 + g % 3]::int[]
FROM generate_series(0, 92) AS g
"""
