-- The source: read, nothing else. Name tables instead of the whole schema where it holds more than the queries need. Run it
-- again when the queries read a new table.
GRANT USAGE ON SCHEMA public TO pipeline_source;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO pipeline_source;
