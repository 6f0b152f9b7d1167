-- Which job config a run belongs to, and which runs may have ended their worker.

-- Identity of the job config that the run was accepted with, then of the one that its last attempt used.
ALTER TABLE runs ADD COLUMN config_id text;
-- Whether only a worker with that job config may export it. Requests from Kafka are for whatever config is served.
ALTER TABLE runs ADD COLUMN pinned boolean NOT NULL DEFAULT false;
-- Whether an attempt was lost with its worker: the run may have been the cause.
ALTER TABLE runs ADD COLUMN suspect boolean NOT NULL DEFAULT false;

-- What decides whose turn it is, in one index. No column of it changes while a run is held, so that renewing a lease
-- touches no index.
DROP INDEX runs_queued;
CREATE INDEX runs_queued ON runs (agency_id, priority DESC, queued_at) INCLUDE (not_before, pinned, config_id)
    WHERE state = 'queued';

-- Attempts that were in one process when it was lost.
CREATE INDEX run_attempts_lost ON run_attempts (worker) WHERE outcome IN ('running', 'lost');

-- Runs that wait for a worker with their own job config. Few at any time.
CREATE INDEX runs_pinned ON runs (config_id) WHERE pinned AND state IN ('queued', 'running');
