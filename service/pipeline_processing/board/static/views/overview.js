// What is queued, running, late or failed, at a glance.

import { el } from "../dom.js";
import { count, duration, NOTHING, number } from "../format.js";
import { ACTIVE, empty, icon, joined, panel } from "../parts.js";
import { activeTable, recentTable } from "../runs.js";
import { failureList } from "../failures.js";
import { charts, drawCharts } from "../charts.js";

const RECENT = 15;
const WINDOW = "24h";
const CHART_WINDOW = "1h";
const SUBMIT = "pipeline-processing submit agency_data_job --agency-id 123";

export default function open({ get, changed, overview }) {
  const active = new Map();
  let recent = null;
  let told = null;
  let failures = null;
  let throughput = null;
  let durations = new Map();

  const ask = {
    overview: async () => (told = await get("overview")),
    active: async () => {
      const lists = await Promise.all(ACTIVE.map((state) => get("runs", { state, limit: 100 })));
      active.clear();
      for (const { runs } of lists) for (const run of runs) active.set(run.run_id, run);
    },
    recent: async () => {
      recent = (await get("runs", { limit: RECENT })).runs;
      changed();
      await ask.durations();
    },
    durations: async () => (durations = await agencyDurations(get, recent)),
    failures: async () => (failures = await get("failures", { window: WINDOW })),
    throughput: async () => (throughput = await get("throughput", { window: CHART_WINDOW })),
  };
  const all = (names) => Promise.all(names.map((name) => ask[name]().then(changed)));

  return {
    title: "Overview",
    load: () => all(["overview", "active", "recent", "failures", "throughput"]),
    refresh: () => all(["failures", "throughput", "durations"]),
    ticking: () => active.size > 0,
    rendered: (place) => drawCharts(place, throughput),
    on: {
      run(run) {
        if (ACTIVE.includes(run.state)) active.set(run.run_id, updated(active.get(run.run_id), run));
        else active.delete(run.run_id);
        if (recent) recent = newest(recent, run, RECENT);
      },
      progress(progress) {
        applyProgress(active.get(progress.run_id), progress);
        applyProgress(
          recent?.find(({ run_id }) => run_id === progress.run_id),
          progress,
        );
      },
    },
    render() {
      const now = overview() ?? told;
      if (!now || !recent) return null;
      const running = [...active.values()].sort(
        (a, b) => Date.parse(b.started_at ?? 0) - Date.parse(a.started_at ?? 0),
      );
      return el(
        "div",
        { class: "overview", "data-key": "overview" },
        figures(now),
        panel("In progress", { wide: true }, running.length ? activeTable(running) : empty("Nothing is running.")),
        el(
          "div",
          { class: "columns", "data-key": "columns" },
          panel(
            "Recent runs",
            { more: el("a", { href: "#/runs" }, "All runs") },
            recent.length ? recentTable(recent, durations) : empty("No run yet. Submit one:", SUBMIT),
          ),
          el(
            "div",
            { class: "stack", "data-key": "stack" },
            panel(
              "Last hour",
              { more: el("a", { href: "#/throughput" }, "Throughput") },
              charts(throughput, { small: true }),
            ),
            panel(
              "Failures",
              { more: el("a", { href: "#/failures" }, "Last 24 h") },
              failureList(failures, { most: 4 }),
            ),
          ),
        ),
      );
    },
  };
}

/** Ask how long the last runs of these runs' agencies took. Returns a map from agency ids to lists of milliseconds. */
export async function agencyDurations(get, runs) {
  const ids = [...new Set(runs.map((run) => run.agency_id))].slice(0, 50);
  if (!ids.length) return new Map();
  const { agencies } = await get("durations", { agency_id: ids.map(encodeURIComponent).join(",") });
  return new Map(
    agencies.map(({ agency_id, runs }) => [agency_id, runs.map((run) => run.duration_ms).filter((ms) => ms !== null)]),
  );
}

/** Put a changed run into a list of the newest runs, which were queued last. */
export function newest(runs, run, most = Infinity) {
  const index = runs.findIndex(({ run_id }) => run_id === run.run_id);
  if (index >= 0) return runs.with(index, updated(runs[index], run));
  const queued = Date.parse(run.queued_at);
  const place = runs.findIndex(({ queued_at }) => Date.parse(queued_at) <= queued);
  if (place < 0 && runs.length >= most) return runs;
  return runs.toSpliced(place < 0 ? runs.length : place, 0, run).slice(0, most);
}

/** Return a run that has changed. A process that has just started doesn't know the progress that we know. */
export function updated(old, run) {
  const same = old?.attempt === run.attempt && old.state === "running" && run.state === "running";
  return {
    ...run,
    progress: run.progress ?? (same ? old.progress : null),
    estimate: run.estimate ?? (same ? old.estimate : null),
  };
}

/** Put the data of a `progress` event into its run. Without a new estimate the old one stays, which soon is overdue. */
export function applyProgress(run, { attempt, progress, estimate }) {
  if (!run || run.attempt > attempt) return;
  run.progress = progress;
  run.estimate = estimate ?? (run.attempt === attempt ? run.estimate : null);
}

function figures(now) {
  const { states, finished_last_hour: hour } = now;
  const oldest = now.oldest_waiting;
  return el(
    "ul",
    { class: "figures", "aria-label": "Figures", "data-key": "figures" },
    figure("queued", "Queued", states.queued, "#/runs?state=queued", [
      states.queued > 0 && now.agencies_waiting > 0 && `${count(now.agencies_waiting, "agency", "agencies")}`,
      now.retrying > 0 && `${number(now.retrying)} retrying`,
    ]),
    figure("running", "Running", states.running, "#/runs?state=running", [
      states.prepared > 0 ? `${number(states.prepared)} publishing` : null,
    ]),
    figure("succeeded", "Succeeded", hour.succeeded, "#/runs?state=succeeded", ["last hour"]),
    figure("failed", "Failed", hour.failed, "#/runs?state=failed", [
      "last hour",
      hour.cancelled > 0 && `${number(hour.cancelled)} cancelled`,
    ]),
    figure(
      "warning",
      "Oldest wait",
      oldest ? duration(oldest.seconds * 1000) : NOTHING,
      oldest ? `#/runs/${oldest.run_id}` : null,
      [oldest ? `agency ${oldest.agency_id}` : "nothing waits"],
    ),
    figure("lag", "Lag", number(now.lag?.messages), null, [now.lag ? "requests to accept" : "Kafka is away"]),
    figure("letter", "Dead letters", number(now.dead_letters_recent), "#/dead-letters", ["last 24 h"]),
    figure("outbox", "Outbox", number(now.outbox_unsent), null, [
      now.outbox_unsent > 0 ? `oldest ${duration(now.oldest_unsent_seconds * 1000)}` : "all events sent",
    ]),
  );
}

function figure(state, label, value, href, notes) {
  const shown = typeof value === "number" ? number(value) : value;
  const quiet = joined(notes.filter(Boolean));
  const inside = [
    el("span", { class: "label-row" }, icon(state), label),
    el("strong", {}, shown),
    el("span", { class: "quiet" }, quiet.length ? quiet : "\u00a0"),
  ];
  const look = `figure ${state}${state === "failed" && value > 0 ? " loud" : ""}`;
  return el(
    "li",
    { "data-key": label },
    href ? el("a", { class: look, href }, inside) : el("div", { class: look }, inside),
  );
}
