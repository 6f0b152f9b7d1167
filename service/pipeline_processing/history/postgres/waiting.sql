-- What waits in the queue, and why. All times are compared with now(), which an index can use, unlike clock_timestamp().

-- name: places
-- Queued runs in about the order in which workers claim them: by priority, round robin over agencies, and age. The turns
-- that agencies will have had by then can't be known. Reads the whole queue.
WITH due AS (
    SELECT run_id, agency_id, priority, queued_at,
           row_number() OVER (PARTITION BY agency_id ORDER BY priority DESC, queued_at, run_id) AS turn
    FROM runs
    WHERE state = 'queued' AND (not_before IS NULL OR not_before <= now()) AND NOT pinned
),
placed AS (
    SELECT due.run_id,
           row_number() OVER (
               ORDER BY due.priority DESC, due.turn, agencies.last_claimed_at NULLS FIRST, due.queued_at, due.agency_id
           ) AS place
    FROM due
    JOIN agencies ON agencies.agency_id = due.agency_id
)
SELECT runs.run_id, placed.place
FROM runs
LEFT JOIN placed ON placed.run_id = runs.run_id
WHERE runs.state = 'queued'
  AND (
      :agency_id::bigint IS NULL
      OR (runs.agency_id = :agency_id AND (runs.agency_key IS NULL OR runs.agency_key = :agency::text))
  )
ORDER BY placed.place NULLS LAST, runs.not_before, runs.queued_at, runs.run_id
LIMIT :limit;

-- name: reasons
-- What tells why each of these queued runs waits, oldest first. Reads a few rows of each run's agency.
SELECT runs.*, earlier.run_id AS behind, held.run_ids AS held, failed.error_kind AS last_error, now() AS now
FROM runs
LEFT JOIN LATERAL (
    -- Two searches, each of which ends at the first row that an index gives.
    (
        SELECT run_id
        FROM runs AS same
        WHERE same.agency_id = runs.agency_id
          AND same.priority = runs.priority
          AND (same.queued_at, same.run_id) < (runs.queued_at, runs.run_id)
          AND same.state = 'queued' AND (same.not_before IS NULL OR same.not_before <= now()) AND NOT same.pinned
        ORDER BY same.queued_at DESC, same.run_id DESC
        LIMIT 1
    )
    UNION ALL
    (
        SELECT run_id
        FROM runs AS higher
        WHERE higher.agency_id = runs.agency_id
          AND higher.priority > runs.priority
          AND higher.state = 'queued' AND (higher.not_before IS NULL OR higher.not_before <= now()) AND NOT higher.pinned
        ORDER BY higher.priority, higher.queued_at DESC, higher.run_id DESC
        LIMIT 1
    )
    LIMIT 1
) AS earlier ON NOT runs.pinned AND (runs.not_before IS NULL OR runs.not_before <= now())
CROSS JOIN LATERAL (
    SELECT coalesce(array_agg(run_id ORDER BY started_at, run_id), '{}') AS run_ids
    FROM runs AS holding
    WHERE holding.agency_id = runs.agency_id
      AND holding.state IN ('running', 'prepared')
      AND holding.lease_expires_at > now()
) AS held
LEFT JOIN LATERAL (
    SELECT error_kind
    FROM run_attempts
    WHERE run_attempts.run_id = runs.run_id AND error_kind IS NOT NULL
    ORDER BY attempt DESC
    LIMIT 1
) AS failed ON true
WHERE runs.state = 'queued' AND runs.run_id = ANY (:run_ids::text[])
ORDER BY runs.queued_at, runs.run_id;

-- name: agencies
-- Unfinished runs by agency.
SELECT agency_id, agency_key,
       count(*) FILTER (WHERE state = 'queued' AND NOT later) AS due,
       count(*) FILTER (WHERE state = 'queued' AND later) AS later,
       count(*) FILTER (WHERE state = 'running') AS running,
       count(*) FILTER (WHERE state = 'prepared') AS prepared,
       min(greatest(queued_at, not_before)) FILTER (WHERE state = 'queued' AND NOT later) AS waiting_since
FROM (
    SELECT agency_id, agency_key, state, queued_at, not_before, not_before IS NOT NULL AND not_before > now() AS later
    FROM runs
    WHERE state = 'queued'
    UNION ALL
    SELECT agency_id, agency_key, state, queued_at, not_before, false
    FROM runs
    WHERE state IN ('running', 'prepared')
) AS unfinished
WHERE :agency_id::bigint IS NULL
   OR (agency_id = :agency_id AND (agency_key IS NULL OR agency_key = :agency::text))
GROUP BY agency_id, agency_key
ORDER BY due DESC, later DESC, agency_id, agency_key;
