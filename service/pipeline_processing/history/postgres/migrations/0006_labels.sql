-- The labels of a run's request: text by name.
ALTER TABLE runs ADD COLUMN IF NOT EXISTS labels jsonb NOT NULL DEFAULT '{}';

-- Search by label. Most runs may have none.
CREATE INDEX IF NOT EXISTS runs_labels ON runs USING gin (labels jsonb_path_ops) WHERE labels <> '{}';
