-- What a run did of each of its datasets. Those of dry runs aren't kept.
CREATE TABLE run_datasets (
    run_id        text NOT NULL REFERENCES runs,
    dataset       text NOT NULL,
    agency_id     bigint NOT NULL,
    number        integer NOT NULL, -- their order in the run
    rows_read     bigint NOT NULL,
    rows_written  bigint NOT NULL,
    rows_filtered bigint NOT NULL,
    rows_rejected bigint NOT NULL,
    covered_until timestamptz,
    PRIMARY KEY (run_id, dataset)
);

-- The last success of an agency's dataset: the newest that covers something, whose run has succeeded.
CREATE INDEX run_datasets_covered ON run_datasets (agency_id, dataset, covered_until DESC)
    WHERE covered_until IS NOT NULL;
