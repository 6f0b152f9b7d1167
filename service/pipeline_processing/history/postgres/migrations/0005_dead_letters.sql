-- Dead letters that Kafka refuses for good. What came with the request is bytes: it may not be text.
CREATE TABLE dead_letters (
    number        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    put_aside_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    reason        text NOT NULL,
    -- Where the request stands, and its own time: topics are made anew.
    topic         text NOT NULL,
    partition     integer NOT NULL,
    "offset"      bigint NOT NULL,
    timestamp_ms  bigint NOT NULL,
    -- The letter, as it was refused, and the topic that it was for.
    letters_topic text NOT NULL,
    key           bytea,
    value         bytea,
    header_names  bytea[] NOT NULL,
    header_values bytea[] NOT NULL,
    UNIQUE (topic, partition, "offset", timestamp_ms)
);
