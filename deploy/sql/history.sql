-- The run history: rows of every table, but no change of the schema. Its identity and version are read only.
GRANT USAGE ON SCHEMA pipeline TO pipeline_history;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA pipeline TO pipeline_history;
REVOKE INSERT, UPDATE, DELETE ON pipeline.installation, pipeline.schema_migrations FROM pipeline_history;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA pipeline TO pipeline_history;

-- The same for what the role that runs this file, the owner, creates in later versions.
ALTER DEFAULT PRIVILEGES IN SCHEMA pipeline GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO pipeline_history;
ALTER DEFAULT PRIVILEGES IN SCHEMA pipeline GRANT USAGE ON SEQUENCES TO pipeline_history;
