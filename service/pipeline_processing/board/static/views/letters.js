// Dead letters: requests that can't be used, with the reason.

import { el } from "../dom.js";
import { commandLine, empty, foreign, loading, panel, table, time } from "../parts.js";

const REDRIVE = "pipeline-processing dead-letters redrive";

export default function open({ get, changed }) {
  let letters = null;
  let before = null; // how many the overview told last

  const load = async () => {
    letters = (await get("dead-letters")).dead_letters;
    changed();
  };
  return {
    title: "Dead letters",
    load,
    on: {
      run: () => false,
      progress: () => false,
      overview(told) {
        if (before !== null && told.dead_letters_recent !== before) load().catch(() => {});
        before = told.dead_letters_recent;
        return false;
      },
    },
    render: () =>
      panel(
        "Requests that couldn't be used",
        { wide: true },
        el(
          "p",
          { class: "hint" },
          "The newest first. The board shows reasons only; the command shows the request itself.",
        ),
        !letters
          ? loading()
          : letters.length
            ? [
                letterTable(letters),
                el(
                  "p",
                  { class: "hint" },
                  "Once the cause is corrected, this sends all of them again; no run is doubled:",
                ),
                commandLine(REDRIVE),
              ]
            : empty("No dead letters."),
      ),
  };
}

function letterTable(letters) {
  return table({
    caption: "Dead letters",
    rows: letters,
    key: (letter) => letter.place,
    columns: [
      { label: "When", cell: (letter) => (Number.isNaN(Date.parse(letter.at)) ? foreign(letter.at) : time(letter.at)) },
      { label: "Reason", cell: (letter) => el("code", {}, foreign(letter.reason)) },
      {
        label: "Message",
        className: "wide main",
        cell: (letter) => el("span", { class: "reason" }, foreign(letter.message)),
      },
      { label: "Came from", cell: (letter) => foreign(`${letter.topic} [${letter.partition}] at ${letter.offset}`) },
      { label: "Show it", cell: (letter) => commandLine(letter.command) },
    ],
  });
}
