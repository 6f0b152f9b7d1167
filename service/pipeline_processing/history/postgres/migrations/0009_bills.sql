-- What a run has used: processor time, time of databases, bytes, requests. Null if it isn't known.
ALTER TABLE runs ADD COLUMN IF NOT EXISTS bill jsonb;
