// One run: what was asked, what happened, what it wrote, and whom it told.

import { el } from "../dom.js";
import { absolute, bytes, count, duration, NOTHING, number, percent, words } from "../format.js";
import {
  agencyLink,
  badge,
  commandLine,
  copyButton,
  empty,
  facts,
  FINISHED,
  foreign,
  holder,
  icon,
  joined,
  json,
  labels,
  panel,
  progress,
  runLink,
  speed,
  table,
  time,
  took,
  written,
} from "../parts.js";
import { timeline } from "../timeline.js";
import { applyProgress, updated } from "./overview.js";

export default function open({ get, changed, reload, id }) {
  let run = null;

  const load = async () => {
    run = await get(`runs/${encodeURIComponent(id)}`);
    changed();
  };
  return {
    title: `Run ${id}`,
    load,
    ticking: () => run && !FINISHED.includes(run.state),
    on: {
      run(update) {
        const replay = run?.replays.some(({ run_id }) => run_id === update.run_id);
        if (update.run_id !== id && !replay) return false;
        if (run && !replay) run = { ...run, ...updated(run, update) };
        reload(); // attempts, artifacts and events have changed, too
      },
      progress(update) {
        if (update.run_id !== id) return false;
        applyProgress(run, update);
      },
      overview: () => false,
    },
    // Events are sent, and webhooks called, after the last change of the run.
    refresh: async () => (run && isTelling(run) ? load() : null),
    render() {
      return run && el("article", { class: "run", "data-key": run.run_id }, parts(run));
    },
  };
}

function isTelling(run) {
  return run.events.some(({ sent }) => !sent) || run.deliveries.some(({ next_at }) => next_at);
}

function parts(run) {
  const active = !FINISHED.includes(run.state);
  return [
    el(
      "p",
      { class: "headline", "data-key": "headline" },
      badge(run.state),
      run.dry_run && el("span", { class: "tag" }, "dry run"),
      el("span", {}, "agency ", agencyLink(run.agency_id)),
      el("span", { class: "quiet" }, foreign(run.job)),
      labels(run),
      copyButton(run.run_id, "Copy the run id"),
    ),
    run.error_kind && failed(run),
    el(
      "ul",
      { class: "figures", "aria-label": "Figures", "data-key": "figures" },
      figure(
        "Duration",
        duration(took(run)),
        run.estimate && active ? ["ends ", time(run.estimate.finishes_at)] : waitedFor(run),
      ),
      figure(
        "Rows written",
        number(run.progress?.rows_written ?? run.rows_written),
        active && run.progress ? speed(run) : run.rows_read !== null && `of ${number(run.rows_read)} read`,
      ),
      figure("Size", written(run), run.artifacts.length > 0 && count(run.artifacts.length, "artifact")),
      figure(
        "Attempt",
        number(run.attempt),
        run.attempts.length > 1 && `${count(run.attempts.length - 1, "earlier try", "earlier tries")}`,
      ),
    ),
    ["running", "prepared"].includes(run.state) &&
      panel("In progress", { wide: true }, progress(run), el("p", { class: "holder" }, holder(run))),
    panel("Timeline", { wide: true }, timeline(run), attempts(run)),
    (active || run.datasets.length > 0 || run.timings.length > 0) &&
      el(
        "div",
        { class: "halves", "data-key": "halves" },
        panel(
          "Rows through each dataset",
          {},
          run.datasets.length
            ? run.datasets.map(flow)
            : empty(active ? "Counted at the end of the run." : "Nothing was exported."),
        ),
        panel(
          "Where the time went",
          {},
          run.timings.length ? stages(run) : empty("Not known before the end of an export."),
        ),
      ),
    panel(
      "Artifacts",
      { wide: true, more: run.artifacts.length > 0 && el("span", { class: "quiet" }, bytes(run.bytes_written)) },
      artifacts(run),
    ),
    el(
      "div",
      { class: "halves", "data-key": "request" },
      panel(
        "Request",
        {},
        request(run),
        Object.keys(run.request).length ? json(run.request, "The request as JSON") : null,
      ),
      panel("Events", {}, events(run), webhooks(run)),
    ),
    (run.replay_of || run.replays.length || run.replay_command) && panel("Replays", { wide: true }, replays(run)),
  ];
}

function figure(label, value, note) {
  return el(
    "li",
    { "data-key": label },
    el(
      "div",
      { class: "figure" },
      el("span", { class: "label-row" }, label),
      el("strong", {}, value),
      el("span", { class: "quiet" }, note || "\u00a0"),
    ),
  );
}

