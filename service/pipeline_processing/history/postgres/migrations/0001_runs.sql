-- The run table and what belongs to it. Names are unqualified: the migration's search_path is the schema.

-- Which history this is: destinations are marked with it, so that no two histories publish below one prefix.
CREATE TABLE installation (
    only_row        boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    installation_id uuid NOT NULL DEFAULT gen_random_uuid()
);
INSERT INTO installation DEFAULT VALUES;

-- One value per claim. A cache would hand out ranges per session, and a later claim could get a lower fence.
CREATE SEQUENCE fences AS bigint CACHE 1;

-- The row that a claim locks while it counts the agency's leases, and whose turn it is.
CREATE TABLE agencies (
    agency_id       bigint PRIMARY KEY,
    last_claimed_at timestamptz
);

CREATE TABLE runs (
    run_id           text PRIMARY KEY,
    job              text NOT NULL,
    agency_id        bigint NOT NULL REFERENCES agencies,
    state            text NOT NULL DEFAULT 'queued'
                     CHECK (state IN ('queued', 'running', 'prepared', 'succeeded', 'failed', 'cancelled')),
    attempt          integer NOT NULL DEFAULT 0,
    fence            bigint,
    worker           text,
    lease_expires_at timestamptz,
    request          jsonb NOT NULL,
    requested_by     text,
    replay_of        text,
    dry_run          boolean NOT NULL,
    topic            text,
    partition        integer,
    "offset"         bigint,
    queued_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    started_at       timestamptz,
    finished_at      timestamptz,
    duration_ms      bigint,
    rows_read        bigint,
    rows_written     bigint,
    rows_filtered    bigint,
    rows_rejected    bigint,
    bytes_written    bigint,
    timings          jsonb,
    manifest_url     text,
    error_kind       text,
    error_message    text,
    trace_id         text,
    span_id          text,
    -- Internal from here on.
    request_hash     text NOT NULL,
    priority         smallint NOT NULL,
    not_before       timestamptz,
    handed_back      integer NOT NULL DEFAULT 0,
    error_retryable  boolean,
    error_exit_code  integer,
    CONSTRAINT running_is_leased CHECK (state <> 'running' OR (fence IS NOT NULL AND lease_expires_at IS NOT NULL)),
    CONSTRAINT lease_while_held CHECK (lease_expires_at IS NULL OR state IN ('running', 'prepared')),
    CONSTRAINT finished_at_the_end
        CHECK ((finished_at IS NOT NULL) = (state IN ('succeeded', 'failed', 'cancelled'))),
    CONSTRAINT error_when_failed CHECK ((error_kind IS NOT NULL) = (state = 'failed'))
) WITH (fillfactor = 80); -- room beside each row, so that renewing a lease touches no index

-- Claims: the runs that may be due, agency by agency, in the order in which they are taken.
CREATE INDEX runs_waiting ON runs (agency_id, priority DESC, queued_at, run_id) WHERE state IN ('queued', 'running');
-- Claims: leases per agency, and prepared runs that nobody holds. Few rows at any time.
CREATE INDEX runs_held ON runs (agency_id) WHERE state IN ('running', 'prepared');
-- History.
CREATE INDEX runs_by_age ON runs (queued_at DESC, run_id DESC);
CREATE INDEX runs_by_agency ON runs (agency_id, queued_at DESC, run_id DESC);
CREATE INDEX runs_failed ON runs (queued_at DESC, run_id DESC) WHERE state = 'failed';

CREATE TABLE run_attempts (
    run_id        text NOT NULL REFERENCES runs,
    attempt       integer NOT NULL,
    fence         bigint NOT NULL,
    worker        text NOT NULL,
    outcome       text NOT NULL DEFAULT 'running'
                  CHECK (outcome IN ('running', 'prepared', 'succeeded', 'failed', 'retrying', 'handed_back',
                                     'cancelled', 'voided', 'lost')),
    started_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at   timestamptz,
    error_kind    text,
    error_message text,
    trace_id      text,
    span_id       text,
    PRIMARY KEY (run_id, attempt)
);

-- The decision of a prepared run. Text, not jsonb: the manifest's bytes in it are published as they stand.
CREATE TABLE plans (
    run_id text PRIMARY KEY REFERENCES runs,
    fence  bigint NOT NULL,
    plan   text NOT NULL
);

-- Uploads that were started and may have to be aborted. `planned` ones are named by the run's plan.
CREATE TABLE uploads (
    run_id      text NOT NULL REFERENCES runs,
    key         text NOT NULL,
    upload_id   text NOT NULL,
    destination text NOT NULL,
    fence       bigint NOT NULL,
    planned     boolean NOT NULL DEFAULT false,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (run_id, key, upload_id)
);

-- Events to be announced, with the bytes that are sent however often.
CREATE TABLE outbox (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id   text NOT NULL UNIQUE,
    run_id     text NOT NULL,
    type       text NOT NULL,
    key        text NOT NULL,
    headers    jsonb NOT NULL,
    value      bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    sent_at    timestamptz
);
CREATE INDEX outbox_unsent ON outbox (id) WHERE sent_at IS NULL;
CREATE INDEX outbox_by_run ON outbox (run_id);
