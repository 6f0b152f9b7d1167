-- Turn requests into runs. To avoid deadlocks, locks are always taken in one order: agencies by id, new runs by id,
-- finished runs by id, events.

-- name: know_agencies
-- Create the agencies' rows before any run refers to them. Existing rows aren't touched, as a claim may hold the lock.
INSERT INTO agencies (agency_id)
SELECT DISTINCT asked.agency_id
FROM unnest(:agency_ids::bigint[]) AS asked (agency_id)
WHERE NOT EXISTS (SELECT FROM agencies WHERE agencies.agency_id = asked.agency_id)
ORDER BY asked.agency_id
ON CONFLICT DO NOTHING;

-- name: accept
-- Queue runs, each a microsecond later than the one before it. Returns no row for a known run id, or a pruned one.
WITH start AS MATERIALIZED (
    SELECT clock_timestamp() AS at
)
INSERT INTO runs (run_id, job, agency_id, agency_key, request, request_hash, requested_by, labels, replay_of,
                  dry_run, priority, not_before, topic, partition, "offset", trace_id, span_id, tracestate, config_id, pinned, queued_at)
SELECT asked.run_id, asked.job, asked.agency_id, asked.agency_key, asked.request, asked.request_hash,
       asked.requested_by, asked.labels, asked.replay_of, asked.dry_run, asked.priority, asked.not_before, asked.topic, asked.partition,
       asked."offset", asked.trace_id, asked.span_id, asked.tracestate, asked.config_id, asked.pinned,
       start.at + asked.number * interval '1 microsecond'
FROM start,
     unnest(:run_id::text[], :job::text[], :agency_id::bigint[], :agency_key::text[], :request::jsonb[],
            :request_hash::text[], :requested_by::text[], :labels::jsonb[], :replay_of::text[], :dry_run::boolean[], :priority::smallint[],
            :not_before::timestamptz[], :topic::text[], :partition::integer[], :offset::bigint[], :trace_id::text[],
            :span_id::text[], :tracestate::text[], :config_id::text[], :pinned::boolean[]) WITH ORDINALITY
         AS asked (run_id, job, agency_id, agency_key, request, request_hash, requested_by, labels, replay_of, dry_run, priority,
                   not_before, topic, partition, "offset", trace_id, span_id, tracestate, config_id, pinned, number)
WHERE NOT EXISTS (SELECT FROM tombstones WHERE tombstones.run_id = asked.run_id)
ORDER BY asked.run_id COLLATE "C"
ON CONFLICT (run_id) DO NOTHING
RETURNING *;

-- name: ask_again
-- Count that a message requests these finished runs again.
WITH pruned AS (
    UPDATE tombstones
    SET asked_again = asked_again + 1
    FROM (
        SELECT run_id FROM tombstones WHERE run_id = ANY (:run_ids::text[]) ORDER BY run_id COLLATE "C"
        FOR NO KEY UPDATE
    ) AS asked
    WHERE tombstones.run_id = asked.run_id
)
UPDATE runs
SET asked_again = asked_again + 1
FROM (
    SELECT run_id FROM runs WHERE run_id = ANY (:run_ids::text[]) ORDER BY run_id COLLATE "C" FOR NO KEY UPDATE
) AS asked
WHERE runs.run_id = asked.run_id;

-- name: unsend
-- Mark the events of these runs unsent. This doesn't wait for an event that is being sent right now: its row is unsent
-- until the sender is done, and then remains so because of `ask_again`, which must run first as a separate statement.
UPDATE outbox SET sent_at = NULL WHERE run_id = ANY (:run_ids::text[]) AND sent_at IS NOT NULL;