function waitedFor(run) {
  const start = run.attempts[0]?.started_at ?? run.started_at;
  return start ? `waited ${duration(Math.max(0, Date.parse(start) - Date.parse(run.queued_at)))}` : null;
}

function failed(run) {
  return el(
    "section",
    { class: "failure", "aria-label": "Reason", "data-key": "failure" },
    el(
      "p",
      { class: "headline" },
      icon("failed"),
      el(
        "a",
        { href: `#/runs?${new URLSearchParams({ state: "failed", error_kind: run.error_kind })}` },
        el("code", {}, foreign(run.error_kind)),
      ),
    ),
    el("p", { class: "message", tabindex: "0" }, foreign(run.error_message)),
    run.replay_command && [
      el("p", { class: "quiet" }, "Correct the cause, then run it again:"),
      commandLine(run.replay_command),
    ],
  );
}

// -- what happened --------------------------------------------------------------------------------

function attempts(run) {
  if (!run.attempts.length) return null;
  const failing = run.attempts.some((attempt) => attempt.error_kind);
  return table({
    caption: "Attempts",
    rows: run.attempts,
    key: (attempt) => `attempt-${attempt.attempt}`,
    columns: [
      { label: "Attempt", numeric: true, cell: (attempt) => String(attempt.attempt) },
      { label: "Outcome", cell: (attempt) => badge(attempt.outcome) },
      { label: "Started", cell: (attempt) => time(attempt.started_at) },
      { label: "Duration", numeric: true, cell: (attempt) => duration(attempt.duration_ms) },
      {
        label: "Worker",
        cell: (attempt) => foreign(attempt.worker, { class: "foreign worker", title: attempt.worker }),
      },
      ...(failing
        ? [
            {
              label: "Reason",
              className: "wide",
              cell: (attempt) =>
                attempt.error_kind
                  ? [el("code", {}, foreign(attempt.error_kind)), " ", foreign(attempt.error_message ?? "")]
                  : NOTHING,
            },
          ]
        : []),
    ],
  });
}

/** Rows read, and what became of them. The bar shows the shares, the list says the numbers. */
function flow(dataset) {
  const ends = { written: dataset.rows_written, filtered: dataset.rows_filtered, rejected: dataset.rows_rejected };
  return el(
    "section",
    { class: "flow", "aria-label": `Dataset ${dataset.name}`, "data-key": dataset.name },
    el("h3", {}, foreign(dataset.name)),
    el(
      "div",
      { class: "shares", "aria-hidden": "true" },
      Object.entries(ends).map(
        ([name, size]) => size > 0 && el("span", { class: name, style: { "flex-grow": String(size) } }),
      ),
    ),
    el(
      "ol",
      {},
      el("li", {}, el("span", { class: "quiet" }, "read"), el("strong", {}, number(dataset.rows_read))),
      Object.entries(ends).map(([name, size]) =>
        el(
          "li",
          { class: name },
          el("span", { class: "quiet" }, el("span", { class: `swatch ${name}`, "aria-hidden": "true" }), name),
          el("strong", {}, number(size)),
        ),
      ),
    ),
  );
}

const STAGES = ["source", "steps", "format", "upload"]; // as rows pass them

function stages(run) {
  const place = ({ stage }) => (STAGES.includes(stage) ? STAGES.indexOf(stage) : STAGES.length);
  const timings = run.timings.toSorted((a, b) => place(a) - place(b));
  const most = Math.max(...timings.map(({ milliseconds }) => milliseconds), 1);
  const all = timings.reduce((sum, { milliseconds }) => sum + milliseconds, 0) || 1;
  return el(
    "ul",
    { class: "stages" },
    timings.map(({ stage, milliseconds }) =>
      el(
        "li",
        { "data-key": stage },
        el("span", {}, foreign(words(stage))),
        el(
          "span",
          { class: "track", "aria-hidden": "true" },
          el("span", { style: { width: `${(100 * milliseconds) / most}%` } }),
        ),
        el(
          "span",
          { class: "quiet" },
          `${duration(milliseconds)} · ${percent(Math.round((100 * milliseconds) / all) / 100)}`,
        ),
      ),
    ),
  );
}

// -- what it wrote --------------------------------------------------------------------------------

