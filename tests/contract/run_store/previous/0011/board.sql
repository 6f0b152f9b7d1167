-- What the board reads. All times are compared with now(), which an index can use, unlike clock_timestamp().

-- name: queue_state
-- Runs by state, what waits longest, and unsent events.
SELECT
    now() AS now,
    queued.runs AS queued,
    queued.agencies AS agencies_waiting,
    held.running,
    held.prepared,
    (SELECT count(*) FROM runs WHERE state = 'queued' AND attempt > 0) AS retrying,
    oldest.run_id AS oldest_run_id,
    oldest.agency_id,
    oldest.agency_key,
    oldest.queued_at AS oldest_queued_at,
    finished.succeeded,
    finished.failed,
    finished.cancelled,
    unsent.events AS outbox_unsent,
    unsent.oldest AS oldest_unsent_at,
    (SELECT count(*) FROM dead_letters WHERE put_aside_at > now() - interval '1 day') AS kept_letters
FROM (SELECT count(*) AS runs, count(DISTINCT agency_id) AS agencies FROM runs WHERE state = 'queued') AS queued
CROSS JOIN (
    SELECT count(*) FILTER (WHERE state = 'running') AS running, count(*) FILTER (WHERE state = 'prepared') AS prepared
    FROM runs
    WHERE state IN ('running', 'prepared')
) AS held
CROSS JOIN (
    SELECT count(*) FILTER (WHERE state = 'succeeded') AS succeeded,
           count(*) FILTER (WHERE state = 'failed') AS failed,
           count(*) FILTER (WHERE state = 'cancelled') AS cancelled
    FROM runs
    WHERE finished_at > now() - interval '1 hour'
) AS finished
CROSS JOIN (SELECT count(*) AS events, min(created_at) AS oldest FROM outbox WHERE sent_at IS NULL) AS unsent
LEFT JOIN LATERAL (
    SELECT run_id, agency_id, agency_key, queued_at
    FROM runs
    WHERE state = 'queued' AND (not_before IS NULL OR not_before <= now())
    ORDER BY queued_at, run_id
    LIMIT 1
) AS oldest ON true;

-- name: changes
-- Runs that may have changed since a time: all that are held, those queued or finished since, and the watched ones.
SELECT *
FROM runs
WHERE run_id IN (
    (SELECT run_id FROM runs WHERE state IN ('running', 'prepared') LIMIT :limit)
    UNION
    (SELECT run_id FROM runs WHERE queued_at > :since ORDER BY queued_at DESC, run_id DESC LIMIT :limit)
    UNION
    (SELECT run_id FROM runs WHERE finished_at > :since ORDER BY finished_at DESC LIMIT :limit)
    UNION
    SELECT unnest(:watched::text[])
);

-- name: run
-- One run.
SELECT * FROM runs WHERE run_id = :run_id;

-- name: attempts
-- All attempts of a run, oldest first.
SELECT * FROM run_attempts WHERE run_id = :run_id ORDER BY attempt;

-- name: datasets
-- The counts of each dataset of a run, in their order.
SELECT * FROM run_datasets WHERE run_id = :run_id ORDER BY number;

-- name: plan
-- The stored plan of a run.
SELECT plan FROM plans WHERE run_id = :run_id;

-- name: artifacts
-- The first artifacts of a successful run, in the order of its plan.
SELECT destination, key, dataset, format, compression, rows, size, sha256, rejected
FROM artifacts
WHERE run_id = :run_id
ORDER BY number
LIMIT :limit;

-- name: events
-- The completion events of a run.
SELECT event_id, type, created_at, sent_at FROM outbox WHERE run_id = :run_id ORDER BY id;

-- name: deliveries
-- Deliveries of a run's events to webhooks.
SELECT * FROM webhook_deliveries WHERE run_id = :run_id ORDER BY event_id, webhook;

-- name: replays
-- The newest replays of a run.
SELECT * FROM runs WHERE replay_of = :run_id ORDER BY queued_at DESC, run_id DESC LIMIT :limit;

