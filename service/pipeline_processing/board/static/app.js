// The frame of the page: which view is shown, what the header says, and what comes in live.

import { el, nodes, patch } from "./dom.js";
import { clock, count } from "./format.js";
import { icon, loading, problem, refreshTimes } from "./parts.js";
import { follow, get, now, setClock } from "./server.js";

const VIEWS = [
  [/^\/?$/, () => import("./views/overview.js")],
  [/^\/runs$/, () => import("./views/runs.js")],
  [/^\/runs\/(.+)$/, () => import("./views/run.js")],
  [/^\/failures$/, () => import("./views/failures.js")],
  [/^\/throughput$/, () => import("./views/throughput.js")],
  [/^\/dead-letters$/, () => import("./views/letters.js")],
  [/^\/triggers$/, () => import("./views/triggers.js")],
];
const RENDER_EVERY = 200; // milliseconds, however many events come in
const ANNOUNCE_EVERY = 3000;

const title = document.getElementById("title");
const place = document.getElementById("view");
const search = document.getElementById("q");
const news = document.getElementById("news");

let view = null;
let failure = null;
let connection = "connecting";
let connected = null; // when the stream was last open
let overview = null;
let leaving = new AbortController();

// -- views ----------------------------------------------------------------------------------------

/** Return the path and the parameters in the address: `#/runs?state=failed`. */
function address() {
  const [path, query = ""] = decodeHash().split("?", 2);
  return [path, new URLSearchParams(query)];
}

function decodeHash() {
  return location.hash.startsWith("#/") ? location.hash.slice(1) : "/";
}

async function show() {
  const [path, parameters] = address();
  const [pattern, module] = VIEWS.find(([pattern]) => pattern.test(path)) ?? VIEWS[0];
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  const { hash } = location;
  delete place.dataset.shown;
  place.setAttribute("aria-busy", "true");
  const { default: open } = await module();
  if (signal.aborted) return;
  const first = view === null;
  const before = view?.path;
  view = open({
    parameters,
    id: path.match(pattern)?.[1] ?? "",
    get: (path, asked) => get(path, asked, { signal }),
    changed: () => signal.aborted || render(),
    reload: () => signal.aborted || load(),
    overview: () => overview,
  });
  Object.assign(view, { path, hash });
  failure = null;
  title.textContent = view.title;
  document.title = `${view.title} · pipeline-processing`;
  const q = parameters.get("q") ?? "";
  const typing = document.activeElement === search && search.value.trim() !== q;
  if (!typing) search.value = q;
  const form = place.querySelector("form[data-filters]");
  if (form && hash !== filtered) showFilters(form, parameters);
  for (const link of document.querySelectorAll("#views a")) {
    const current = link.hash === `#${path}` || (link.hash !== "#/" && path.startsWith(`${link.hash.slice(1)}/`));
    if (current) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (before !== path) {
    place.replaceChildren();
    if (!first && !typing) {
      scrollTo(0, 0);
      title.focus({ preventScroll: true }); // tells a screen reader where it is now
    }
  }
  await load();
}

/** Load the view's data, anew if it has some. */
async function load() {
  const shown = view;
  if (!shown) return;
  try {
    render();
    await shown.load();
    shown.loaded = true;
    if (shown === view) failure = null;
  } catch (error) {
    if (error.name === "AbortError" || shown !== view) return;
    failure = error;
  }
  if (shown === view) render();
}

let renderTimer = null;
let lastRender = 0;

function render() {
  if (view === null || renderTimer !== null) return;
  renderTimer = setTimeout(
    () => {
      renderTimer = null;
      lastRender = performance.now();
      patch(place, nodes([failure && problem(failure), view.render() ?? (failure ? null : loading())]));
      view.rendered?.(place);
      if (view.loaded || failure) {
        place.dataset.shown = view.hash;
        place.setAttribute("aria-busy", "false");
      }
    },
    Math.max(0, RENDER_EVERY - (performance.now() - lastRender)),
  );
}

// -- header ---------------------------------------------------------------------------------------

const CONNECTIONS = { connecting: "Connecting", live: "Live", paused: "Paused", lost: "Reconnecting" };

function renderHealth() {
  const away = { history: "History", kafka: "Kafka" };
  const servers = Object.entries(away).map(([name, label]) => {
    const told = overview?.[name];
    const fine = told === "ok" || told?.state === "ok" || told?.ok === true;
    return (
      told &&
      el(
        "li",
        { class: fine ? "fine" : "away", "data-key": name },
        icon(fine ? "succeeded" : "warning"),
        label,
        el("span", { class: fine ? "word" : null }, fine ? " ok" : " away"),
      )
    );
  });
  const live = el(
    "li",
    { class: `live ${connection}`, "data-key": "live", title: connected ? `State of ${clock(connected)}` : null },
    el("span", { class: "dot", "aria-hidden": "true" }),
    CONNECTIONS[connection],
  );
  patch(document.getElementById("health"), nodes([servers, live]));
}

// -- live -----------------------------------------------------------------------------------------

const SETTLED = 2000; // milliseconds in which a new stream tells what has happened before
const ended = { succeeded: 0, failed: 0, cancelled: 0 };
let announced = 0;
let opened = null;

/** Tell a screen reader about finished runs, all of some seconds in one sentence. */
function announce(run) {
  if (!(run.state in ended) || opened === null || performance.now() - opened < SETTLED) return;
  ended[run.state] += 1;
  if (announced) return;
  announced = setTimeout(() => {
    announced = 0;
    const told = Object.entries(ended).filter(([, size]) => size);
    news.textContent = `${told.map(([state, size]) => `${count(size, "run")} ${state}`).join(", ")}.`;
    for (const state of Object.keys(ended)) ended[state] = 0;
  }, ANNOUNCE_EVERY);
}

function onEvent(name, data) {
  if (name === "overview") {
    setClock(data.now);
    overview = data;
    connected = now();
    renderHealth();
  }
  if (name === "run") announce(data);
  if (name === "refetch") return void load();
  if (view?.on?.[name]?.(data) !== false) render();
}

let lost = false;

function onState(state) {
  if (state === connection) return;
  connection = state;
  if (state === "live") {
    opened = performance.now();
    // What happened in between was missed.
    if (lost) load();
    if (lost && news.textContent.startsWith("Connection")) news.textContent = "Connected again.";
    lost = false;
  } else {
    lost = true;
    if (state === "lost") news.textContent = "Connection lost. Reconnecting.";
  }
  renderHealth();
}

// -- what the reader does -------------------------------------------------------------------------

async function copy(button) {
  try {
    await navigator.clipboard.writeText(button.dataset.text);
  } catch {
    // Without HTTPS or permission there is no clipboard: select the text instead.
    const code = button.parentElement.querySelector("code, bdi");
    if (code) getSelection().selectAllChildren(code);
    return;
  }
  button.classList.add("done");
  news.textContent = "Copied.";
  setTimeout(() => button.classList.remove("done"), 1500);
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-action]");
  if (event.target.closest(".skip")) {
    event.preventDefault(); // the fragment names the view
    document.getElementById("main").focus();
  } else if (button?.dataset.action === "copy") copy(button);
  else if (button?.dataset.action === "reload") load();
  else if (button) view.act?.(button.dataset.action, button);
});

