-- The board: read the run history.
GRANT USAGE ON SCHEMA pipeline TO pipeline_board;
GRANT SELECT ON ALL TABLES IN SCHEMA pipeline TO pipeline_board;

-- The same for tables of later versions, if the role that runs this file is the one that migrates.
ALTER DEFAULT PRIVILEGES IN SCHEMA pipeline GRANT SELECT ON TABLES TO pipeline_board;

ALTER ROLE pipeline_board SET default_transaction_read_only = on;
