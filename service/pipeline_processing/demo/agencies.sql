-- All agencies, by their ids.
SELECT agency_id, name FROM records.agencies ORDER BY agency_id;
