-- An attempt, from start to end. Queries that write check the fence and the state that they start from, and return a
-- row only if both still hold. Times come from clock_timestamp(), since a transaction may have waited for a lock.

-- name: current_run
-- One run.
SELECT * FROM runs WHERE run_id = :run_id;

-- name: lock_run
-- One run, locked until the transaction ends.
SELECT * FROM runs WHERE run_id = :run_id FOR NO KEY UPDATE;

-- name: start_attempt
-- Store the trace of an attempt. An attempt that only completes a plan keeps the export's trace.
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
-- Record an upload. If an earlier attempt used the same handle, it now belongs to this attempt.
INSERT INTO uploads (run_id, key, upload_id, destination, fence)
SELECT run_id, :key, :upload_id, :destination, fence
FROM runs
WHERE run_id = :run_id AND fence = :fence AND state = 'running'
ON CONFLICT (run_id, key, upload_id) DO UPDATE SET fence = excluded.fence
RETURNING run_id;

-- name: prepare
-- Decide the run: store the plan, mark the uploads that it names, and replace the counts by dataset.
WITH decided AS (
    UPDATE runs
    SET state = 'prepared',
        rows_read = :rows_read,
        rows_written = :rows_written,
        rows_filtered = :rows_filtered,
        rows_rejected = :rows_rejected,
        bytes_written = :bytes_written,
        timings = :timings,
        manifest_url = :manifest_url,
        bill = coalesce(:bill::jsonb, bill)
    WHERE run_id = :run_id AND fence = :fence AND state = 'running'
    RETURNING run_id, agency_id, attempt, fence
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
),
outdated AS (
    DELETE FROM run_datasets
    USING decided
    WHERE run_datasets.run_id = decided.run_id AND dataset <> ALL (:datasets::text[])
),
counted AS (
    INSERT INTO run_datasets (
        run_id, dataset, agency_id, number, rows_read, rows_written, rows_filtered, rows_rejected, covered_until
    )
    SELECT run_id, dataset, agency_id, number, read, written, filtered, rejected, :covered_until
    FROM decided,
         unnest(
             :datasets::text[],
             :datasets_read::bigint[],
             :datasets_written::bigint[],
             :datasets_filtered::bigint[],
             :datasets_rejected::bigint[]
         ) WITH ORDINALITY AS counts (dataset, read, written, filtered, rejected, number)
    ON CONFLICT (run_id, dataset) DO UPDATE
    SET number = excluded.number,
        rows_read = excluded.rows_read,
        rows_written = excluded.rows_written,
        rows_filtered = excluded.rows_filtered,
        rows_rejected = excluded.rows_rejected,
        covered_until = excluded.covered_until
)
SELECT run_id FROM decided;

-- name: count_datasets
-- Store a run's counts by dataset, replacing those stored before.
WITH outdated AS (
    DELETE FROM run_datasets WHERE run_id = :run_id AND dataset <> ALL (:datasets::text[])
)
INSERT INTO run_datasets (
    run_id, dataset, agency_id, number, rows_read, rows_written, rows_filtered, rows_rejected, covered_until
)
SELECT :run_id, dataset, :agency_id, number, rows_read, rows_written, rows_filtered, rows_rejected, :covered_until
FROM unnest(
    :datasets::text[],
    :datasets_read::bigint[],
    :datasets_written::bigint[],
    :datasets_filtered::bigint[],
    :datasets_rejected::bigint[]
) WITH ORDINALITY AS counted (dataset, rows_read, rows_written, rows_filtered, rows_rejected, number)
ON CONFLICT (run_id, dataset) DO UPDATE
SET number = excluded.number,
    rows_read = excluded.rows_read,
    rows_written = excluded.rows_written,
    rows_filtered = excluded.rows_filtered,
    rows_rejected = excluded.rows_rejected,
    covered_until = excluded.covered_until;

-- name: plan
-- The plan of a prepared run, for the holder of the claim.
SELECT plans.plan
FROM plans
JOIN runs ON runs.run_id = plans.run_id
WHERE runs.run_id = :run_id AND runs.fence = :fence AND runs.state = 'prepared';

