// Triggers: which events ask for runs, and the windows in which events are being collected.

import { el } from "../dom.js";
import { empty, facts, foreign, joined, loading, panel, table, time, agencyLink } from "../parts.js";
import { number } from "../format.js";

export default function open({ get, changed }) {
  let report = null;

  const load = async () => {
    report = await get("triggers");
    changed();
  };
  return {
    title: "Triggers",
    load,
    refresh: load,
    on: { run: () => false, progress: () => false, overview: () => false },
    render: () => {
      if (!report) return loading();
      if (!report.triggers.length) {
        return panel(
          "Triggers",
          { wide: true },
          empty(
            "No triggers are set up. They are read from the file that PIPELINE_TRIGGERS_FILE names:",
            "pipeline-processing triggers check triggers.yaml",
          ),
        );
      }
      return el("div", { "data-key": "triggers" }, report.triggers.map(trigger));
    },
  };
}

function trigger(trigger) {
  return panel(
    trigger.name,
    { wide: true, key: `trigger-${trigger.name}` },
    facts([
      ["Topic", trigger.topic && foreign(trigger.topic)],
      ["Schedule", trigger.schedule && foreign(trigger.schedule)],
      ["Next tick", trigger.next_at && time(trigger.next_at)],
      [
        "Datasets",
        trigger.datasets?.length &&
          joined(
            trigger.datasets.map((name) => foreign(name)),
            ", ",
          ),
      ],
      ["Debounce", trigger.debounce && foreign(trigger.debounce)],
    ]),
    trigger.windows?.length
      ? table({
          caption: "Open windows",
          showCaption: true,
          rows: trigger.windows,
          key: (window) => `${window.agency_id}-${window.opened_at}`,
          columns: [
            { label: "Agency", numeric: true, cell: (window) => agencyLink(window.agency_id) },
            { label: "Events", numeric: true, cell: (window) => number(window.events) },
            { label: "First event", cell: (window) => time(window.opened_at) },
            { label: "Last event", cell: (window) => time(window.last_event_at) },
            { label: "Asks for a run", cell: (window) => time(window.fires_at) },
          ],
        })
      : empty("No window is open."),
  );
}