function artifacts(run) {
  const manifest =
    run.manifest_url &&
    el(
      "p",
      { class: "manifest" },
      el("span", { class: "quiet" }, "Manifest"),
      el("code", {}, foreign(run.manifest_url)),
      copyButton(run.manifest_url, "Copy the manifest's address"),
    );
  if (!run.artifacts.length)
    return [
      manifest,
      empty(
        run.dry_run
          ? "A dry run writes nothing."
          : run.state === "succeeded"
            ? "Their list is no longer stored."
            : FINISHED.includes(run.state)
              ? "No object was published."
              : "Nothing is visible before the run is decided.",
      ),
    ];
  return [
    manifest,
    table({
      caption: "Artifacts",
      rows: run.artifacts,
      key: (artifact) => `${artifact.destination}/${artifact.key}`,
      columns: [
        {
          label: "Object",
          className: "main wide",
          cell: (artifact) => [
            foreign(artifact.key.split(`/run_id=${run.run_id}/`).at(-1), { class: "foreign", title: artifact.key }),
            artifact.rejected && el("span", { class: "tag" }, "rejected rows"),
          ],
        },
        { label: "Dataset", cell: (artifact) => foreign(artifact.dataset) },
        { label: "Destination", cell: (artifact) => foreign(artifact.destination) },
        {
          label: "Format",
          cell: (artifact) =>
            joined([artifact.format, artifact.compression === "none" ? [] : artifact.compression].flat()),
        },
        { label: "Rows", numeric: true, cell: (artifact) => number(artifact.rows) },
        { label: "Size", numeric: true, cell: (artifact) => bytes(artifact.bytes) },
        {
          label: "SHA-256",
          cell: (artifact) => el("code", { title: artifact.sha256 }, `${artifact.sha256.slice(0, 12)}…`),
        },
      ],
    }),
  ];
}

// -- what was asked, and who was told -------------------------------------------------------------

function request(run) {
  const from = run.topic !== null && `${run.topic} [${run.partition}] at ${number(run.offset)}`;
  return facts([
    ["Requested by", run.requested_by && foreign(run.requested_by)],
    ["Came from", from ? foreign(from) : "the command line"],
    ["Queued", absolute(run.queued_at)],
    ["Not before", run.not_before && !FINISHED.includes(run.state) && time(run.not_before)],
    ["Priority", run.priority !== 0 && number(run.priority)],
    ["Job config", run.config_id && el("code", { title: run.config_id }, run.config_id.slice(0, 16))],
    ["Trace", ...trace(run)],
    ["Waits for", run.pinned && run.state === "queued" && "a worker with its own job config"],
  ]);
}

function events(run) {
  if (!run.events.length)
    return empty(FINISHED.includes(run.state) ? "No event is stored." : "The event is sent when the run ends.");
  return table({
    caption: "Completion events",
    rows: run.events,
    key: (event) => event.event_id,
    columns: [
      { label: "Event", className: "half", cell: (event) => foreign(event.type) },
      { label: "Stored", cell: (event) => time(event.created_at) },
      {
        label: "Sent",
        cell: (event) =>
          event.sent_at
            ? time(event.sent_at)
            : event.sent
              ? "yes"
              : el("span", { class: "warn" }, icon("warning"), "not yet"),
      },
    ],
  });
}

function webhooks(run) {
  if (!run.deliveries.length) return null;
  return table({
    caption: "Webhooks",
    showCaption: true,
    rows: run.deliveries,
    key: (delivery) => `${delivery.webhook}-${delivery.event_id}`,
    columns: [
      { label: "Webhook", className: "half", cell: (delivery) => foreign(delivery.webhook) },
      { label: "State", cell: (delivery) => badge(delivery.state) },
      { label: "Tries", numeric: true, cell: (delivery) => number(delivery.tries) },
      { label: "Last answer", cell: (delivery) => foreign(delivery.last_error ?? delivery.last_status ?? NOTHING) },
      { label: "Delivered", cell: delivered },
    ],
  });
}

function delivered(delivery) {
  return delivery.next_at ? ["next try ", time(delivery.next_at)] : time(delivery.delivered_at);
}

function trace(run) {
  if (!run.trace_id) return [];
  const id = el("code", {}, run.trace_id);
  // Only such an address becomes a link: another scheme could run code.
  return /^https?:\/\//.test(run.trace_url ?? "")
    ? [el("a", { href: run.trace_url, rel: "noreferrer" }, id)]
    : [id, copyButton(run.trace_id, "Copy the trace id")];
}

function replays(run) {
  return [
    run.replay_of && el("p", {}, "This run repeats ", runLink(run.replay_of), "."),
    run.replays.length > 0 &&
      table({
        caption: "Runs that repeat this one",
        rows: run.replays,
        key: (replay) => replay.run_id,
        columns: [
          { label: "Run", className: "main", cell: (replay) => runLink(replay.run_id) },
          { label: "State", cell: (replay) => badge(replay.state) },
          { label: "Queued", cell: (replay) => time(replay.queued_at) },
        ],
      }),
    run.replay_command && !run.error_kind && commandLine(run.replay_command),
  ];
}
