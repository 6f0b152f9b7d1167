-- Load rows into tables. A run's rows are staged in a table of the target's schema until the run's plan is completed.
-- `pipeline_loads` records which runs' rows were loaded, or never will be. Braces are placeholders for quoted names.

-- name: target_table
-- A table, and this user's privileges on it and its schema.
SELECT
    c.oid,
    c.relkind::text AS kind,
    has_schema_privilege(n.oid, 'USAGE') AND has_schema_privilege(n.oid, 'CREATE') AS may_create,
    has_any_column_privilege(c.oid, 'SELECT') AS may_select,
    has_any_column_privilege(c.oid, 'INSERT') AS may_insert,
    has_any_column_privilege(c.oid, 'UPDATE') AS may_update,
    has_table_privilege(c.oid, 'DELETE') AS may_delete,
    -- 7: row level (1), before (2) insert (4).
    EXISTS (
        SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid AND t.tgtype & 7 = 7 AND t.tgenabled IN ('O', 'A')
    ) AS changes_rows
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = :schema AND c.relname = :name;

-- name: target_columns
-- The table's columns. `definition`: for CREATE TABLE, without defaults that take a number from a sequence. `computed`:
-- no INSERT may name it. `numbered`: filled from a sequence. `needed`: every INSERT must name it.
SELECT
    a.attname::text AS name,
    f.type,
    concat_ws(' ',
        f.type,
        'COLLATE ' || quote_ident(l.nspname) || '.' || quote_ident(l.collname),
        CASE WHEN a.attgenerated <> '' THEN 'GENERATED ALWAYS AS (' || e.expression || ') STORED'
            WHEN NOT n.numbered THEN 'DEFAULT ' || e.expression END,
        CASE WHEN a.attnotnull THEN 'NOT NULL' END
    ) AS definition,
    a.attgenerated <> '' OR a.attidentity = 'a' AS computed,
    n.numbered,
    (a.attnotnull OR t.typnotnull) AND a.attidentity = '' AND d.oid IS NULL AND t.typdefault IS NULL AS needed
FROM pg_attribute a
JOIN pg_type t ON t.oid = a.atttypid
CROSS JOIN LATERAL (SELECT format_type(a.atttypid, a.atttypmod) AS type) AS f
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
CROSS JOIN LATERAL (
    SELECT coalesce(pg_get_expr(d.adbin, d.adrelid), pg_get_expr(t.typdefaultbin, 0)) AS expression
) AS e
CROSS JOIN LATERAL (
    SELECT a.attidentity <> '' OR coalesce(e.expression LIKE '%nextval(%', false) AS numbered
) AS n
LEFT JOIN (
    SELECT c.oid, n.nspname, c.collname FROM pg_collation c JOIN pg_namespace n ON n.oid = c.collnamespace
) AS l ON l.oid = a.attcollation AND a.attcollation <> t.typcollation
WHERE a.attrelid = :oid AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum;

-- name: table_checks
-- The table's CHECKs, except those on whole rows and system columns, which a staging table can't have.
SELECT c.conname::text AS name, pg_get_expr(c.conbin, c.conrelid) AS expression
FROM pg_constraint c
WHERE c.conrelid = :oid AND c.contype = 'c'
  AND NOT coalesce(0 >= ANY (c.conkey), false)
  AND pg_get_constraintdef(c.oid) NOT LIKE '%NOT ENFORCED'
ORDER BY c.conname;

-- name: unique_keys
-- The columns of each unique index over all rows. `immediate`: ON CONFLICT can use it.
SELECT array_agg(a.attname::text ORDER BY k.number) AS columns, i.indimmediate AS immediate
FROM pg_index i
CROSS JOIN unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, number)
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
WHERE i.indrelid = :oid
  AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
  AND k.number <= i.indnkeyatts
GROUP BY i.indexrelid, i.indimmediate
ORDER BY i.indexrelid;

