-- The artifacts of successful runs, without their content. They outlive the plan.
CREATE TABLE artifacts (
    run_id      text NOT NULL REFERENCES runs,
    number      integer NOT NULL, -- their order in the plan
    destination text NOT NULL,
    key         text NOT NULL,
    dataset     text NOT NULL,
    format      text NOT NULL,
    compression text NOT NULL,
    rows        bigint NOT NULL,
    size        bigint NOT NULL,
    sha256      text NOT NULL,
    rejected    boolean NOT NULL,
    PRIMARY KEY (run_id, number)
);

-- What the board asks for every second, from indexes only. No column of them changes while a run is held, so that
-- renewing a lease still touches no index.

-- The queue by age: what waits longest.
CREATE INDEX IF NOT EXISTS runs_queued_by_age ON runs (queued_at, run_id) INCLUDE (not_before) WHERE state = 'queued';
-- Runs that wait for another attempt. Few at any time.
CREATE INDEX IF NOT EXISTS runs_retrying ON runs (queued_at) WHERE state = 'queued' AND attempt > 0;
-- What has finished since some time, and how it went.
CREATE INDEX IF NOT EXISTS runs_finished ON runs (finished_at) INCLUDE (state, duration_ms, rows_written, bytes_written)
    WHERE finished_at IS NOT NULL;
-- The last runs of an agency that have finished, although thousands may wait.
CREATE INDEX IF NOT EXISTS runs_finished_by_agency ON runs (agency_id, finished_at DESC) INCLUDE (state, duration_ms, rows_read)
    WHERE finished_at IS NOT NULL;
