-- Removal of old runs.

-- name: limit_waiting
-- Wait at most this long for a lock: writers of runs queue up behind a pruning that waits.
SELECT set_config('lock_timeout', :milliseconds::integer::text, true);

-- name: lock_runs
-- Keep writers of runs out until the transaction ends. An intake that began before could not see the new tombstones, and
-- would queue their ids again.
LOCK TABLE runs IN SHARE ROW EXCLUSIVE MODE;

-- name: judge
-- The next runs that finished before a time, oldest first, each with the reason to keep it; null to prune it. The last
-- success is looked up once for each dataset of an agency, not for each of its runs: many later runs may have failed.
WITH old AS MATERIALIZED (
    SELECT run_id, finished_at, state
    FROM runs
    WHERE finished_at < :before
      AND (:after_time::timestamptz IS NULL OR (finished_at, run_id) > (:after_time, :after_id::text))
    ORDER BY finished_at, run_id
    LIMIT :limit
), covered AS MATERIALIZED (
    SELECT DISTINCT agency_id, dataset
    FROM run_datasets
    WHERE run_id IN (SELECT run_id FROM old WHERE state = 'succeeded') AND covered_until IS NOT NULL
), last AS MATERIALIZED (
    SELECT success.run_id
    FROM covered
    CROSS JOIN LATERAL (
        -- As in `last_success`.
        SELECT counted.run_id
        FROM run_datasets AS counted
        JOIN runs ON runs.run_id = counted.run_id
        WHERE counted.agency_id = covered.agency_id
          AND counted.dataset = covered.dataset
          AND counted.covered_until IS NOT NULL
          AND runs.state = 'succeeded'
          AND NOT runs.dry_run
        ORDER BY counted.covered_until DESC, runs.finished_at DESC
        LIMIT 1
    ) AS success
)
SELECT run_id, finished_at,
       CASE
           WHEN EXISTS (SELECT FROM outbox WHERE outbox.run_id = old.run_id AND outbox.sent_at IS NULL)
               THEN 'unsent'
           WHEN EXISTS (SELECT FROM webhook_deliveries AS delivery
                        WHERE delivery.run_id = old.run_id AND delivery.state = 'pending')
               THEN 'undelivered'
           WHEN EXISTS (SELECT FROM uploads WHERE uploads.run_id = old.run_id)
               OR EXISTS (SELECT FROM plans WHERE plans.run_id = old.run_id)
               THEN 'leftovers'
           WHEN run_id IN (SELECT run_id FROM last)
               THEN 'last_success'
       END AS kept
FROM old
ORDER BY finished_at, run_id;

-- name: bury
-- Replace runs by tombstones. Their events stay, and so do deliveries that were made due again after the judgement.
WITH pruned AS (
    DELETE FROM runs WHERE run_id = ANY (:run_ids::text[]) RETURNING runs.*
), attempts AS (
    DELETE FROM run_attempts WHERE run_id = ANY (:run_ids)
), datasets AS (
    DELETE FROM run_datasets WHERE run_id = ANY (:run_ids)
), objects AS (
    DELETE FROM artifacts WHERE run_id = ANY (:run_ids)
), deliveries AS (
    DELETE FROM webhook_deliveries WHERE run_id = ANY (:run_ids) AND state <> 'pending'
)
INSERT INTO tombstones (run_id, replay_of, run, asked_again)
SELECT pruned.run_id,
       pruned.replay_of,
       (SELECT jsonb_object_agg(key, value)
        FROM jsonb_each(to_jsonb(pruned) - 'timings')
        WHERE value <> 'null'),
       pruned.asked_again
FROM pruned;
