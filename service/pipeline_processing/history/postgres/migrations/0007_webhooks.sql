-- Webhooks that are to be told about finished runs. Their URLs and keys are only in the settings.
CREATE TABLE webhooks (
    name          text PRIMARY KEY,
    states        text[] NOT NULL,
    -- When a process last had it in its settings.
    configured_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- One event on its way to one webhook. The name is no foreign key: a delivery outlives its webhook.
CREATE TABLE webhook_deliveries (
    event_id       text NOT NULL REFERENCES outbox (event_id) ON DELETE CASCADE,
    webhook        text NOT NULL,
    run_id         text NOT NULL,
    state          text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'delivered', 'failed')),
    tries          integer NOT NULL DEFAULT 0,
    -- Due, or claimed until then. Null once it is settled.
    next_at        timestamptz DEFAULT clock_timestamp(),
    first_tried_at timestamptz,
    last_status    integer,
    last_error     text,
    delivered_at   timestamptz,
    PRIMARY KEY (event_id, webhook),
    CONSTRAINT due_while_pending CHECK ((next_at IS NOT NULL) = (state = 'pending')),
    CONSTRAINT delivered_at_the_end CHECK ((delivered_at IS NOT NULL) = (state = 'delivered'))
);
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (webhook, next_at) WHERE state = 'pending';
CREATE INDEX webhook_deliveries_by_run ON webhook_deliveries (run_id);
