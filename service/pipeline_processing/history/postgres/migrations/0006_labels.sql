-- The labels of a run's request: text by name.
ALTER TABLE runs ADD COLUMN labels jsonb NOT NULL DEFAULT '{}';

-- Search by label. Most runs may have none.
CREATE INDEX runs_labels ON runs USING gin (labels jsonb_path_ops) WHERE labels <> '{}';
