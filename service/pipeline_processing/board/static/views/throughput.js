// Throughput and durations over a window.

import { bucketTable, charts, drawCharts } from "../charts.js";
import { el } from "../dom.js";
import { panel } from "../parts.js";
import { windows } from "../windows.js";

export default function open({ get, changed, parameters }) {
  const window = parameters.get("window") ?? "1h";
  let report = null;

  const load = async () => {
    report = await get("throughput", { window });
    changed();
  };
  return {
    title: "Throughput",
    load,
    refresh: load,
    on: { run: () => false, progress: () => false, overview: () => false },
    rendered: (place) => drawCharts(place, report),
    render() {
      return el(
        "div",
        { "data-key": "throughput" },
        windows("#/throughput", window),
        panel("Finished runs", { wide: true }, charts(report)),
        report &&
          panel(
            "The same as a table",
            { wide: true },
            el("details", {}, el("summary", {}, "Show it"), bucketTable(report)),
          ),
      );
    },
  };
}
