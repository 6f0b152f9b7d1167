// The parts that several views are made of.

import { el, nodes, svg } from "./dom.js";
import { absolute, bytes, count, duration, NOTHING, number, percent, rate, relative, words } from "./format.js";
import { now } from "./server.js";

const ICONS = {
  queued: ["M8 1.8a6.2 6.2 0 1 0 0 12.4A6.2 6.2 0 0 0 8 1.8Z", "M8 4.6V8l2.4 1.6"],
  running: ["M5 3.2v9.6L13 8Z"],
  prepared: ["M2.5 8.2 5.4 11l4-5", "M8 10.6l.6.5 4.9-5.9"],
  succeeded: ["M3 8.6l3.2 3.2L13 4.6"],
  failed: ["M4 4l8 8", "M12 4l-8 8"],
  cancelled: ["M8 1.8a6.2 6.2 0 1 0 0 12.4A6.2 6.2 0 0 0 8 1.8Z", "M4 12 12 4"],
  warning: ["M8 2 14.5 13.5H1.5Z", "M8 6.4v3.2", "M8 11.4v.3"],
  letter: ["M1.8 3.5h12.4v9H1.8Z", "M2 4l6 5 6-5"],
  outbox: ["M2 9.5v3.7h12V9.5", "M8 10V2.6", "M5 5.4l3-2.9 3 2.9"],
  copy: ["M5.5 5.5h8v8h-8Z", "M3.5 10.5h-1v-8h8v1"],
  lag: ["M2 13.5h12", "M3.5 11V8", "M8 11V5", "M12.5 11V2.5"],
};

const OUTCOMES = {
  retrying: "queued",
  handed_back: "queued",
  voided: "cancelled",
  lost: "failed",
  pending: "queued",
  delivered: "succeeded",
};

export function icon(name) {
  const paths = (ICONS[name] ?? ICONS.queued).map((d) => svg("path", { d }));
  return svg("svg", { class: "icon", viewBox: "0 0 16 16", "aria-hidden": "true" }, paths);
}

/** A run's state, or an attempt's outcome: colour, shape and text say the same. */
export function badge(state) {
  const look = OUTCOMES[state] ?? state;
  return el("span", { class: `badge ${look in ICONS ? look : "queued"}` }, icon(look), words(state));
}

/** Text from elsewhere, whose direction must not change that of what is around it. */
export function foreign(text, attributes = {}) {
  return el("bdi", { class: "foreign", ...attributes }, text);
}

/** A moment (ISO 8601) as relative time, with the absolute one as title. */
export function time(moment) {
  if (!moment) return NOTHING;
  return el(
    "time",
    { datetime: moment, title: absolute(moment), "data-relative": "" },
    relative(Date.parse(moment), now()),
  );
}

/** Bring all relative times below `root` up to date. */
export function refreshTimes(root) {
  for (const element of root.querySelectorAll("time[data-relative]")) {
    const text = relative(Date.parse(element.dateTime), now());
    if (element.textContent !== text) element.textContent = text;
  }
}

export function runLink(runId) {
  return el("a", { href: `#/runs/${encodeURIComponent(runId)}`, class: "run-id", title: runId }, foreign(runId));
}

export function agencyLink(agencyId) {
  return el(
    "a",
    { href: `#/runs?agency_id=${encodeURIComponent(agencyId)}`, "aria-label": `Runs of agency ${agencyId}` },
    foreign(String(agencyId)),
  );
}

export function labels(run) {
  const entries = Object.entries(run.labels ?? {});
  if (!entries.length) return null;
  return el(
    "ul",
    { class: "labels", "aria-label": "Labels" },
    entries.map(([name, value]) =>
      el(
        "li",
        {},
        el(
          "a",
          { href: `#/runs?${new URLSearchParams({ label: `${name}=${value}` })}`, class: "label" },
          foreign(`${name}=${value}`),
        ),
      ),
    ),
  );
}

// -- blocks ---------------------------------------------------------------------------------------

/** A part of a view with a heading; `more` is what stands beside the heading. */
export function panel(title, { more = null, key = title, wide = false } = {}, ...children) {
  const id = `panel-${key.toLowerCase().replaceAll(/[^a-z0-9]+/g, "-")}`;
  return el(
    "section",
    { class: wide ? "panel wide" : "panel", "aria-labelledby": id, "data-key": id },
    el("header", {}, el("h2", { id }, title), more),
    children,
  );
}

/** What stands where there is nothing yet. `command` says what to do about it. */
export function empty(text, command = null) {
  return el("div", { class: "empty" }, el("p", {}, text), command && commandLine(command));
}

export function loading() {
  return el("p", { class: "loading" }, "Loading…");
}

export function problem(error, retry = true) {
  return el(
    "div",
    { class: "problem", role: "alert", "data-key": "problem" },
    icon("warning"),
    el("p", {}, foreign(error.message)),
    retry && el("button", { type: "button", "data-action": "reload" }, "Try again"),
  );
}

/** A command with a button that copies it. */
export function commandLine(command) {
  return el(
    "div",
    { class: "command" },
    el("code", { tabindex: "0" }, foreign(command)),
    copyButton(command, "Copy the command"),
  );
}

export function copyButton(text, label = "Copy") {
  return el(
    "button",
    { type: "button", class: "copy", "data-action": "copy", "data-text": text, "aria-label": label, title: label },
    icon("copy"),
  );
}

