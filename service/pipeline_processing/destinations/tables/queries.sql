-- Loading rows into tables. A run's rows wait in a staging table of their own, in the target's schema, until the run's
-- plan is completed. `pipeline_loads` says which runs' rows were loaded, or never will be.
-- Braces hold quoted names.

-- name: target_table
-- A table, and what this user may do with it and in its schema.
SELECT
    c.oid,
    c.relkind::text AS kind,
    has_schema_privilege(n.oid, 'USAGE') AND has_schema_privilege(n.oid, 'CREATE') AS may_create,
    has_any_column_privilege(c.oid, 'SELECT') AS may_select,
    has_any_column_privilege(c.oid, 'INSERT') AS may_insert,
    has_any_column_privilege(c.oid, 'UPDATE') AS may_update,
    has_table_privilege(c.oid, 'DELETE') AS may_delete,
    -- 7: of rows (1), before (2) an insert (4).
    EXISTS (
        SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid AND t.tgtype & 7 = 7 AND t.tgenabled IN ('O', 'A')
    ) AS changes_rows
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = :schema AND c.relname = :name;

-- name: target_columns
-- Its columns. `definition`: for CREATE TABLE, without what would take a number from a sequence. `computed`: no INSERT
-- may name it. `numbered`: a sequence fills it in. `needed`: every INSERT has to name it.
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
-- Its CHECKs; without those of whole rows and system columns, which only the table itself can have.
SELECT c.conname::text AS name, pg_get_expr(c.conbin, c.conrelid) AS expression
FROM pg_constraint c
WHERE c.conrelid = :oid AND c.contype = 'c'
  AND NOT coalesce(0 >= ANY (c.conkey), false)
  AND pg_get_constraintdef(c.oid) NOT LIKE '%NOT ENFORCED'
ORDER BY c.conname;

-- name: unique_keys
-- The columns of each unique index over all rows; `immediate` are those that ON CONFLICT can name.
SELECT array_agg(a.attname::text ORDER BY k.number) AS columns, i.indimmediate AS immediate
FROM pg_index i
CROSS JOIN unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, number)
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
WHERE i.indrelid = :oid
  AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
  AND k.number <= i.indnkeyatts
GROUP BY i.indexrelid, i.indimmediate
ORDER BY i.indexrelid;

-- name: holds_agency_ids
-- Whether a type can hold ids; an error if not.
SELECT CAST('1' AS {type}) IS NOT NULL;

-- name: create_staging
-- A staging table. It is logged: a crash of the server would empty an unlogged one, and a stored plan relies on it.
CREATE TABLE {staging} ({defined}) WITH (autovacuum_enabled = false);

-- name: bind_agency
-- The staging table takes the rows of one agency only, and fills in the agency's id.
ALTER TABLE {staging}
    ALTER COLUMN {agency_column} SET DEFAULT {agency},
    ALTER COLUMN {agency_column} SET NOT NULL,
    ADD CONSTRAINT {constraint} CHECK ({agency_column} = {agency});

-- name: drop_columns
-- Drop columns that rows don't have, with all that depends on them.
ALTER TABLE {staging} {drops};

-- name: comment_on_staging
-- The statement that says whose a staging table is: a comment can't be bound, so the server quotes it.
SELECT format('COMMENT ON TABLE %I.%I IS %L', :schema::text, :name::text, :comment::text);

-- name: staging_tables
-- Staging tables of a schema, with their comments: one, or all whose names begin so.
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
-- An array of JSON objects as rows, each value read by its column's type.
INSERT INTO {staging} ({columns}) SELECT {columns} FROM json_to_recordset(:lines::json) AS r ({typed});

-- name: read_lines
-- The same without keeping them: an error tells whether it is this column whose values can't be read.
SELECT count(*) FROM json_to_recordset(:lines::json) AS r ({typed});

-- name: duplicates
-- Whether two staged rows have the same key. As in an index, nulls are never the same.
SELECT EXISTS (SELECT FROM {staging} WHERE {all_there} GROUP BY {columns} HAVING count(*) > 1);

