// The choice of a span of time.

import { el } from "./dom.js";

const WINDOWS = { "1h": "1 hour", "24h": "24 hours", "7d": "7 days" };

export function windows(href, chosen) {
  return el(
    "nav",
    { class: "choice", "aria-label": "Window", "data-key": "windows" },
    Object.entries(WINDOWS).map(([window, label]) =>
      el("a", { href: `${href}?window=${window}`, "aria-current": window === chosen ? "true" : null }, label),
    ),
  );
}
