"""Fill a migrated run history with runs in every state, as months of work leave it."""

from datetime import timedelta
from typing import Any

from pipeline_processing.postgres.identifiers import quoted

_RUNS = """
INSERT INTO runs (run_id, job, agency_id, state, attempt, fence, worker, lease_expires_at, request, requested_by,
                  labels, replay_of, dry_run, topic, partition, "offset", queued_at, started_at, finished_at,
                  duration_ms, rows_read, rows_written, rows_filtered, rows_rejected, bytes_written, timings,
                  manifest_url, error_kind, error_message, error_retryable, error_exit_code, trace_id, span_id,
                  request_hash, priority)
SELECT format('run-%s', to_char(n, 'FM0000000')), 'agency_data_job', agency_id, state,
       CASE state WHEN 'queued' THEN 0 ELSE 1 END,
       CASE state WHEN 'queued' THEN NULL ELSE n END,
       CASE state WHEN 'queued' THEN NULL ELSE 'worker-1:7:abc' END,
       CASE WHEN state IN ('running', 'prepared') THEN now() + interval '30 seconds' END,
       jsonb_build_object('agency_id', agency_id, 'params', jsonb_build_object('region', 'north')),
       'seed', jsonb_build_object('team', CASE n % 3 WHEN 0 THEN 'billing' ELSE 'reports' END),
       NULL, false, 'agency-jobs.requests', n % 6, n, queued_at,
       CASE state WHEN 'queued' THEN NULL ELSE queued_at + interval '1 second' END,
       CASE WHEN finished THEN queued_at + took END,
       CASE WHEN finished THEN extract(epoch FROM took) * 1000 END,
       CASE WHEN state IN ('prepared', 'succeeded') THEN rows END,
       CASE WHEN state IN ('prepared', 'succeeded') THEN rows END,
       CASE WHEN state IN ('prepared', 'succeeded') THEN 0 END,
       CASE WHEN state IN ('prepared', 'succeeded') THEN 0 END,
       CASE WHEN state IN ('prepared', 'succeeded') THEN rows * 180 END,
       CASE WHEN state = 'succeeded' THEN '{"source": 300, "steps": 120, "upload": 80}'::jsonb END,
       CASE WHEN state = 'succeeded'
            THEN format('s3://exports/agencies/agency_id=%s/run_id=run-%s/_manifest.json', agency_id, n) END,
       CASE WHEN state = 'failed' THEN (ARRAY['step_failed', 'query_failed', 'expectation_failed'])[1 + n % 3] END,
       CASE WHEN state = 'failed' THEN 'Step mask of dataset records failed: no column email' END,
       CASE WHEN state = 'failed' THEN false END,
       CASE WHEN state = 'failed' THEN 1 END,
       md5(n::text), left(md5(n::text), 16), md5(n::text), 0
FROM (
    SELECT n, 1 + n % $2::bigint AS agency_id, 1000 + (n * 7919) % 90000 AS rows, state,
           state IN ('succeeded', 'failed', 'cancelled') AS finished,
           CASE WHEN state IN ('queued', 'running', 'prepared')
                THEN now() - ($1::bigint - n) * interval '2 seconds' - interval '20 seconds'
                ELSE now() - ($1::bigint - n) * $3::interval / $1::bigint - interval '5 minutes' END AS queued_at,
           interval '1 second' * (2 + (n * 104729) % 200) AS took
    FROM (
        SELECT n, CASE WHEN n > $1 - 10 THEN 'running'
                       WHEN n > $1 - 12 THEN 'prepared'
                       WHEN n > $1 - 12 - $4 THEN 'queued'
                       WHEN n % 50 = 0 THEN 'failed'
                       WHEN n % 211 = 0 THEN 'cancelled'
                       ELSE 'succeeded' END AS state
        FROM generate_series(1, $1::bigint) AS n
    ) AS numbered
) AS runs
"""

_ATTEMPTS = """
INSERT INTO run_attempts (run_id, attempt, fence, worker, outcome, started_at, finished_at, error_kind, error_message,
                          trace_id, span_id)
SELECT run_id, attempt, fence, worker, state, started_at, finished_at, error_kind, error_message, trace_id, span_id
FROM runs
WHERE attempt > 0
"""

_DATASETS = """
INSERT INTO run_datasets (run_id, dataset, agency_id, number, rows_read, rows_written, rows_filtered, rows_rejected,
                          covered_until)
SELECT run_id, 'records', agency_id, 0, rows_read, rows_written, rows_filtered, rows_rejected, started_at
FROM runs
WHERE state IN ('prepared', 'succeeded')
"""

_EVENTS = """
INSERT INTO outbox (event_id, run_id, type, key, headers, value, created_at, sent_at)
SELECT run_id || ':' || state, run_id, 'agency.run.' || state, agency_id::text, '{}', '{}', finished_at,
       CASE WHEN finished_at < now() - interval '30 minutes' THEN finished_at END
FROM runs
WHERE finished_at IS NOT NULL
"""


async def fill(
    connection: Any, *, runs: int, agencies: int = 500, queued: int = 200, days: int = 30, schema: str = "pipeline"
) -> None:
    """Insert `runs` runs over `days` days, the newest of them unfinished: `queued` queued, ten running, two decided."""
    await connection.execute(f"SET search_path TO {quoted(schema)}")
    await connection.execute(
        "INSERT INTO agencies (agency_id) SELECT generate_series(1, $1::bigint) ON CONFLICT DO NOTHING", agencies
    )
    await connection.execute(_RUNS, runs, agencies, timedelta(days=days), queued)
    for statement in (_ATTEMPTS, _DATASETS, _EVENTS):
        await connection.execute(statement)
    await connection.execute("VACUUM ANALYZE runs")