/** Facts as a list of names and values. Those without a value are left out. */
export function facts(entries) {
  const known = entries.filter(([, value]) => ![null, undefined, "", false, NOTHING].includes(value));
  return el(
    "dl",
    { class: "facts" },
    known.map(([name, ...value]) => el("div", { "data-key": `fact-${name}` }, el("dt", {}, name), el("dd", {}, value))),
  );
}

export function json(value, label) {
  const text = typeof value === "string" ? value : JSON.stringify(value, null, 2);
  return el("pre", { tabindex: "0", role: "region", "aria-label": label }, foreign(text));
}

/**
 * A table that becomes a list of cards on a narrow screen.
 *
 * `columns`: `{label, cell(row), numeric, className}`; `key(row)` recognises a row after a change.
 */
export function table({ caption, columns, rows, key, showCaption = false }) {
  const named = ({ label, numeric, className = "" }) => ({
    class: `${numeric ? "numeric" : ""} ${className}`.trim() || null,
    "data-label": label,
  });
  // A table that is laid out as blocks is no table to a screen reader, unless its roles say so.
  return el(
    "table",
    { role: "table" },
    el("caption", { class: showCaption ? null : "unseen" }, caption),
    el(
      "thead",
      { role: "rowgroup" },
      el(
        "tr",
        { role: "row" },
        columns.map((column) =>
          el("th", { scope: "col", role: "columnheader", ...named(column), "data-label": null }, column.label),
        ),
      ),
    ),
    el(
      "tbody",
      { role: "rowgroup" },
      rows.map((row) =>
        el(
          "tr",
          { role: "row", "data-key": key(row) },
          columns.map((column) => el("td", { role: "cell", ...named(column) }, el("div", {}, column.cell(row)))),
        ),
      ),
    ),
  );
}

// -- runs -----------------------------------------------------------------------------------------

export const ACTIVE = ["running", "prepared"];
export const FINISHED = ["succeeded", "failed", "cancelled"];

/** Milliseconds that a run took, or has taken so far; null before it starts. */
export function took(run) {
  if (run.duration_ms !== null && run.duration_ms !== undefined) return run.duration_ms;
  return run.started_at && !FINISHED.includes(run.state) ? Math.max(0, now() - Date.parse(run.started_at)) : null;
}

/** How far a run is, by the last runs of its agency: from 0 to 1, or null where nobody can say. */
export function fractionDone(run) {
  const end = Date.parse(run.estimate?.finishes_at ?? "");
  const start = Date.parse(run.started_at ?? "");
  if (!(end > now()) || !(end > start)) return null;
  return Math.min(0.99, Math.max(0, (now() - start) / (end - start)));
}

/** A bar that is honest about what it doesn't know, and says in words what the run is doing. */
export function progress(run) {
  const { dataset, stage } = run.progress ?? {};
  const publishing = run.state === "prepared";
  const fraction = publishing ? 1 : fractionDone(run);
  const doing = publishing ? "publishing" : dataset ? [foreign(dataset), stage ? ` · ${stage}` : ""] : "running";
  const late = fraction === null && run.estimate?.finishes_at;
  return el(
    "div",
    { class: "progress" },
    el("progress", {
      max: 100,
      value: fraction === null ? null : Math.round(fraction * 100),
      "aria-label": `Progress of run ${run.run_id}`,
    }),
    el(
      "span",
      { class: "quiet" },
      doing,
      publishing
        ? null
        : fraction === null
          ? late && " · takes longer than usual"
          : ` · ${percent(Math.round(fraction * 100) / 100)}`,
    ),
  );
}

export function rows(run) {
  const source = run.progress ?? run;
  return number(source.rows_written ?? source.rows_read);
}

export function speed(run) {
  return rate(run.progress?.rows_per_second);
}

export function written(run) {
  return bytes(run.progress?.bytes_written ?? run.bytes_written);
}

/** Who has the run, and for how long without a sign of life. */
export function holder(run) {
  if (!run.worker) return NOTHING;
  const left = run.lease_expires_at ? Date.parse(run.lease_expires_at) - now() : null;
  const lease =
    left === null
      ? null
      : left > 0
        ? `lease: ${duration(Math.ceil(left / 1000) * 1000)} left`
        : `lease ended ${time(run.lease_expires_at).textContent}`;
  return [
    foreign(run.worker, { class: "foreign worker", title: run.worker }),
    lease && el("span", { class: left > 0 ? "quiet" : "warn" }, lease),
  ];
}

/** How long the last runs of an agency took, oldest first, as a line, or null. `durations` in milliseconds. */
export function spark(durations) {
  if (!durations || durations.length < 2) return null;
  const [width, height, edge] = [72, 18, 2];
  const most = Math.max(...durations, 1);
  const x = (index) => edge + (index * (width - 2 * edge)) / (durations.length - 1);
  const y = (value) => height - edge - (value / most) * (height - 2 * edge);
  const points = durations.map((value, index) => `${x(index).toFixed(1)},${y(value).toFixed(1)}`);
  const told = `Last ${count(durations.length, "run")} of the agency: ${duration(Math.min(...durations))} to ${duration(most)}`;
  return svg(
    "svg",
    { class: "spark", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": told },
    svg("title", {}, told),
    svg("polyline", { points: points.join(" ") }),
    svg("circle", { cx: points.at(-1).split(",")[0], cy: points.at(-1).split(",")[1], r: 2 }),
  );
}

/** A list of nodes with a separator between them. */
export function joined(items, separator = " · ") {
  return nodes(items).flatMap((node, index) => (index ? [document.createTextNode(separator), node] : [node]));
}
