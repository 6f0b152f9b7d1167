-- What comes in from Kafka, and what goes out. Locks are taken in one order, so that nobody ever waits in a circle:
-- agencies by id, new runs by id, finished runs by id, events.

-- name: know_agencies
-- The agencies' rows, before any run refers to them. One that is there isn't touched: a claim may hold it.
INSERT INTO agencies (agency_id)
SELECT DISTINCT asked.agency_id
FROM unnest(:agency_ids::bigint[]) AS asked (agency_id)
WHERE NOT EXISTS (SELECT FROM agencies WHERE agencies.agency_id = asked.agency_id)
ORDER BY asked.agency_id
ON CONFLICT DO NOTHING;

-- name: accept
-- Queue runs, each a microsecond younger than the one before it; one whose id is known gives no row.
WITH start AS MATERIALIZED (
    SELECT clock_timestamp() AS at
)
INSERT INTO runs (run_id, job, agency_id, request, request_hash, requested_by, replay_of, dry_run, priority,
                  not_before, topic, partition, "offset", trace_id, span_id, tracestate, config_id, pinned, queued_at)
SELECT asked.run_id, asked.job, asked.agency_id, asked.request, asked.request_hash, asked.requested_by,
       asked.replay_of, asked.dry_run, asked.priority, asked.not_before, asked.topic, asked.partition, asked."offset",
       asked.trace_id, asked.span_id, asked.tracestate, asked.config_id, asked.pinned,
       start.at + asked.number * interval '1 microsecond'
FROM start,
     unnest(:run_id::text[], :job::text[], :agency_id::bigint[], :request::jsonb[], :request_hash::text[],
            :requested_by::text[], :replay_of::text[], :dry_run::boolean[], :priority::smallint[],
            :not_before::timestamptz[], :topic::text[], :partition::integer[], :offset::bigint[], :trace_id::text[],
            :span_id::text[], :tracestate::text[], :config_id::text[], :pinned::boolean[]) WITH ORDINALITY
         AS asked (run_id, job, agency_id, request, request_hash, requested_by, replay_of, dry_run, priority,
                   not_before, topic, partition, "offset", trace_id, span_id, tracestate, config_id, pinned, number)
ORDER BY asked.run_id COLLATE "C"
ON CONFLICT (run_id) DO NOTHING
RETURNING *;

-- name: ask_again
-- Note that a message asks for these finished runs again.
UPDATE runs
SET asked_again = asked_again + 1
FROM (
    SELECT run_id FROM runs WHERE run_id = ANY (:run_ids::text[]) ORDER BY run_id COLLATE "C" FOR NO KEY UPDATE
) AS asked
WHERE runs.run_id = asked.run_id;

-- name: unsend
-- Put the events of these runs back among the unsent ones. One that is being sent just now isn't waited for: its
-- row says `unsent` until that is done, and then `ask_again` keeps it so. A statement of its own, after that one.
UPDATE outbox SET sent_at = NULL WHERE run_id = ANY (:run_ids::text[]) AND sent_at IS NOT NULL;

-- name: add_event
-- Put an event into the outbox.
INSERT INTO outbox (event_id, run_id, type, key, headers, value)
VALUES (:event_id, :run_id, :type, :key, :headers, :value);

-- name: limit_idleness
-- For this transaction: have the server end it if nothing comes for so long. A client that vanished without a word
-- would keep its events from everybody else for hours.
SELECT set_config('idle_in_transaction_session_timeout', :milliseconds::integer::text, true);

-- name: take_unsent
-- The oldest events that nobody is sending, for this transaction to send.
SELECT id, event_id, run_id, type, key, headers, value,
       (SELECT asked_again FROM runs WHERE runs.run_id = outbox.run_id) AS asked_again
FROM outbox
WHERE sent_at IS NULL
ORDER BY id
LIMIT :limit
FOR NO KEY UPDATE SKIP LOCKED;

-- name: mark_sent
-- Note that these were sent, but those that were asked for again meanwhile. The run's row decides which came first:
-- whoever asks again has to hold it, too.
WITH told AS (
    SELECT sent.id
    FROM unnest(:ids::bigint[], :run_ids::text[], :asked_again::integer[]) AS sent (id, run_id, asked_again)
    JOIN runs ON runs.run_id = sent.run_id
    WHERE runs.asked_again = sent.asked_again
    ORDER BY runs.run_id COLLATE "C"
    FOR SHARE OF runs
)
UPDATE outbox SET sent_at = clock_timestamp() FROM told WHERE outbox.id = told.id;
