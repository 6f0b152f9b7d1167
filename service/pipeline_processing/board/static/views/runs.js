// Search by agency, run id, state, label and kind of error. The address holds the filters.

import { el } from "../dom.js";
import { count } from "../format.js";
import { ACTIVE, empty, FINISHED, loading, panel, problem } from "../parts.js";
import { foundTable } from "../runs.js";
import { agencyDurations, applyProgress, newest } from "./overview.js";

const PAGE = 50;
const LARGEST_PAGE = 200;
const STATES = ["queued", ...ACTIVE, ...FINISHED];
const FILTERS = ["q", "agency_id", "state", "label", "error_kind", "since", "until"];

export default function open({ get, changed, reload, parameters }) {
  const asked = Object.fromEntries(FILTERS.map((name) => [name, parameters.get(name)]).filter(([, value]) => value));
  let runs = null;
  let cursor = null;
  let loadingMore = false;
  let failure = null; // of the last page
  let added = 0; // runs that came in live since the list was loaded
  let durations = new Map();

  async function load() {
    // What has been loaded stays, as far as one page holds it.
    const limit = Math.min(Math.max(PAGE, runs?.length ?? 0), LARGEST_PAGE);
    const page = await get("runs", { ...query(asked), limit });
    runs = page.runs;
    cursor = page.next_cursor;
    failure = null;
    added = 0;
    changed();
    await refresh();
  }

  async function refresh() {
    durations = await agencyDurations(get, runs);
    changed();
  }

  async function more() {
    if (loadingMore) return;
    loadingMore = true;
    failure = null;
    changed();
    try {
      const after = cursor;
      const page = await get("runs", { ...query(asked), limit: PAGE, cursor });
      if (cursor !== after) return; // the list was loaded anew, and may end elsewhere
      const shown = new Set(runs.map((run) => run.run_id));
      runs = [...runs, ...page.runs.filter((run) => !shown.has(run.run_id))];
      cursor = page.next_cursor;
      await refresh();
    } catch (error) {
      failure = error;
    } finally {
      loadingMore = false;
      changed();
    }
  }

  /** Put a run into the list. None drops out, because the next page begins after the last one. */
  function put(run) {
    const longer = newest(runs, run);
    if (cursor && longer.at(-1) === run) return; // the next page has it
    added += longer.length - runs.length;
    runs = longer;
    if (added < LARGEST_PAGE) return;
    added = 0;
    reload(); // shortens the list
  }

  return {
    title: "Runs",
    load,
    refresh,
    ticking: () => runs?.some((run) => ACTIVE.includes(run.state)),
    act: (action) => action === "more" && more(),
    on: {
      run(run) {
        if (!runs) return;
        const shown = runs.some(({ run_id }) => run_id === run.run_id);
        if (shown && !fits(run, asked)) runs = runs.filter(({ run_id }) => run_id !== run.run_id);
        else if (shown || fits(run, asked)) put(run);
      },
      progress(progress) {
        applyProgress(
          runs?.find(({ run_id }) => run_id === progress.run_id),
          progress,
        );
      },
      overview: () => false,
    },
    render() {
      return el(
        "div",
        { "data-key": "runs" },
        filters(asked),
        panel(
          "Found",
          {
            wide: true,
            more:
              runs && el("span", { class: "quiet" }, cursor ? `the newest ${runs.length}` : count(runs.length, "run")),
          },
          found(runs, durations, asked),
          failure && problem(failure, false),
          cursor &&
            el(
              "button",
              { type: "button", class: "more", "data-action": "more", "aria-busy": String(loadingMore) },
              loadingMore ? "Loading…" : "Load more",
            ),
        ),
      );
    },
  };
}

/** Return the API's parameters. Days are the reader's, and the last one is included. */
function query(asked) {
  const { since, until, ...rest } = asked;
  const day = (value, days) => {
    const start = new Date(`${value}T00:00`);
    if (isNaN(start)) throw new Error(`${value} isn't a day; write it as 2026-01-31.`);
    start.setDate(start.getDate() + days);
    return start.toISOString();
  };
  return { ...rest, since: since && day(since, 0), until: until && day(until, 1) };
}

/** Whether a run that came in live belongs here. Which days it belongs to, only the server tells. */
function fits(run, { q, agency_id, state, label, error_kind, since, until }) {
  const [name, value] = label?.split(/=(.*)/s) ?? [];
  return (
    !since &&
    !until &&
    (!q || run.run_id.includes(q) || run.agency_id === q) &&
    (!agency_id || run.agency_id === agency_id) &&
    (!state || run.state === state) &&
    (!label || run.labels[name] === value) &&
    (!error_kind || run.error_kind === error_kind)
  );
}

function found(runs, durations, asked) {
  if (!runs) return loading();
  if (runs.length) return foundTable(runs, durations);
  if (Object.keys(asked).length) return empty("No run fits these filters. Remove one, or look further back.");
  return empty("No run yet. Submit one:", "pipeline-processing submit agency_data_job --agency-id 123");
}

function filters(asked) {
  const field = (name, label, attributes) =>
    el(
      "div",
      {},
      el("label", { for: `filter-${name}` }, label),
      el("input", { id: `filter-${name}`, name, value: asked[name], autocomplete: "off", ...attributes }),
    );
  return el(
    "form",
    {
      class: "filters",
      role: "search",
      "aria-label": "Filters",
      "data-filters": "",
      "data-key": "filters",
      "data-keep": "filters", // the reader fills it in
    },
    field("q", "Text", { type: "search", placeholder: "run id or agency" }),
    field("agency_id", "Agency", {}),
    el(
      "div",
      {},
      el("label", { for: "filter-state" }, "State"),
      el(
        "select",
        { id: "filter-state", name: "state" },
        el("option", { value: "" }, "any"),
        STATES.map((state) => el("option", { value: state, selected: asked.state === state }, state)),
      ),
    ),
    field("label", "Label", { placeholder: "name=value" }),
    field("error_kind", "Kind of error", { placeholder: "step_failed" }),
    field("since", "From", { type: "date" }),
    field("until", "Until", { type: "date" }),
    el(
      "div",
      { class: "buttons" },
      el("button", { type: "submit" }, "Search"),
      el("a", { class: "button", href: "#/runs" }, "Clear"),
    ),
  );
}
