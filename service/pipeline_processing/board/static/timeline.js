// A run's waiting and attempts as bars over time.

import { el } from "./dom.js";
import { absolute, clock, duration, words } from "./format.js";
import { FINISHED } from "./parts.js";
import { now } from "./server.js";

const LOOKS = {
  running: "running",
  prepared: "prepared",
  succeeded: "succeeded",
  failed: "failed",
  lost: "failed",
  cancelled: "cancelled",
};

/** A picture of what the table of attempts says in words; hidden from screen readers. */
export function timeline(run) {
  const start = Date.parse(run.queued_at);
  const end = Math.max(
    run.finished_at && FINISHED.includes(run.state) ? Date.parse(run.finished_at) : now(),
    start + 1,
  );
  const bars = waits(run, start, end);
  for (const attempt of run.attempts) {
    const from = Date.parse(attempt.started_at);
    bars.push({
      row: `attempt ${attempt.attempt}`,
      look: LOOKS[attempt.outcome] ?? "queued",
      says: words(attempt.outcome),
      from,
      to: attempt.finished_at ? Date.parse(attempt.finished_at) : end,
    });
  }
  const rows = Map.groupBy(bars, (bar) => bar.row);
  return el(
    "div",
    { class: "timeline", "aria-hidden": "true" },
    [...rows].map(([name, spans]) =>
      el(
        "div",
        { class: "lane", "data-key": name },
        el("span", { class: "quiet" }, name),
        el(
          "div",
          { class: "track" },
          spans.map((span) => bar(span, start, end)),
        ),
      ),
    ),
    el(
      "div",
      { class: "lane ends" },
      el("span", {}),
      el(
        "div",
        { class: "quiet" },
        el("span", { title: absolute(start) }, clock(start)),
        el("span", {}, duration(end - start)),
        el("span", { title: absolute(end) }, FINISHED.includes(run.state) ? clock(end) : "now"),
      ),
    ),
  );
}

/** The times in which nobody worked on the run. */
function waits(run, start, end) {
  const spans = [];
  let free = start;
  for (const attempt of run.attempts) {
    const from = Date.parse(attempt.started_at);
    if (from > free) spans.push({ row: "waiting", look: "wait", says: "waiting", from: free, to: from });
    free = attempt.finished_at ? Date.parse(attempt.finished_at) : end;
  }
  if (run.state === "queued" && end > free)
    spans.push({ row: "waiting", look: "wait", says: "waiting", from: free, to: end });
  return spans;
}

function bar({ look, says, from, to }, start, end) {
  const left = (100 * (Math.min(from, end) - start)) / (end - start);
  const width = Math.min(100 - left, (100 * Math.max(0, to - from)) / (end - start));
  return el(
    "span",
    {
      class: `span ${look}`,
      title: `${says}: ${duration(Math.max(0, to - from))}`,
      style: { left: `${left}%`, width: `${width}%` },
    },
    el("span", {}, `${says} ${duration(Math.max(0, to - from))}`),
  );
}
