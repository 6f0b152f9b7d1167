-- What lost attempts and failed plans left behind. A lost upload stays lost: fences only rise, and a later attempt
-- starts new uploads.

-- name: runs_to_clean_up
-- Runs with lost uploads, as defined by `lost_uploads`, or with a failed plan; oldest first.
SELECT runs.run_id
FROM runs
WHERE runs.run_id IN (
    SELECT uploads.run_id
    FROM uploads
    JOIN runs AS started ON started.run_id = uploads.run_id
    WHERE CASE started.state
              WHEN 'running' THEN uploads.fence <> started.fence
              WHEN 'prepared' THEN uploads.fence <> started.fence AND NOT uploads.planned
              ELSE true
          END
    UNION
    SELECT plans.run_id
    FROM plans
    JOIN runs AS decided ON decided.run_id = plans.run_id
    WHERE decided.state = 'failed'
)
ORDER BY runs.queued_at, runs.run_id;

-- name: lost_uploads
-- Uploads that will never be completed. Only a prepared run's plan can still be completed, never a failed run's.
SELECT uploads.key, uploads.upload_id, uploads.destination
FROM uploads
JOIN runs ON runs.run_id = uploads.run_id
WHERE runs.run_id = :run_id
  AND CASE runs.state
          WHEN 'running' THEN uploads.fence <> runs.fence
          WHEN 'prepared' THEN uploads.fence <> runs.fence AND NOT uploads.planned
          ELSE true
      END
ORDER BY uploads.created_at, uploads.key, uploads.upload_id;

-- name: lost_of
-- Which of these uploads will never be completed, by position in the list, as defined by `lost_uploads`. An unrecorded
-- upload may belong to a running attempt that is about to record it.
SELECT listed.number
FROM unnest(:keys::text[], :upload_ids::text[]) WITH ORDINALITY AS listed (key, upload_id, number)
CROSS JOIN (
    SELECT state, fence FROM runs WHERE run_id = :run_id
    UNION ALL
    SELECT run ->> 'state', NULL FROM tombstones WHERE run_id = :run_id
) AS owner
LEFT JOIN uploads
    ON uploads.run_id = :run_id AND uploads.key = listed.key AND uploads.upload_id = listed.upload_id
WHERE CASE
          WHEN uploads.run_id IS NULL THEN owner.state <> 'running'
          WHEN owner.state = 'running' THEN uploads.fence <> owner.fence
          WHEN owner.state = 'prepared' THEN uploads.fence <> owner.fence AND NOT uploads.planned
          ELSE true
      END
ORDER BY listed.number;

-- name: forget_uploads
-- Delete the records of uploads that are gone.
DELETE FROM uploads
USING unnest(:keys::text[], :upload_ids::text[]) AS gone (key, upload_id)
WHERE uploads.run_id = :run_id AND uploads.key = gone.key AND uploads.upload_id = gone.upload_id;

-- name: failed_plan
-- The plan of a run that failed after it was prepared.
SELECT plans.plan
FROM plans
JOIN runs ON runs.run_id = plans.run_id
WHERE runs.run_id = :run_id AND runs.state = 'failed';

-- name: forget_failed_plan
-- Delete a failed run's plan, whose objects are gone.
DELETE FROM plans USING runs WHERE plans.run_id = :run_id AND runs.run_id = plans.run_id AND runs.state = 'failed';
