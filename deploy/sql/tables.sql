-- A `postgres` destination: its schema, in which staging tables come and go, and the tables that datasets are loaded into.
-- `append` needs INSERT only, `merge` SELECT, INSERT and UPDATE, `replace` SELECT, INSERT and DELETE.
GRANT USAGE, CREATE ON SCHEMA exports TO pipeline_tables;
GRANT SELECT, INSERT, UPDATE, DELETE ON exports.records TO pipeline_tables;