-- name: tells_agencies_apart
-- Whether two agencies differ for the type, as they don't for citext. Raises an error if it can't hold or compare ids.
SELECT CAST({one} AS {type}) <> CAST({other} AS {type});

-- name: create_staging
-- Create a staging table. It is logged: a server crash would empty an unlogged one, and a stored plan relies on it.
CREATE TABLE {staging} ({defined}) WITH (autovacuum_enabled = false);

-- name: bind_agency
-- Make the staging table accept only one agency's rows, and fill in the agency's id.
ALTER TABLE {staging}
    ALTER COLUMN {agency_column} SET DEFAULT {agency},
    ALTER COLUMN {agency_column} SET NOT NULL,
    ADD CONSTRAINT {constraint} CHECK ({agency_column} = {agency});

-- name: drop_columns
-- Drop columns that the rows don't have, and everything that depends on them.
ALTER TABLE {staging} {drops};

-- name: comment_on_staging
-- Build the statement that comments on a staging table. A comment can't be bound, so the server quotes it.
SELECT format('COMMENT ON TABLE %I.%I IS %L', :schema::text, :name::text, :comment::text);

-- name: staging_tables
-- The staging tables of a schema whose names begin with `begins`, with their comments.
SELECT c.relname::text AS name, obj_description(c.oid, 'pg_class') AS comment
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = :schema AND c.relkind = 'r' AND starts_with(c.relname::text, :begins)
ORDER BY c.relname;

-- name: rename_staging
-- Make room for a staging table with more columns.
ALTER TABLE {staging} RENAME TO {name};

-- name: copy_staging
-- Copy the rows of the table that had fewer columns.
INSERT INTO {staging} ({columns}) SELECT {values} FROM {narrow};

-- name: insert_lines
-- Insert an array of JSON objects as rows. Each value is read by its column's type.
INSERT INTO {staging} ({columns}) SELECT {columns} FROM json_to_recordset(:lines::json) AS r ({typed});

-- name: read_lines
-- Parse one column of such an array, without storing it, to find out whether its values can be read.
SELECT count(*) FROM json_to_recordset(:lines::json) AS r ({typed});

-- name: duplicates
-- Whether two staged rows have the same key. As in an index, nulls are never equal.
SELECT EXISTS (SELECT FROM {staging} WHERE {all_there} GROUP BY {columns} HAVING count(*) > 1);

-- name: incomplete_keys
-- Whether a staged row has a null in its key, which could never match anything.
SELECT EXISTS (SELECT FROM {staging} WHERE NOT ({all_there}));

-- name: foreign_keys
-- Whether a row of another agency has the key of a staged one.
SELECT EXISTS (
    SELECT FROM {staging} AS s JOIN {target} AS t ON {same_key} WHERE t.{agency_column} IS DISTINCT FROM {agency}
);

-- name: analyze_staging
-- Collect statistics for the queries that follow, as autovacuum is off for staging tables.
ANALYZE {staging};

-- name: drop_staging
-- Drop a staging table if it exists.
DROP TABLE IF EXISTS {staging};

-- name: staged_columns
-- The columns of the staged rows.
SELECT a.attname::text AS name
FROM pg_attribute a
WHERE a.attrelid = :staging::text::regclass AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum;

-- name: lock_staging
-- Keep others from dropping the staging table. Raises an error if it is gone.
LOCK TABLE {staging} IN ACCESS EXCLUSIVE MODE;

-- name: lock_load
-- Allow one load at a time per agency and table, as two would wait for each other's row locks.
SELECT pg_advisory_xact_lock(hashtextextended('pipeline-processing load ' || :what, 0));

-- name: lock_bookkeeping
-- IF NOT EXISTS doesn't keep two sessions from creating the same table at once.
SELECT pg_advisory_xact_lock(hashtextextended('pipeline-processing loads ' || :schema, 0));

