-- What requests from Kafka and their completion events need.

-- W3C `tracestate` of the request, carried through to the completion event.
ALTER TABLE runs ADD COLUMN tracestate text;
-- How often a message has asked for the run since it finished: an event that was being sent at that moment is sent
-- once more.
ALTER TABLE runs ADD COLUMN asked_again integer NOT NULL DEFAULT 0;

-- Replays of a run.
CREATE INDEX runs_replays ON runs (replay_of) WHERE replay_of IS NOT NULL;
-- Whose turn it is: all that it takes to tell, so that 100,000 queued runs need not be looked at themselves. No column
-- of it changes while a run is held, so that renewing a lease still touches no index.
CREATE INDEX runs_queued ON runs (agency_id, priority DESC, queued_at) INCLUDE (not_before) WHERE state = 'queued';
