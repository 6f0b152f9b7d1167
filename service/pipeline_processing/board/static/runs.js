// Tables of runs.

import { el } from "./dom.js";
import { count, duration, NOTHING } from "./format.js";
import {
  agencyLink,
  badge,
  foreign,
  holder,
  labels,
  progress,
  rows,
  runLink,
  spark,
  speed,
  table,
  time,
  took,
  written,
} from "./parts.js";
import { now } from "./server.js";

/** Runs in progress. */
export function activeTable(runs) {
  return table({
    caption: "Runs in progress",
    rows: runs,
    key: (run) => run.run_id,
    columns: [
      { label: "Run", className: "main", cell: (run) => [runLink(run.run_id), run.dry_run && dry()] },
      { label: "Agency", numeric: true, cell: (run) => agencyLink(run.agency_id) },
      { label: "Progress", className: "wide", cell: progress },
      { label: "Rows", numeric: true, cell: rows },
      { label: "Rows/s", numeric: true, cell: speed },
      { label: "Running for", numeric: true, cell: (run) => duration(took(run)) },
      { label: "Ends", cell: ends },
      { label: "Attempt", numeric: true, cell: (run) => String(run.attempt) },
      { label: "Worker", cell: holder },
    ],
  });
}

function ends(run) {
  if (run.state === "prepared") return el("span", {}, "now");
  const end = run.estimate?.finishes_at;
  if (!end)
    return el(
      "span",
      { title: "The agency has no successful run to compare with, or this one takes longer than usual" },
      NOTHING,
    );
  if (Date.parse(end) < now()) return el("span", {}, "overdue");
  return el(
    "span",
    { class: "estimate", title: `From the agency's last ${count(run.estimate.from_runs, "run")}` },
    "~ ",
    time(end),
  );
}

/** The newest runs, with the durations of their agencies' last runs (a map from agency ids to lists of milliseconds). */
export function recentTable(runs, durations) {
  return table({
    caption: "Recent runs",
    rows: runs,
    key: (run) => run.run_id,
    columns: [
      { label: "Run", className: "main", cell: (run) => [runLink(run.run_id), run.dry_run && dry()] },
      { label: "State", cell: state },
      { label: "Agency", numeric: true, cell: (run) => agencyLink(run.agency_id) },
      { label: "Duration", numeric: true, cell: (run) => duration(took(run)) },
      { label: "Last runs", cell: (run) => spark(durations.get(run.agency_id)) ?? NOTHING },
      { label: "Rows", numeric: true, cell: rows },
      { label: "Changed", cell: (run) => time(run.finished_at ?? run.started_at ?? run.queued_at) },
    ],
  });
}

/** Runs as they were searched for. */
export function foundTable(runs, durations) {
  return table({
    caption: "Runs found, newest first",
    rows: runs,
    key: (run) => run.run_id,
    columns: [
      { label: "Run", className: "main", cell: (run) => [runLink(run.run_id), run.dry_run && dry(), labels(run)] },
      { label: "State", cell: (run) => [state(run), reason(run)] },
      { label: "Agency", numeric: true, cell: (run) => agencyLink(run.agency_id) },
      { label: "Queued", cell: (run) => time(run.queued_at) },
      { label: "Duration", numeric: true, cell: (run) => duration(took(run)) },
      { label: "Last runs", cell: (run) => spark(durations.get(run.agency_id)) ?? NOTHING },
      { label: "Rows", numeric: true, cell: rows },
      { label: "Size", numeric: true, cell: written },
      { label: "Attempt", numeric: true, cell: (run) => String(run.attempt) },
    ],
  });
}

function state(run) {
  const later = run.state === "queued" && run.not_before && Date.parse(run.not_before) > now();
  return [badge(run.state), later && el("span", { class: "quiet" }, "due ", time(run.not_before))];
}

function reason(run) {
  return (
    run.error_kind &&
    el(
      "span",
      { class: "reason", title: run.error_message },
      el("code", {}, foreign(run.error_kind)),
      " ",
      foreign(run.error_message),
    )
  );
}

function dry() {
  return el("span", { class: "tag" }, "dry run");
}