-- name: incomplete_keys
-- Whether a staged row has a null in its key: nothing could ever be found by that.
SELECT EXISTS (SELECT FROM {staging} WHERE NOT ({all_there}));

-- name: foreign_keys
-- Whether a row of another agency has the key of a staged one.
SELECT EXISTS (
    SELECT FROM {staging} AS s JOIN {target} AS t ON {same_key} WHERE t.{agency_column} IS DISTINCT FROM {agency}
);

-- name: analyze_staging
-- For the plans of what comes: nobody else does it, and Postgres would guess.
ANALYZE {staging};

-- name: drop_staging
-- Also where it is gone already.
DROP TABLE IF EXISTS {staging};

-- name: staged_columns
-- The columns that staged rows have.
SELECT a.attname::text AS name
FROM pg_attribute a
WHERE a.attrelid = :staging::text::regclass AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum;

-- name: lock_staging
-- Nobody drops it from now on; an error if somebody has.
LOCK TABLE {staging} IN ACCESS EXCLUSIVE MODE;

-- name: lock_load
-- One load at a time of one agency's rows into one table: two would wait for each other's rows.
SELECT pg_advisory_xact_lock(hashtextextended('pipeline-processing load ' || :what, 0));

-- name: lock_bookkeeping
-- IF NOT EXISTS doesn't keep two sessions from creating the same table at once.
SELECT pg_advisory_xact_lock(hashtextextended('pipeline-processing loads ' || :schema, 0));

-- name: bookkeeping_tables
-- How many of the tables below there are.
SELECT count(*)
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = :schema AND c.relname IN ('pipeline_loads', 'pipeline_installation');

-- name: create_loads
-- One row for each dataset of a run: what makes its load happen once. `given_up`: it never will. `superseded`: nor will
-- it, as the agency has been given newer rows before. `snapshot_at` is how old its rows are.
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
-- Whose history the runs of `pipeline_loads` are in.
CREATE TABLE IF NOT EXISTS {schema}.pipeline_installation (
    the_one    boolean PRIMARY KEY DEFAULT true CHECK (the_one),
    history_id uuid NOT NULL
);

-- name: installation
-- The history's id.
SELECT history_id FROM {schema}.pipeline_installation;

-- name: mark_installation
-- Note it, unless another is noted.
INSERT INTO {schema}.pipeline_installation (history_id) VALUES (:history_id) ON CONFLICT DO NOTHING;

-- name: note_load
-- One load, unless there is one of this run's dataset; waits for somebody who is about to write it.
INSERT INTO {schema}.pipeline_loads (run_id, dataset, agency_id, attempt, target, state, mode, snapshot_at,
    rows, sha256)
VALUES (:run_id, :dataset, :agency_id, :attempt, :target, :state, :mode, :snapshot_at, :rows, :checksum)
ON CONFLICT (run_id, dataset) DO NOTHING
RETURNING true;

-- name: noted_load
-- What was noted of a run's dataset.
SELECT attempt, sha256, state, target FROM {schema}.pipeline_loads WHERE run_id = :run_id AND dataset = :dataset;

-- name: later_replacement
-- A run that has replaced the agency's rows in a table by newer ones.
SELECT run_id
FROM {schema}.pipeline_loads
WHERE target = :target AND agency_id = :agency_id AND state = 'loaded' AND mode = 'replace'
  AND snapshot_at > :snapshot_at
ORDER BY snapshot_at DESC
LIMIT 1;

-- name: delete_agency
-- The agency's rows go.
DELETE FROM {target} WHERE {agency_column} = {agency};

-- name: insert_rows
-- The staged rows come.
INSERT INTO {target} ({columns}) SELECT {columns} FROM {staging};

-- name: merge_rows
-- The staged rows come, or take the place of those with their key, unless that is another agency's.
INSERT INTO {target} AS t ({columns})
SELECT {columns} FROM {staging}
ON CONFLICT ({key}) DO UPDATE SET {assignments} WHERE t.{agency_column} = {agency};
