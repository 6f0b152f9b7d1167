-- Runs that were pruned. Their ids stay taken, and their events stay in the outbox: a message that asks for such a run
-- again is answered as ever.
CREATE TABLE tombstones (
    run_id      text PRIMARY KEY,
    -- The record of `runs`, without nulls and timings.
    run         jsonb NOT NULL,
    replay_of   text,
    asked_again integer NOT NULL DEFAULT 0,
    pruned_at   timestamptz NOT NULL DEFAULT clock_timestamp()
);
-- Replays of a run.
CREATE INDEX tombstones_replays ON tombstones (replay_of) WHERE replay_of IS NOT NULL;
