-- Questions about runs. None of these changes anything.

-- name: installation_id
-- Which history this is.
SELECT installation_id FROM installation;

-- name: now
-- The time of day here.
SELECT clock_timestamp();

-- name: get
-- One run as it stands.
SELECT * FROM runs WHERE run_id = :run_id;

-- name: get_all
-- Those of these runs that there are.
SELECT * FROM runs WHERE run_id = ANY (:run_ids::text[]);

-- name: check
-- Whether a claim still holds: not superseded, given up or cancelled. Time alone doesn't end it here.
SELECT run_id
FROM runs
WHERE run_id = :run_id AND fence = :fence AND state IN ('running', 'prepared') AND lease_expires_at IS NOT NULL;

-- name: tries
-- Attempts that count against the maximum. Those handed back by a draining worker don't, nor those lost beside others,
-- nor those that failed for what is sure to pass.
SELECT attempt - handed_back FROM runs WHERE run_id = :run_id;

-- name: history
-- Runs, newest first.
SELECT *
FROM runs
WHERE (:agency_id::bigint IS NULL OR agency_id = :agency_id)
  AND (:state::text IS NULL OR state = :state)
  AND (:since::timestamptz IS NULL OR queued_at >= :since)
  AND (:until::timestamptz IS NULL OR queued_at < :until)
ORDER BY queued_at DESC, run_id DESC
LIMIT :limit;

-- name: replays
-- How often each of these runs was replayed.
SELECT replay_of, count(*) AS replays FROM runs WHERE replay_of = ANY (:run_ids::text[]) GROUP BY replay_of;

-- name: last_success
-- The successful export of one agency's dataset that covers most; of several, the one that finished last.
SELECT counted.*
FROM run_datasets AS counted
JOIN runs ON runs.run_id = counted.run_id
WHERE counted.agency_id = :agency_id
  AND counted.dataset = :dataset
  AND counted.covered_until IS NOT NULL
  AND runs.state = 'succeeded'
  AND NOT runs.dry_run
ORDER BY counted.covered_until DESC, runs.finished_at DESC
LIMIT 1;

-- name: datasets
-- What one run did of each of its datasets, in their order.
SELECT * FROM run_datasets WHERE run_id = :run_id ORDER BY number;

-- name: attempts
-- All attempts of one run, oldest first.
SELECT * FROM run_attempts WHERE run_id = :run_id ORDER BY attempt;

-- name: events
-- All events of one run, oldest first.
SELECT event_id, value FROM outbox WHERE run_id = :run_id ORDER BY id;

-- name: idle
-- Whether nothing is left to do with this job config. A request that isn't to start yet doesn't count, but a retry that
-- waits does.
SELECT NOT EXISTS (
    SELECT FROM runs
    WHERE state IN ('queued', 'running')
      AND (state = 'running' OR attempt > 0 OR not_before IS NULL OR not_before <= clock_timestamp())
      AND (NOT pinned OR config_id = :config_id)
)
AND NOT EXISTS (SELECT FROM runs WHERE state = 'prepared')
AND NOT EXISTS (SELECT FROM outbox WHERE sent_at IS NULL);

-- name: waiting_for_another_config
-- How many runs are due that only a worker with another job config may export.
SELECT count(*)
FROM runs
WHERE pinned
  AND config_id IS DISTINCT FROM :config_id
  AND (
      (state = 'queued' AND (not_before IS NULL OR not_before <= clock_timestamp()))
      OR (state = 'running' AND lease_expires_at <= clock_timestamp())
  );
