-- The source: read, nothing else. Name tables instead of the whole schema where it holds more than the queries need.
GRANT USAGE ON SCHEMA public TO pipeline_source;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO pipeline_source;

-- A second lock: not even a function that a query calls can write.
ALTER ROLE pipeline_source SET default_transaction_read_only = on;