document.addEventListener("change", (event) => {
  const form = event.target.form;
  if (form?.dataset.filters !== undefined) submitFilters(form);
});

document.addEventListener("submit", (event) => {
  event.preventDefault();
  if (event.target.id === "search") {
    const q = search.value.trim();
    location.hash = q ? `#/runs?${new URLSearchParams({ q })}` : "#/runs";
  } else submitFilters(event.target);
});

let filtered = null; // the address that the filters have made

/** Put a form's filters into the address, so that a link to it shows the same. */
function submitFilters(form) {
  const chosen = [...new FormData(form)].map(([name, value]) => [name, value.trim()]).filter(([, value]) => value);
  const parameters = new URLSearchParams(chosen);
  filtered = `#${address()[0]}${parameters.size ? `?${parameters}` : ""}`;
  location.hash = filtered;
}

/** Show an address's filters that the form hasn't made itself; what is being typed there stays. */
function showFilters(form, parameters) {
  for (const field of form.elements) if (field.name) field.value = parameters.get(field.name) ?? "";
}

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, textarea, select");
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    search.focus();
    search.select();
  } else if (event.key === "Escape" && event.target === search) search.blur();
});

addEventListener("hashchange", show);
setInterval(() => refreshTimes(document), 5000);
setInterval(() => view?.loaded && view.ticking?.() && render(), 1000);
// Summaries aren't sent live. A page in the background asks for nothing.
setInterval(() => {
  if (view?.refresh && view.loaded && !document.hidden && connection !== "lost") view.refresh().catch(() => {});
}, 15_000);

show();
follow(["overview", "run", "progress", "refetch"], { onEvent, onState });
