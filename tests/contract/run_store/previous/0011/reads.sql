-- Reads of the run table.

-- name: installation_id
-- The identity of this history.
SELECT installation_id FROM installation;

-- name: get_all
-- Those of these runs that exist or were pruned.
SELECT * FROM runs WHERE run_id = ANY (:run_ids::text[])
UNION ALL
SELECT pruned.*
FROM tombstones
CROSS JOIN jsonb_populate_record(NULL::runs, tombstones.run) AS pruned
WHERE tombstones.run_id = ANY (:run_ids);

-- name: newest
-- Runs, newest first. A null filter matches all runs.
SELECT *
FROM runs
WHERE (:agency_id::bigint IS NULL OR (agency_id = :agency_id AND (agency_key IS NULL OR agency_key = :agency::text)))
  AND (:states::text[] IS NULL OR state = ANY (:states))
  AND (:labels::jsonb IS NULL OR (labels <> '{}' AND labels @> :labels))
  AND (:error_kinds::text[] IS NULL OR (state = 'failed' AND error_kind = ANY (:error_kinds)))
  AND (:requested_by::text IS NULL OR requested_by = :requested_by)
  AND (:text::text IS NULL OR strpos(run_id, :text) > 0)
  AND (:since::timestamptz IS NULL OR queued_at >= :since)
  AND (:until::timestamptz IS NULL OR queued_at < :until)
  AND (:after_time::timestamptz IS NULL OR (queued_at, run_id) < (:after_time, :after_id::text))
ORDER BY queued_at DESC, run_id DESC
LIMIT :limit;

-- name: replays
-- How many replays each of these runs has, pruned ones included.
SELECT replay_of, count(*) AS replays
FROM (
    SELECT replay_of FROM runs WHERE replay_of = ANY (:run_ids::text[])
    UNION ALL
    SELECT replay_of FROM tombstones WHERE replay_of = ANY (:run_ids)
) AS known
GROUP BY replay_of;

-- name: last_success
-- The successful export of an agency's dataset that covers the latest time; among equals, the one that finished last.
SELECT counted.*
FROM run_datasets AS counted
JOIN runs ON runs.run_id = counted.run_id
WHERE counted.agency_id = :agency_id
  AND (runs.agency_key IS NULL OR runs.agency_key = :agency)
  AND counted.dataset = :dataset
  AND counted.covered_until IS NOT NULL
  AND runs.state = 'succeeded'
  AND NOT runs.dry_run
ORDER BY counted.covered_until DESC, runs.finished_at DESC
LIMIT 1;

-- name: datasets
-- The counts of each dataset of a run, in their order.
SELECT * FROM run_datasets WHERE run_id = :run_id ORDER BY number;

-- name: attempts
-- All attempts of a run, oldest first.
SELECT * FROM run_attempts WHERE run_id = :run_id ORDER BY attempt;

-- name: tries
-- The number of attempts that count against the maximum. Not counted: those handed back by a draining worker, those
-- lost together with others, and those that failed for a reason that passes without action.
SELECT attempt - handed_back FROM runs WHERE run_id = :run_id;
