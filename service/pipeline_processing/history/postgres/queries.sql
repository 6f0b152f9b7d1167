-- A run's way from its claim to its end. Queries that write name the fence and the state that they start from, and
-- give back a row only if both still hold. Times are read with clock_timestamp(): a transaction may have waited for
-- a lock.

-- name: lock_run
-- One run, which nobody else changes before the end of this transaction.
SELECT * FROM runs WHERE run_id = :run_id FOR NO KEY UPDATE;

-- name: claim_prepared
-- Take over the oldest prepared run that nobody holds, with a new fence; the attempt stays.
WITH free AS (
    SELECT run_id
    FROM runs
    WHERE state = 'prepared'
      AND (:run_id::text IS NULL OR run_id = :run_id)
      AND (lease_expires_at IS NULL OR lease_expires_at <= clock_timestamp())
      AND (not_before IS NULL OR not_before <= clock_timestamp())
    ORDER BY priority DESC, queued_at, run_id
    LIMIT 1
    FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE runs
SET fence = nextval('fences'), worker = :worker, lease_expires_at = clock_timestamp() + :lease::interval
FROM free
WHERE runs.run_id = free.run_id
RETURNING runs.*;

-- name: next_agencies
-- The agencies with a due run and a free place in the order of their turns, the first hundred. Reads one run of each
-- agency that waits, however many it has. The count of leases is a hint here; `claim_due` counts again, under the
-- agency's lock.
WITH RECURSIVE queued AS (
    (SELECT min(agency_id) AS agency_id FROM runs WHERE state = 'queued')
    UNION ALL
    SELECT (SELECT min(runs.agency_id) FROM runs WHERE runs.state = 'queued' AND runs.agency_id > queued.agency_id)
    FROM queued
    WHERE queued.agency_id IS NOT NULL
),
waiting AS (
    SELECT due.*
    FROM queued
    CROSS JOIN LATERAL (
        SELECT agency_id, priority, queued_at
        FROM runs
        WHERE state = 'queued'
          AND agency_id = queued.agency_id
          AND (not_before IS NULL OR not_before <= clock_timestamp())
          AND (NOT pinned OR config_id = :config_id)
        ORDER BY priority DESC, queued_at
        LIMIT 1
    ) AS due
    UNION ALL
    SELECT agency_id, priority, queued_at
    FROM runs
    WHERE state = 'running' AND lease_expires_at <= clock_timestamp() AND (NOT pinned OR config_id = :config_id)
),
first AS (
    SELECT DISTINCT ON (agency_id) * FROM waiting ORDER BY agency_id, priority DESC, queued_at
),
held AS (
    SELECT agency_id, count(*) AS leases
    FROM runs
    WHERE state IN ('running', 'prepared') AND lease_expires_at > clock_timestamp()
    GROUP BY agency_id
)
SELECT agencies.agency_id, agencies.last_claimed_at, clock_timestamp() AS chosen_at
FROM agencies
JOIN first ON first.agency_id = agencies.agency_id
LEFT JOIN held ON held.agency_id = agencies.agency_id
WHERE coalesce(held.leases, 0) < :max_runs
ORDER BY first.priority DESC, agencies.last_claimed_at NULLS FIRST, first.queued_at, agencies.agency_id
LIMIT 100;

-- name: take_turn
-- Lock the first of these agencies that nobody is claiming for just now. One of a choice that was kept must have had no
-- turn since; and a choice is kept for a second at most, since priorities change as well.
SELECT agencies.agency_id
FROM agencies
JOIN unnest(:agency_ids::bigint[], :last_claimed_at::timestamptz[]) WITH ORDINALITY
    AS chosen (agency_id, last_claimed_at, number) ON chosen.agency_id = agencies.agency_id
WHERE NOT :kept
   OR (agencies.last_claimed_at IS NOT DISTINCT FROM chosen.last_claimed_at
       AND clock_timestamp() < :chosen_at::timestamptz + interval '1 second')
ORDER BY chosen.number
LIMIT 1
FOR NO KEY UPDATE OF agencies SKIP LOCKED;

-- name: agency_of
-- Lock the agency of one run, waiting for it: whoever asks for this very run isn't served by another.
SELECT agencies.agency_id
FROM agencies
JOIN runs ON runs.agency_id = agencies.agency_id
WHERE runs.run_id = :run_id AND runs.state IN ('queued', 'running')
FOR NO KEY UPDATE OF agencies;

-- name: claim_due
-- Under the agency's lock: start the next attempt of its first due run, unless its places are taken. A statement
-- of its own, so that it sees what the lock's last holder committed. The attempt before, if it is still running, was
-- lost with its worker: the run is a suspect from then on. One that was lost beside others, for the first time, need
-- not have been the cause: that attempt counts as no try.
WITH due AS (
    SELECT run_id,
           state = 'running' AS lost,
           state = 'running' AND NOT suspect AND EXISTS (
               SELECT
               FROM run_attempts AS beside
               WHERE beside.worker = runs.worker
                 AND beside.run_id <> runs.run_id
                 AND beside.outcome IN ('running', 'lost')
           ) AS lost_beside_others
    FROM runs
    WHERE agency_id = :agency_id
      AND state IN ('queued', 'running')
      AND (:run_id::text IS NULL OR run_id = :run_id)
      AND (NOT pinned OR config_id = :config_id)
      AND CASE state
              WHEN 'queued' THEN not_before IS NULL OR not_before <= clock_timestamp()
              ELSE lease_expires_at <= clock_timestamp()
          END
      AND :max_runs > (
          SELECT count(*)
          FROM runs AS held
          WHERE held.agency_id = :agency_id
            AND held.state IN ('running', 'prepared')
            AND held.lease_expires_at > clock_timestamp()
      )
    ORDER BY priority DESC, queued_at, run_id
    LIMIT 1
    FOR NO KEY UPDATE SKIP LOCKED
),
claimed AS (
    UPDATE runs
    SET state = 'running',
        attempt = attempt + 1,
        fence = nextval('fences'),
        worker = :worker,
        lease_expires_at = clock_timestamp() + :lease::interval,
        started_at = coalesce(started_at, clock_timestamp()),
        config_id = coalesce(:config_id, config_id),
        suspect = suspect OR due.lost,
        handed_back = handed_back + due.lost_beside_others::integer
    FROM due
    WHERE runs.run_id = due.run_id
    RETURNING runs.*
),
lost AS (
    UPDATE run_attempts
    SET outcome = 'lost', finished_at = clock_timestamp()
    FROM claimed
    WHERE run_attempts.run_id = claimed.run_id AND run_attempts.outcome = 'running'
),
begun AS (
    INSERT INTO run_attempts (run_id, attempt, fence, worker)
    SELECT run_id, attempt, fence, worker FROM claimed
),
turn AS (
    UPDATE agencies
    SET last_claimed_at = clock_timestamp()
    FROM claimed
    WHERE agencies.agency_id = claimed.agency_id
)
SELECT * FROM claimed;

-- name: renew
-- Extend a lease from now. One that was given up or has ended stays so: its agency's place may be taken.
UPDATE runs
SET lease_expires_at = clock_timestamp() + :lease::interval
WHERE run_id = :run_id
  AND fence = :fence
  AND state IN ('running', 'prepared')
  AND lease_expires_at > clock_timestamp()
RETURNING run_id;

-- name: start_attempt
-- Note an attempt's own trace. Whoever only rolls its plan forward doesn't replace the trace of the export.
UPDATE run_attempts
SET trace_id = coalesce(run_attempts.trace_id, :trace_id), span_id = coalesce(run_attempts.span_id, :span_id)
FROM runs
WHERE runs.run_id = :run_id
  AND runs.fence = :fence
  AND runs.state IN ('running', 'prepared')
  AND run_attempts.run_id = runs.run_id
  AND run_attempts.attempt = runs.attempt
RETURNING run_attempts.run_id;

-- name: record_upload
-- Remember an upload. A handle that an earlier attempt used as well belongs to this one now.
INSERT INTO uploads (run_id, key, upload_id, destination, fence)
SELECT run_id, :key, :upload_id, :destination, fence
FROM runs
WHERE run_id = :run_id AND fence = :fence AND state = 'running'
ON CONFLICT (run_id, key, upload_id) DO UPDATE SET fence = excluded.fence
RETURNING run_id;

-- name: prepare
-- The decision: store the plan, and mark the uploads that it names. A file has no handle to compare, only its key.
WITH decided AS (
    UPDATE runs
    SET state = 'prepared',
        rows_read = :rows_read,
        rows_written = :rows_written,
        rows_filtered = :rows_filtered,
        rows_rejected = :rows_rejected,
        bytes_written = :bytes_written,
        timings = :timings,
        manifest_url = :manifest_url
    WHERE run_id = :run_id AND fence = :fence AND state = 'running'
    RETURNING run_id, attempt, fence
),
stored AS (
    INSERT INTO plans (run_id, fence, plan) SELECT run_id, fence, :plan FROM decided
),
named AS (
    UPDATE uploads
    SET planned = true
    FROM decided, unnest(:keys::text[], :upload_ids::text[]) AS plan (key, upload_id)
    WHERE uploads.run_id = decided.run_id
      AND uploads.fence = decided.fence
      AND uploads.key = plan.key
      AND uploads.upload_id = plan.upload_id
),
noted AS (
    UPDATE run_attempts
    SET outcome = 'prepared'
    FROM decided
    WHERE run_attempts.run_id = decided.run_id AND run_attempts.attempt = decided.attempt
)
SELECT run_id FROM decided;

-- name: count_datasets
-- What a run did of each of its datasets, in place of what was noted before.
WITH outdated AS (
    DELETE FROM run_datasets WHERE run_id = :run_id AND dataset <> ALL (:datasets::text[])
)
INSERT INTO run_datasets (
    run_id, dataset, agency_id, number, rows_read, rows_written, rows_filtered, rows_rejected, covered_until
)
SELECT :run_id, dataset, :agency_id, number, rows_read, rows_written, rows_filtered, rows_rejected, :covered_until
FROM unnest(
    :datasets::text[],
    :rows_read::bigint[],
    :rows_written::bigint[],
    :rows_filtered::bigint[],
    :rows_rejected::bigint[]
) WITH ORDINALITY AS counted (dataset, rows_read, rows_written, rows_filtered, rows_rejected, number)
ON CONFLICT (run_id, dataset) DO UPDATE
SET number = excluded.number,
    rows_read = excluded.rows_read,
    rows_written = excluded.rows_written,
    rows_filtered = excluded.rows_filtered,
    rows_rejected = excluded.rows_rejected,
    covered_until = excluded.covered_until;

-- name: plan
-- The plan of a prepared run, for whoever holds it.
SELECT plans.plan
FROM plans
JOIN runs ON runs.run_id = plans.run_id
WHERE runs.run_id = :run_id AND runs.fence = :fence AND runs.state = 'prepared';

-- name: finish
-- Any state → a final one. Counts that aren't given stay as they are; a manifest is named only on success.
UPDATE runs
SET state = :to_state,
    finished_at = clock.at,
    duration_ms = greatest(0, floor(extract(epoch FROM clock.at - coalesce(started_at, queued_at)) * 1000))::bigint,
    lease_expires_at = NULL,
    rows_read = coalesce(:rows_read, rows_read),
    rows_written = coalesce(:rows_written, rows_written),
    rows_filtered = coalesce(:rows_filtered, rows_filtered),
    rows_rejected = coalesce(:rows_rejected, rows_rejected),
    bytes_written = coalesce(:bytes_written, bytes_written),
    timings = coalesce(:timings, timings),
    manifest_url = CASE WHEN :to_state = 'succeeded' THEN coalesce(:manifest_url, manifest_url) END,
    error_kind = :error_kind,
    error_message = :error_message,
    error_retryable = :error_retryable,
    error_exit_code = :error_exit_code
FROM (SELECT clock_timestamp() AS at) AS clock
WHERE run_id = :run_id AND fence IS NOT DISTINCT FROM :fence AND state = :from_state
RETURNING runs.*;

-- name: discard_plan
-- After success: the plan's bytes are of no use any more, and its uploads became objects.
WITH completed AS (
    DELETE FROM uploads WHERE run_id = :run_id AND planned
)
DELETE FROM plans WHERE run_id = :run_id;

-- name: requeue
-- `running → queued`, due after the delay.
UPDATE runs
SET state = 'queued',
    worker = NULL,
    lease_expires_at = NULL,
    not_before = clock_timestamp() + :delay::interval,
    handed_back = handed_back + :handed_back
WHERE run_id = :run_id AND fence = :fence AND state = 'running'
RETURNING runs.*;

-- name: release
-- Give up the lease of a prepared run, which can be claimed again after the delay.
UPDATE runs
SET worker = NULL, lease_expires_at = NULL, not_before = clock_timestamp() + :delay::interval
WHERE run_id = :run_id AND fence = :fence AND state = 'prepared'
RETURNING runs.*;

-- name: void_plan
-- `prepared → queued`: drop the plan and what it measured, and leave its uploads to the clean-up.
WITH voided AS (
    UPDATE runs
    SET state = 'queued',
        worker = NULL,
        lease_expires_at = NULL,
        not_before = NULL,
        rows_read = NULL,
        rows_written = NULL,
        rows_filtered = NULL,
        rows_rejected = NULL,
        bytes_written = NULL,
        timings = NULL,
        manifest_url = NULL
    WHERE run_id = :run_id AND fence = :fence AND state = 'prepared'
    RETURNING runs.*
),
dropped AS (
    DELETE FROM plans USING voided WHERE plans.run_id = voided.run_id
),
uncounted AS (
    DELETE FROM run_datasets USING voided WHERE run_datasets.run_id = voided.run_id
),
unnamed AS (
    UPDATE uploads SET planned = false FROM voided WHERE uploads.run_id = voided.run_id AND uploads.planned
)
SELECT * FROM voided;

-- name: end_attempt
-- Note how an attempt ended, unless that is known already.
UPDATE run_attempts
SET outcome = :outcome,
    finished_at = clock_timestamp(),
    error_kind = :error_kind,
    error_message = :error_message
WHERE run_id = :run_id AND attempt = :attempt AND outcome IN ('running', 'prepared');
