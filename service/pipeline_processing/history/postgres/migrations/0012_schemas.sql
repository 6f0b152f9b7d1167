-- The columns of a dataset's rows, with their types, of runs that were decided. Null if they weren't known.
ALTER TABLE run_datasets ADD COLUMN IF NOT EXISTS schema jsonb;
