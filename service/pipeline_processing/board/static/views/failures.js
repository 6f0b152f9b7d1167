// Failures grouped by kind, with the reason and the command that runs them again.

import { el } from "../dom.js";
import { failureList } from "../failures.js";
import { panel } from "../parts.js";
import { windows } from "../windows.js";

export default function open({ get, changed, parameters }) {
  const window = parameters.get("window") ?? "24h";
  let report = null;

  const load = async () => {
    report = await get("failures", { window });
    changed();
  };
  return {
    title: "Failures",
    load,
    refresh: load,
    on: { run: () => false, progress: () => false, overview: () => false },
    render() {
      return el(
        "div",
        { "data-key": "failures" },
        windows("#/failures", window),
        panel(
          "By kind",
          { wide: true },
          el(
            "p",
            { class: "hint" },
            "A replay is a new run. The commands print what they would ask for; add --execute to act. --failed covers every kind of error.",
          ),
          failureList(report, { full: true }),
        ),
      );
    },
  };
}