-- name: durations
-- The last finished runs of each of these agencies, oldest first.
SELECT wanted.agency, last.*
FROM unnest(:agency_ids::bigint[], :agencies::text[]) AS wanted (agency_id, agency)
CROSS JOIN LATERAL (
    SELECT agency_id, run_id, finished_at, duration_ms, state
    FROM runs
    WHERE agency_id = wanted.agency_id
      AND (agency_key IS NULL OR agency_key = wanted.agency)
      AND finished_at IS NOT NULL
    ORDER BY finished_at DESC
    LIMIT :limit
) AS last
ORDER BY last.agency_id, last.finished_at;

-- name: typical
-- Medians over the last successful runs of each of these agencies, of the last few finished ones.
SELECT wanted.agency,
       count(*) AS runs,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY last.duration_ms) AS duration_ms,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY last.rows_read) AS rows_read
FROM unnest(:agency_ids::bigint[], :agencies::text[]) AS wanted (agency_id, agency)
CROSS JOIN LATERAL (
    SELECT state, duration_ms, rows_read
    FROM runs
    WHERE agency_id = wanted.agency_id
      AND (agency_key IS NULL OR agency_key = wanted.agency)
      AND finished_at IS NOT NULL
    ORDER BY finished_at DESC
    LIMIT 20
) AS last
WHERE last.state = 'succeeded' AND last.duration_ms IS NOT NULL
GROUP BY wanted.agency;

-- name: failures
-- Runs that failed within a window, by kind of error.
WITH failed AS (
    SELECT run_id, agency_id, agency_key, error_kind, finished_at,
           row_number() OVER (PARTITION BY error_kind ORDER BY finished_at DESC, run_id) AS number
    FROM runs
    WHERE state = 'failed' AND finished_at > now() - :window::interval
),
groups AS (
    SELECT error_kind,
           count(*) AS runs,
           count(*) FILTER (
               WHERE EXISTS (SELECT FROM runs AS replay WHERE replay.replay_of = failed.run_id)
           ) AS replayed,
           count(DISTINCT agency_id) AS agencies,
           max(finished_at) AS last_at,
           array_agg(run_id ORDER BY number) FILTER (WHERE number <= 5) AS run_ids,
           array_agg(agency_id ORDER BY number) FILTER (WHERE number <= 50) AS agency_ids,
           array_agg(agency_key ORDER BY number) FILTER (WHERE number <= 50) AS agency_keys
    FROM failed
    GROUP BY error_kind
)
SELECT groups.*, runs.error_message AS last_message
FROM groups
JOIN runs ON runs.run_id = groups.run_ids[1]
ORDER BY groups.runs DESC, groups.error_kind;

-- name: throughput
-- Runs that finished within a window, in buckets of equal width, empty ones included.
SELECT slots.at,
       count(*) FILTER (WHERE state = 'succeeded') AS succeeded,
       count(*) FILTER (WHERE state = 'failed') AS failed,
       count(*) FILTER (WHERE state = 'cancelled') AS cancelled,
       coalesce(sum(rows_written) FILTER (WHERE state = 'succeeded'), 0)::bigint AS rows,
       coalesce(sum(bytes_written) FILTER (WHERE state = 'succeeded'), 0)::bigint AS bytes,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY duration_ms) FILTER (WHERE state = 'succeeded') AS p50_ms,
       percentile_cont(0.95) WITHIN GROUP (ORDER BY duration_ms) FILTER (WHERE state = 'succeeded') AS p95_ms
FROM (
    SELECT date_bin(:width::interval, now(), timestamptz '2000-01-01 00:00Z') - number * :width::interval AS at
    FROM generate_series(:slots::integer - 1, 0, -1) AS number
) AS slots
LEFT JOIN (
    SELECT date_bin(:width::interval, finished_at, timestamptz '2000-01-01 00:00Z') AS at,
           state, duration_ms, rows_written, bytes_written
    FROM runs
    WHERE finished_at > now() - (:slots::integer + 1) * :width::interval
) AS finished USING (at)
GROUP BY slots.at
ORDER BY slots.at;
