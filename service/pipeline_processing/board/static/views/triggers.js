// Triggers: which events ask for runs, and the windows in which events are being collected.

import { el } from "../dom.js";
import { count, number } from "../format.js";
import { agencyLink, empty, facts, foreign, joined, loading, panel, table, time } from "../parts.js";

export default function open({ get, changed }) {
  let triggers = null;

  const load = async () => {
    triggers = (await get("triggers")).triggers;
    changed();
  };
  return {
    title: "Triggers",
    load,
    refresh: load,
    on: {
      run(run) {
        // The window has asked for its run.
        if (triggers?.some(({ windows }) => windows.some(({ run_id }) => run_id === run.run_id)))
          load().catch(() => {});
        return false;
      },
      progress: () => false,
      overview: () => false,
    },
    render() {
      if (!triggers) return loading();
      if (triggers.length) return el("div", { "data-key": "triggers" }, triggers.map(trigger));
      return panel(
        "No triggers",
        { wide: true },
        empty(
          "A triggers file says which events of upstream services ask for runs. PIPELINE_TRIGGERS_FILE names it. Check one:",
          "pipeline-processing triggers check triggers.yaml",
        ),
      );
    },
  };
}

function trigger(trigger, index) {
  const { windows, windows_open: open, datasets } = trigger;
  return panel(
    foreign(trigger.name),
    {
      wide: true,
      key: `trigger-${index}`,
      more: open > 0 && el("span", { class: "quiet" }, count(open, "open window")),
    },
    facts([
      ["Topic", trigger.topic && foreign(trigger.topic)],
      ["Schedule", trigger.schedule && foreign(trigger.schedule)],
      ["Next tick", trigger.next_at && time(trigger.next_at)],
      [
        "Datasets",
        datasets.length
          ? joined(
              datasets.map((name) => foreign(name)),
              ", ",
            )
          : "all",
      ],
      ["Asks", trigger.debounce && foreign(trigger.debounce)],
    ]),
    windows.length > 0 ? windowTable(windows, open) : trigger.topic && empty("No window is open: no event waits."),
  );
}

function windowTable(windows, open) {
  return table({
    caption: open > windows.length ? `Open windows: the ${windows.length} that ask first` : "Open windows",
    showCaption: true,
    rows: windows,
    key: (window) => window.run_id,
    columns: [
      {
        label: "Next run id",
        className: "main",
        cell: (window) => el("span", { class: "run-id", title: window.run_id }, foreign(window.run_id)),
      },
      { label: "Agency", numeric: true, cell: (window) => agencyLink(window.agency_id) },
      { label: "Events", numeric: true, cell: (window) => number(window.events) },
      { label: "First event", cell: (window) => time(window.opened_at) },
      { label: "Last event", cell: (window) => time(window.last_event_at) },
      { label: "Asks", cell: (window) => time(window.fires_at) },
    ],
  });
}
