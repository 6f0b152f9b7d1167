-- Deliveries of completion events to webhooks. `add_event` in `attempts.sql` adds them.

-- name: configure_webhook
-- Store a webhook, and that a process has it in its settings.
INSERT INTO webhooks (name, states) VALUES (:name, :states::text[])
ON CONFLICT (name) DO UPDATE SET states = excluded.states, configured_at = clock_timestamp();

-- name: forget_webhooks
-- Delete webhooks that no process has had in its settings for that long, and give up their deliveries.
WITH forgotten AS (
    DELETE FROM webhooks WHERE configured_at < clock_timestamp() - :patience::interval RETURNING name
)
UPDATE webhook_deliveries
SET state = 'failed', next_at = NULL, last_error = :error
FROM forgotten
WHERE webhook_deliveries.webhook = forgotten.name AND webhook_deliveries.state = 'pending';

-- name: claim_deliveries
-- The deliveries to a webhook that have been due for longest, claimed until the lease ends. The time is that of the
-- statement, which an index can find.
WITH due AS (
    SELECT event_id, webhook
    FROM webhook_deliveries
    WHERE webhook = :webhook AND state = 'pending' AND next_at <= statement_timestamp()
    ORDER BY next_at
    LIMIT :limit
    FOR NO KEY UPDATE SKIP LOCKED
),
claimed AS (
    UPDATE webhook_deliveries AS delivery
    SET tries = tries + 1,
        first_tried_at = coalesce(first_tried_at, clock_timestamp()),
        next_at = clock_timestamp() + :lease::interval
    FROM due
    WHERE delivery.event_id = due.event_id AND delivery.webhook = due.webhook
    RETURNING delivery.event_id, delivery.tries
)
SELECT outbox.*, claimed.tries FROM claimed JOIN outbox ON outbox.event_id = claimed.event_id ORDER BY outbox.id;

-- name: record_delivery
-- Record the result of a try. A success holds even if the delivery has been claimed again; a failure doesn't.
UPDATE webhook_deliveries
SET state = result.state,
    next_at = CASE WHEN result.state = 'pending' THEN clock_timestamp() + :delay::interval END,
    delivered_at = CASE WHEN result.state = 'delivered' THEN clock_timestamp() END,
    last_status = :status,
    last_error = :error
FROM (
    SELECT CASE
               WHEN :error::text IS NULL THEN 'delivered'
               WHEN :delay::interval IS NULL OR first_tried_at < clock_timestamp() - :patience::interval THEN 'failed'
               ELSE 'pending'
           END AS state
    FROM webhook_deliveries
    WHERE event_id = :event_id AND webhook = :webhook
) AS result
WHERE event_id = :event_id
  AND webhook = :webhook
  AND webhook_deliveries.state = 'pending'
  AND (:error::text IS NULL OR tries = :tries)
RETURNING webhook_deliveries.state;

-- name: delivery_state
-- The state of a delivery.
SELECT state FROM webhook_deliveries WHERE event_id = :event_id AND webhook = :webhook;

-- name: untried_deliveries
-- Whether a delivery to one of these webhooks has never been tried.
SELECT EXISTS (
    SELECT FROM webhook_deliveries WHERE webhook = ANY (:webhooks::text[]) AND state = 'pending' AND tries = 0
);

-- name: deliveries_of_run
-- The deliveries of a run's event.
SELECT * FROM webhook_deliveries WHERE run_id = :run_id ORDER BY webhook COLLATE "C";

-- name: redeliver
-- Make settled deliveries of a run, or all failed ones, due again, as if they had never been tried.
UPDATE webhook_deliveries
SET state = 'pending', next_at = clock_timestamp(), tries = 0, first_tried_at = NULL, delivered_at = NULL
WHERE CASE WHEN :run_id::text IS NULL THEN state = 'failed' ELSE run_id = :run_id AND state <> 'pending' END
  AND (:webhook::text IS NULL OR webhook = :webhook)
  AND webhook IN (SELECT name FROM webhooks)
RETURNING event_id;
