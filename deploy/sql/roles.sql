-- The roles, and the schema of the run history: as an administrator, in the history's database. They have no passwords yet:
-- set each with `\password ROLE` in psql.
CREATE ROLE pipeline_owner LOGIN;
CREATE ROLE pipeline_history LOGIN;
CREATE ROLE pipeline_board LOGIN;
CREATE ROLE pipeline_source LOGIN;
CREATE ROLE pipeline_tables LOGIN;

-- An administrator who isn't a superuser, as in most clouds, must be a member to give it a schema, and to restore it.
GRANT pipeline_owner TO CURRENT_USER;
CREATE SCHEMA pipeline AUTHORIZATION pipeline_owner;

-- A second lock on those that only read: not even a function that a query calls can write.
ALTER ROLE pipeline_board SET default_transaction_read_only = on;
ALTER ROLE pipeline_source SET default_transaction_read_only = on;