-- name: bookkeeping_tables
-- How many of the tables below exist.
SELECT count(*)
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = :schema AND c.relname IN ('pipeline_loads', 'pipeline_installation');

-- name: create_loads
-- One row for each dataset of a run, which makes its load happen once. `given_up`: it will never be loaded.
-- `superseded`: it was not loaded, because the agency already had newer rows. `snapshot_at`: when the rows were read.
CREATE TABLE IF NOT EXISTS {schema}.pipeline_loads (
    run_id      text NOT NULL,
    dataset     text NOT NULL,
    agency_id   bigint NOT NULL,
    attempt     integer NOT NULL,
    target      text NOT NULL,
    state       text NOT NULL CHECK (state IN ('loaded', 'given_up', 'superseded')),
    mode        text,
    snapshot_at timestamptz,
    rows        bigint NOT NULL,
    sha256      text NOT NULL,
    at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (run_id, dataset)
);

-- name: create_installation
-- The run history that the runs of `pipeline_loads` belong to.
CREATE TABLE IF NOT EXISTS {schema}.pipeline_installation (
    the_one    boolean PRIMARY KEY DEFAULT true CHECK (the_one),
    history_id uuid NOT NULL
);

-- name: installation
-- The history's id.
SELECT history_id FROM {schema}.pipeline_installation;

-- name: mark_installation
-- Store the history's id, unless one is stored.
INSERT INTO {schema}.pipeline_installation (history_id) VALUES (:history_id) ON CONFLICT DO NOTHING;

-- name: manifests_table
-- Whether the table of manifests exists. Only a job without a destination of objects has one.
SELECT EXISTS (
    SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = :schema AND c.relname = 'pipeline_manifests'
);

-- name: create_manifests
-- The manifests of runs, by the key that an object would have. No row is ever changed.
CREATE TABLE IF NOT EXISTS {schema}.pipeline_manifests (
    key      text PRIMARY KEY,
    run_id   text NOT NULL,
    manifest text NOT NULL,
    at       timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- name: add_manifest
-- Store a manifest, unless there is one.
INSERT INTO {schema}.pipeline_manifests (key, run_id, manifest) VALUES (:key, :run_id, :manifest) ON CONFLICT DO NOTHING;

-- name: manifest
-- A stored manifest.
SELECT manifest FROM {schema}.pipeline_manifests WHERE key = :key;

-- name: note_load
-- Record a load, unless one is recorded for this run's dataset. Waits for an open transaction that inserts it.
INSERT INTO {schema}.pipeline_loads (run_id, dataset, agency_id, attempt, target, state, mode, snapshot_at,
    rows, sha256)
VALUES (:run_id, :dataset, :agency_id, :attempt, :target, :state, :mode, :snapshot_at, :rows, :checksum)
ON CONFLICT (run_id, dataset) DO NOTHING
RETURNING true;

-- name: noted_load
-- The recorded load of a run's dataset.
SELECT attempt, sha256, state, target FROM {schema}.pipeline_loads WHERE run_id = :run_id AND dataset = :dataset;

-- name: later_replacement
-- A run that replaced the agency's rows in a table with newer ones.
SELECT run_id
FROM {schema}.pipeline_loads
WHERE target = :target AND agency_id = :agency_id AND state = 'loaded' AND mode = 'replace'
  AND snapshot_at > :snapshot_at
ORDER BY snapshot_at DESC
LIMIT 1;

-- name: delete_agency
-- Delete the agency's rows.
DELETE FROM {target} WHERE {agency_column} = {agency};

-- name: insert_rows
-- Insert the staged rows.
INSERT INTO {target} ({columns}) SELECT {columns} FROM {staging};

-- name: merge_rows
-- Insert the staged rows, or update the row with the same key, unless it is another agency's.
INSERT INTO {target} AS t ({columns})
SELECT {columns} FROM {staging}
ON CONFLICT ({key}) DO UPDATE SET {assignments} WHERE t.{agency_column} = {agency};
