// Failures grouped by kind.

import { el } from "./dom.js";
import { count, number } from "./format.js";
import { agencyLink, commandLine, empty, foreign, icon, joined, loading, runLink, time } from "./parts.js";

/** `report`: what `/api/v1/failures` answers, or null while it is loading. `most`: how many kinds at most. */
export function failureList(report, { most = Infinity, full = false } = {}) {
  if (!report) return loading();
  const kinds = report.groups.slice(0, most);
  if (!kinds.length) return empty("No run has failed.");
  return el(
    "ul",
    { class: "failures" },
    kinds.map((kind) => failure(kind, full)),
  );
}

function failure(group, full) {
  const { error_kind: kind, run_ids, agency_ids } = group;
  return el(
    "li",
    { "data-key": kind },
    el(
      "div",
      { class: "headline" },
      icon("failed"),
      el(
        "a",
        { href: `#/runs?${new URLSearchParams({ state: "failed", error_kind: kind })}` },
        el("code", {}, foreign(kind)),
      ),
      el(
        "span",
        { class: "quiet" },
        joined(
          [
            count(group.count, "run"),
            count(group.agencies, "agency", "agencies"),
            group.replayed > 0 && `${number(group.replayed)} replayed`,
          ].filter(Boolean),
        ),
      ),
    ),
    full && el("p", {}, group.description),
    el("p", { class: "reason" }, foreign(group.last_message)),
    el(
      "p",
      { class: "quiet" },
      full
        ? [
            "Newest: ",
            joined(run_ids.map(runLink), ", "),
            full && " · agencies ",
            joined(agency_ids.map(agencyLink), ", "),
          ]
        : runLink(run_ids[0]),
      " · last ",
      time(group.last_at),
    ),
    full && commandLine(group.command),
  );
}
