// Uses the generated types as a client does. It is compiled, not run.
import JobRequest from "./JobRequest";
import RunCompletion from "./RunCompletion";
import RunProgress from "./RunProgress";

const request: JobRequest = { agency_id: 123, run_id: null, labels: { team: "billing" }, since: "2026-01-18T10:00:00Z" };
export const value: string = JSON.stringify(request);

export function outcome(completion: RunCompletion): string {
  const place: string = completion.manifest ?? "no manifest";
  switch (completion.state) {
    case "succeeded":
      return `${completion.rows_written} rows of ${completion.agency_id} in ${place}`;
    case "failed":
      return `${completion.error.kind}: ${completion.error.message}`;
    case "cancelled":
      return completion.run_id;
  }
}

export const rowsPerSecond = (progress: RunProgress, seconds: number): number => progress.rows_read / seconds;
