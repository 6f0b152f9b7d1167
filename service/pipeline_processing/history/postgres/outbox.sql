-- Unsent completion events.

-- name: is_any_unsent
-- Whether there are any, also if another process is sending them.
SELECT EXISTS (SELECT FROM outbox WHERE sent_at IS NULL);

-- name: take_unsent
-- The oldest events that no other process is sending, locked until the transaction ends. If there are any, the server
-- ends this transaction if the client is then silent for too long: a client that vanished would otherwise keep its
-- events locked for hours.
SELECT id, event_id, run_id, type, key, headers, value,
       coalesce((SELECT asked_again FROM runs WHERE runs.run_id = outbox.run_id),
                (SELECT asked_again FROM tombstones WHERE tombstones.run_id = outbox.run_id)) AS asked_again,
       limited.idleness
FROM (SELECT set_config('idle_in_transaction_session_timeout', :milliseconds::integer::text, true) AS idleness)
    AS limited
CROSS JOIN outbox
WHERE sent_at IS NULL
ORDER BY id
LIMIT :limit
FOR NO KEY UPDATE OF outbox SKIP LOCKED;

-- name: mark_sent
-- Mark events as sent, except those requested again during the sending. The lock on the run's row, which `ask_again`
-- takes as well, decides which came first. An event whose run is locked is being requested again, and so stays unsent.
-- Waiting for it could end in a deadlock: `take_unsent` may also have locked rows that turned out to be sent already.
WITH sent AS (
    SELECT * FROM unnest(:ids::bigint[], :run_ids::text[], :asked_again::integer[]) AS sent (id, run_id, asked_again)
), told AS (
    SELECT sent.id
    FROM sent
    JOIN runs USING (run_id, asked_again)
    ORDER BY runs.run_id COLLATE "C"
    FOR SHARE OF runs SKIP LOCKED
), told_of_pruned AS (
    SELECT sent.id
    FROM sent
    JOIN tombstones USING (run_id, asked_again)
    ORDER BY tombstones.run_id COLLATE "C"
    FOR SHARE OF tombstones SKIP LOCKED
)
UPDATE outbox
SET sent_at = clock_timestamp()
WHERE id IN (SELECT id FROM told UNION ALL SELECT id FROM told_of_pruned);
