-- The queue of runs and their leases. Times come from clock_timestamp(), as a transaction may have waited for a lock.

-- name: claim_prepared
-- Claim the first prepared run without a lease, under a new fence. The attempt number stays the same.
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
-- The first hundred agencies with a due run and a free place, in the order of their turns. Reads only one run of each
-- waiting agency. The count of leases is a hint here: `claim_due` counts again, under the agency's lock.
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
-- Lock the first of these agencies that no other claim has locked. If the order is cached, an agency must not have had
-- a turn since. A cached order is valid for a second at most, since priorities change as well.
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
-- Lock the agency of one run. Waits for the lock, as no other run can be claimed instead.
SELECT agencies.agency_id
FROM agencies
JOIN runs ON runs.agency_id = agencies.agency_id
WHERE runs.run_id = :run_id AND runs.state IN ('queued', 'running')
FOR NO KEY UPDATE OF agencies;

-- name: claim_due
-- Start the next attempt of the agency's first due run, unless all its places are taken. The agency must have been
-- locked by an earlier statement, so that this one sees what the lock's last holder committed. If the previous attempt
-- is still running, it was lost with its worker, and the run is a suspect from then on. The first time that a run is
-- lost together with others, it may not be the cause, so the attempt doesn't count as a try.
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
-- Extend a lease from now. A lease that was released or has expired can't be renewed: its agency's place may be taken.
UPDATE runs
SET lease_expires_at = clock_timestamp() + :lease::interval
WHERE run_id = :run_id
  AND fence = :fence
  AND state IN ('running', 'prepared')
  AND lease_expires_at > clock_timestamp()
RETURNING run_id;

-- name: check
-- Whether a claim still holds, i.e. isn't superseded, released or cancelled. An expired lease alone doesn't end it.
SELECT run_id
FROM runs
WHERE run_id = :run_id AND fence = :fence AND state IN ('running', 'prepared') AND lease_expires_at IS NOT NULL;

-- name: idle
-- Whether nothing is left to do with this job config. A new run whose `not_before` hasn't come doesn't count, but a run
-- that waits for its next attempt does.
SELECT NOT EXISTS (
    SELECT FROM runs
    WHERE state IN ('queued', 'running')
      AND (state = 'running' OR attempt > 0 OR not_before IS NULL OR not_before <= clock_timestamp())
      AND (NOT pinned OR config_id = :config_id)
)
AND NOT EXISTS (SELECT FROM runs WHERE state = 'prepared')
AND NOT EXISTS (SELECT FROM outbox WHERE sent_at IS NULL);

-- name: waiting_for_another_config
-- The number of due runs that only a worker with another job config may export.
SELECT count(*)
FROM runs
WHERE pinned
  AND config_id IS DISTINCT FROM :config_id
  AND (
      (state = 'queued' AND (not_before IS NULL OR not_before <= clock_timestamp()))
      OR (state = 'running' AND lease_expires_at <= clock_timestamp())
  );

-- name: backlog
-- Unfinished runs and unsent events, and the age of the oldest of each. Indexes have all of it but the start of the runs
-- that are held, which are few. Ages are compared with now(), which an index can use, unlike clock_timestamp().
SELECT
    queued.runs AS queued,
    queued.age AS queued_age,
    held.running,
    held.running_age,
    held.prepared,
    held.prepared_age,
    unsent.events AS unsent,
    unsent.age AS unsent_age
FROM (
    SELECT count(*) AS runs,
           now() - min(greatest(queued_at, not_before)) FILTER (WHERE not_before IS NULL OR not_before <= now()) AS age
    FROM runs
    WHERE state = 'queued'
) AS queued
CROSS JOIN (
    SELECT count(*) FILTER (WHERE state = 'running') AS running,
           now() - min(started_at) FILTER (WHERE state = 'running') AS running_age,
           count(*) FILTER (WHERE state = 'prepared') AS prepared,
           now() - min(started_at) FILTER (WHERE state = 'prepared') AS prepared_age
    FROM runs
    WHERE state IN ('running', 'prepared')
) AS held
CROSS JOIN (SELECT count(*) AS events, now() - min(created_at) AS age FROM outbox WHERE sent_at IS NULL) AS unsent;

-- name: now
-- The database's current time.
SELECT clock_timestamp();
