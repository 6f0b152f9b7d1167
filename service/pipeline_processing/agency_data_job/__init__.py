"""The job: one agency's data, from its source through steps to artifacts."""
