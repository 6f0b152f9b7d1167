-- Removal of old runs.

-- name: limit_waiting
-- Wait at most this long for a lock: writers of runs queue up behind a pruning that waits.
SELECT set_config('lock_timeout', :milliseconds::integer::text, true);

-- name: lock_runs
-- Keep writers of runs out until the transaction ends. An intake that began before could not see the new tombstones, and
-- would queue their ids again.
LOCK TABLE runs IN SHARE ROW EXCLUSIVE MODE;

-- name: judge
-- The next runs that finished before a time, oldest first, each with the reason to keep it; null to prune it.
SELECT old.run_id, old.finished_at,
       CASE
           WHEN EXISTS (SELECT FROM outbox WHERE outbox.run_id = old.run_id AND outbox.sent_at IS NULL)
               THEN 'unsent'
           WHEN EXISTS (SELECT FROM webhook_deliveries AS delivery
                        WHERE delivery.run_id = old.run_id AND delivery.state = 'pending')
               THEN 'undelivered'
           WHEN EXISTS (SELECT FROM uploads WHERE uploads.run_id = old.run_id)
               OR EXISTS (SELECT FROM plans WHERE plans.run_id = old.run_id)
               THEN 'leftovers'
           WHEN EXISTS (SELECT
                        FROM run_datasets AS counted
                        WHERE counted.run_id = old.run_id
                          AND counted.run_id = (
                              -- As in `last_success`.
                              SELECT newest.run_id
                              FROM run_datasets AS newest
                              JOIN runs ON runs.run_id = newest.run_id
                              WHERE newest.agency_id = counted.agency_id
                                AND newest.dataset = counted.dataset
                                AND newest.covered_until IS NOT NULL
                                AND runs.state = 'succeeded'
                                AND NOT runs.dry_run
                              ORDER BY newest.covered_until DESC, runs.finished_at DESC
                              LIMIT 1))
               THEN 'last_success'
       END AS kept
FROM runs AS old
WHERE old.finished_at < :before
  AND (:after_time::timestamptz IS NULL OR (old.finished_at, old.run_id) > (:after_time, :after_id::text))
ORDER BY old.finished_at, old.run_id
LIMIT :limit;

-- name: bury
-- Replace runs by tombstones. Their events stay.
WITH pruned AS (
    DELETE FROM runs WHERE run_id = ANY (:run_ids::text[]) RETURNING runs.*
), attempts AS (
    DELETE FROM run_attempts WHERE run_id = ANY (:run_ids)
), datasets AS (
    DELETE FROM run_datasets WHERE run_id = ANY (:run_ids)
), objects AS (
    DELETE FROM artifacts WHERE run_id = ANY (:run_ids)
), deliveries AS (
    DELETE FROM webhook_deliveries WHERE run_id = ANY (:run_ids)
)
INSERT INTO tombstones (run_id, run, asked_again)
SELECT pruned.run_id,
       (SELECT jsonb_object_agg(key, value)
        FROM jsonb_each(to_jsonb(pruned) - 'timings')
        WHERE value <> 'null'),
       pruned.asked_again
FROM pruned;