-- name: finish
-- Move a run to a final state, and end its attempt. Null counts leave the stored ones unchanged. Only a success has a
-- manifest URL. After a success, drop the plan and the records of its uploads, which are now objects. Keep the plan's
-- artifacts, without their content. The manifest may hold escapes that Postgres can't store, and `->>` would unescape
-- all of the plan.
WITH finished AS (
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
        bill = coalesce(:bill::jsonb, bill),
        manifest_url = CASE WHEN :to_state = 'succeeded' THEN coalesce(:manifest_url, manifest_url) END,
        error_kind = :error_kind,
        error_message = :error_message,
        error_retryable = :error_retryable,
        error_exit_code = :error_exit_code
    FROM (SELECT clock_timestamp() AS at) AS clock
    WHERE run_id = :run_id AND fence IS NOT DISTINCT FROM :fence AND state = :from_state
    RETURNING runs.*
),
ended AS (
    UPDATE run_attempts
    SET outcome = finished.state,
        finished_at = clock_timestamp(),
        error_kind = finished.error_kind,
        error_message = finished.error_message
    FROM finished
    WHERE run_attempts.run_id = finished.run_id
      AND run_attempts.attempt = finished.attempt
      AND run_attempts.outcome IN ('running', 'prepared')
),
completed AS (
    DELETE FROM uploads
    USING finished
    WHERE finished.state = 'succeeded' AND uploads.run_id = finished.run_id AND uploads.planned
),
decided AS (
    DELETE FROM plans
    USING finished
    WHERE finished.state = 'succeeded' AND plans.run_id = finished.run_id
    RETURNING plans.run_id, plans.plan::json AS plan
),
listed AS (
    INSERT INTO artifacts (run_id, number, destination, key, dataset, format, compression, rows, size, sha256, rejected)
    SELECT run_id, number, coalesce(nullif(artifact ->> 'destination', ''), plan -> 'destination' #>> '{}'),
           artifact ->> 'key', artifact ->> 'dataset', artifact ->> 'format', artifact ->> 'compression',
           (artifact ->> 'rows')::bigint, (artifact ->> 'size')::bigint, artifact ->> 'sha256',
           coalesce((artifact ->> 'rejected')::boolean, false)
    FROM decided
    CROSS JOIN json_array_elements(plan -> 'artifacts') WITH ORDINALITY AS listed (artifact, number)
)
SELECT * FROM finished;

-- name: add_event
-- Add an event to the outbox, and a delivery for each webhook that wants it.
WITH added AS (
    INSERT INTO outbox (event_id, run_id, type, key, headers, value)
    VALUES (:event_id, :run_id, :type, :key, :headers, :value)
)
INSERT INTO webhook_deliveries (event_id, run_id, webhook)
SELECT :event_id, :run_id, name FROM webhooks WHERE :state::text = ANY (states);

-- name: requeue
-- `running → queued`, due after the delay.
UPDATE runs
SET state = 'queued',
    worker = NULL,
    lease_expires_at = NULL,
    not_before = clock_timestamp() + :delay::interval,
    handed_back = handed_back + :handed_back,
    bill = coalesce(:bill::jsonb, bill)
WHERE run_id = :run_id AND fence = :fence AND state = 'running'
RETURNING runs.*;

-- name: release
-- End the lease of a prepared run. It can be claimed again after the delay.
UPDATE runs
SET worker = NULL, lease_expires_at = NULL, not_before = clock_timestamp() + :delay::interval
WHERE run_id = :run_id AND fence = :fence AND state = 'prepared'
RETURNING runs.*;

-- name: void_plan
-- `prepared → queued`: drop the plan and its counts, and leave its uploads to the clean-up.
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
-- Store how an attempt ended, unless it is stored already.
UPDATE run_attempts
SET outcome = :outcome,
    finished_at = clock_timestamp(),
    error_kind = :error_kind,
    error_message = :error_message
WHERE run_id = :run_id AND attempt = :attempt AND outcome IN ('running', 'prepared');
