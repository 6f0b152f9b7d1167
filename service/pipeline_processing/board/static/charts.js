// Charts of throughput and durations, drawn by uPlot (vendor/uplot), which is loaded when the first one is shown.

import { el } from "./dom.js";
import { absolute, clock, count, duration, number } from "./format.js";
import { empty, loading, table } from "./parts.js";

const KINDS = {
  runs: { title: "Runs finished", draw: runsOptions },
  durations: { title: "Duration of a run", draw: durationsOptions },
};
const FONT = "12px system-ui, sans-serif";
const DAY = 86_400;

/** `report`: what `/api/v1/throughput` answers, or null while it is loading. */
export function charts(report, { small = false } = {}) {
  if (!report) return loading();
  const { buckets } = report;
  if (!buckets.some(finished)) return empty("No run has finished in this time.");
  const kinds = small ? ["runs"] : Object.keys(KINDS);
  return kinds.map((kind) => figure(kind, report, small));
}

function figure(kind, report, small) {
  return el(
    "figure",
    { class: small ? "chart small" : "chart", "data-key": `chart-${kind}` },
    el("figcaption", {}, el("span", { class: small ? "unseen" : "chart-title" }, KINDS[kind].title), legend(kind)),
    el("div", {
      class: "canvas",
      "data-chart": kind,
      "data-keep": `${kind}-${report.window}`,
      role: "img",
      "aria-label": `${KINDS[kind].title}: ${summary(kind, report)}`,
    }),
    el("p", { class: "readout quiet", "data-keep": `readout-${kind}`, "aria-hidden": "true" }, summary(kind, report)),
  );
}

function legend(kind) {
  const entries =
    kind === "runs"
      ? { succeeded: "succeeded", failed: "failed", cancelled: "cancelled" }
      : { p50: "p50: half took less", p95: "p95: 95 % took less" };
  return el(
    "ul",
    { class: "legend" },
    Object.entries(entries).map(([name, label]) =>
      el("li", {}, el("span", { class: `swatch ${name}`, "aria-hidden": "true" }), label),
    ),
  );
}

function finished(bucket) {
  return bucket.succeeded + bucket.failed + bucket.cancelled;
}

function summary(kind, { buckets }) {
  if (kind === "runs") {
    const sum = (name) => buckets.reduce((total, bucket) => total + bucket[name], 0);
    return `${number(sum("succeeded"))} succeeded, ${number(sum("failed"))} failed, ${number(sum("cancelled"))} cancelled`;
  }
  const last = buckets.findLast((bucket) => bucket.p50_ms !== null);
  return last
    ? `at the end, half of the runs took less than ${duration(last.p50_ms)}, 95 % less than ${duration(last.p95_ms)}`
    : "no run has finished";
}

/** The charts' figures, for those who can't see them. */
export function bucketTable({ buckets }) {
  return table({
    caption: "Finished runs and their durations",
    rows: buckets.filter(finished).reverse(),
    key: (bucket) => bucket.at,
    columns: [
      { label: "From", cell: (bucket) => el("time", { datetime: bucket.at }, absolute(bucket.at)) },
      { label: "Succeeded", numeric: true, cell: (bucket) => number(bucket.succeeded) },
      { label: "Failed", numeric: true, cell: (bucket) => number(bucket.failed) },
      { label: "Cancelled", numeric: true, cell: (bucket) => number(bucket.cancelled) },
      { label: "p50", numeric: true, cell: (bucket) => duration(bucket.p50_ms) },
      { label: "p95", numeric: true, cell: (bucket) => duration(bucket.p95_ms) },
    ],
  });
}

// -- drawing --------------------------------------------------------------------------------------

const drawn = new WeakMap(); // by the element that holds a chart
const dark = matchMedia("(prefers-color-scheme: dark)");
let library = null;
let redraw = () => {};
dark.addEventListener("change", () => redraw());

const resized = new ResizeObserver((entries) => {
  for (const { target, contentRect } of entries) {
    if (contentRect.width) drawn.get(target)?.plot.setSize({ width: contentRect.width, height: heightOf(target) });
  }
});

/** Draw the charts below `root`, or bring them up to date. */
export async function drawCharts(root, report) {
  if (!report || !root.querySelector("[data-chart]")) return;
  library ??= Promise.all([import("./vendor/uplot/uPlot.esm.js"), stylesheet("vendor/uplot/uPlot.min.css")]);
  const [{ default: UPlot }] = await library;
  redraw = () => {
    for (const holder of root.querySelectorAll("[data-chart]")) drawn.get(holder)?.plot.destroy();
    for (const holder of root.querySelectorAll("[data-chart]")) drawn.delete(holder);
    drawCharts(root, report);
  };
  for (const holder of root.querySelectorAll("[data-chart]")) {
    const old = drawn.get(holder);
    if (old?.report === report) continue;
    const data = dataOf(holder.dataset.chart, report.buckets);
    if (old) old.plot.setData(data);
    else {
      const options = KINDS[holder.dataset.chart].draw(UPlot, () => drawn.get(holder).report);
      holder.replaceChildren();
      const plot = new UPlot(
        { ...options, width: holder.clientWidth, height: heightOf(holder), legend: { show: false } },
        data,
        holder,
      );
      drawn.set(holder, { plot, report });
      resized.observe(holder);
    }
    drawn.get(holder).report = report;
    readOut(holder, summary(holder.dataset.chart, report));
  }
}

