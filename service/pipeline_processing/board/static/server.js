// What the page knows of the server: its API, its clock, and its stream of events.

/** The server can't answer. The message is for people. */
export class ServerError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

let behind = 0;

/** Milliseconds since 1970 by the server's clock, which all times on the page come from. */
export function now() {
  return Date.now() + behind;
}

/** Set the page's clock by a time that the server has just told. */
export function setClock(told) {
  if (told) behind = Date.parse(told) - Date.now();
}

/**
 * Return the JSON of `/api/v1/<path>`. Of `parameters`, empty ones are left out.
 *
 * Throws ServerError. Without a valid login, the browser goes to the login page.
 */
export async function get(path, parameters = {}, { signal } = {}) {
  const asked = Object.entries(parameters).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const query = asked.length ? `?${new URLSearchParams(asked)}` : "";
  let answer;
  try {
    answer = await fetch(`api/v1/${path}${query}`, { headers: { accept: "application/json" }, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("The board doesn't answer. Is its process still running?", 0);
  }
  if (answer.status === 401) location.assign("login");
  const body = await answer.json().catch(() => null);
  if (!answer.ok) {
    throw new ServerError(body?.detail ?? `The board answered with status ${answer.status}.`, answer.status);
  }
  return body;
}

const FIRST_WAIT = 500;
const LONGEST_WAIT = 15_000;

/**
 * Follow `/api/v1/live` as long as the page can be seen: a browser opens few connections to one server, and tabs in the
 * background would use them up.
 *
 * `onEvent(name, data)` is called for each event, and `onState(state)` with `live`, `paused` or `lost`.
 */
export function follow(names, { onEvent, onState }) {
  let stream = null;
  let timer = null;
  let wait = FIRST_WAIT;

  function open() {
    close();
    stream = new EventSource("api/v1/live");
    stream.addEventListener("open", () => {
      wait = FIRST_WAIT;
      onState("live");
    });
    stream.addEventListener("error", () => {
      // We reconnect ourselves: after some errors, a browser never does.
      close();
      onState("lost");
      get("overview").catch(() => {}); // a stream doesn't tell why it ended: without a session, this asks for the login
      timer = setTimeout(open, wait * (0.8 + 0.4 * Math.random()));
      wait = Math.min(wait * 2, LONGEST_WAIT);
    });
    for (const name of names) {
      stream.addEventListener(name, (event) => onEvent(name, JSON.parse(event.data)));
    }
  }

  function close() {
    clearTimeout(timer);
    stream?.close();
    stream = null;
  }

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      close();
      onState("paused");
    } else {
      open();
    }
  });
  // A page that is kept for the Back button must not hold a connection either.
  addEventListener("pagehide", close);
  addEventListener("pageshow", (event) => event.persisted && open());
  open();
}
