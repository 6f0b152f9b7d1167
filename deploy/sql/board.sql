-- The board: read the run history.
GRANT USAGE ON SCHEMA pipeline TO pipeline_board;
GRANT SELECT ON ALL TABLES IN SCHEMA pipeline TO pipeline_board;

-- The same for tables that the role that runs this file, the owner, creates in later versions.
ALTER DEFAULT PRIVILEGES IN SCHEMA pipeline GRANT SELECT ON TABLES TO pipeline_board;