function stylesheet(path) {
  const link = el("link", { rel: "stylesheet", href: new URL(path, import.meta.url).href });
  document.head.append(link);
  return new Promise((resolve) => link.addEventListener("load", resolve));
}

function heightOf(holder) {
  return holder.closest(".small") ? 130 : 240;
}

/** Bars are stacked: failed runs at the bottom, where they are seen best. The tallest series is drawn first. */
function dataOf(kind, buckets) {
  const times = buckets.map((bucket) => Date.parse(bucket.at) / 1000);
  if (kind === "durations")
    return [times, buckets.map((bucket) => bucket.p50_ms), buckets.map((bucket) => bucket.p95_ms)];
  return [
    times,
    buckets.map(finished),
    buckets.map((bucket) => bucket.failed + bucket.succeeded),
    buckets.map((bucket) => bucket.failed),
  ];
}

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

function options(report, kind, { values, describe, ...more }) {
  const axis = { stroke: colour("quiet"), font: FONT, ticks: { show: false } };
  return {
    cursor: { drag: { x: false, y: false }, points: { show: kind === "durations" } },
    axes: [
      {
        ...axis,
        grid: { show: false },
        space: 70,
        size: 30,
        values: (_, ticks) => ticks.map((tick) => tickLabel(tick, ticks)),
      },
      { ...axis, grid: { stroke: colour("line"), width: 1 }, size: kind === "runs" ? 40 : 64, values },
    ],
    hooks: {
      setCursor: [
        (plot) => {
          const bucket = report().buckets[plot.cursor.idx];
          readOut(
            plot.root.parentElement,
            bucket ? `${absolute(bucket.at)}: ${describe(bucket)}` : summary(kind, report()),
          );
        },
      ],
    },
    padding: [8, 12, 0, 0],
    ...more,
  };
}

/** The first and the last bucket are seen in full. */
function times(report) {
  return (_, first, last) => [first - report().bucket_seconds * 0.6, last + report().bucket_seconds * 0.6];
}

function readOut(holder, text) {
  const place = holder.parentElement?.querySelector(".readout");
  if (place && place.textContent !== text) place.textContent = text;
}

function tickLabel(seconds, ticks) {
  const moment = new Date(seconds * 1000);
  const spansDays = ticks.at(-1) - ticks[0] > 1.5 * DAY;
  return spansDays ? moment.toLocaleDateString("en-GB", { day: "numeric", month: "short" }) : clock(moment).slice(0, 5);
}

function runsOptions(UPlot, report) {
  const paths = UPlot.paths.bars({ size: [0.8, 28], radius: 0.15 });
  const bar = (label, name) => ({
    label,
    fill: colour(name),
    stroke: colour(name),
    width: 0,
    paths,
    points: { show: false },
  });
  return options(report, "runs", {
    series: [{}, bar("cancelled", "cancelled-bar"), bar("succeeded", "succeeded-bar"), bar("failed", "failed-bar")],
    scales: { x: { range: times(report) }, y: { range: (_, least, most) => [0, Math.max(4, most * 1.1)] } },
    values: (_, ticks) => ticks.map((tick) => (Number.isInteger(tick) ? number(tick) : "")),
    describe: (bucket) =>
      `${count(bucket.succeeded, "run")} succeeded, ${number(bucket.failed)} failed, ${number(bucket.cancelled)} cancelled`,
  });
}

function durationsOptions(UPlot, report) {
  const line = (label, name, more) => ({
    label,
    stroke: colour(name),
    width: 2,
    spanGaps: true,
    points: { size: 5 },
    ...more,
  });
  return options(report, "durations", {
    series: [{}, line("p50", "accent"), line("p95", "quiet", { dash: [6, 4] })],
    scales: { x: { range: times(report) }, y: { range: (_, least, most) => [0, Math.max(1000, most * 1.1)] } },
    values: (_, ticks) => ticks.map((tick) => (tick ? duration(tick) : "0")),
    describe: (bucket) =>
      bucket.p50_ms === null
        ? "no run finished"
        : `half took less than ${duration(bucket.p50_ms)}, 95 % less than ${duration(bucket.p95_ms)}`,
  });
}
