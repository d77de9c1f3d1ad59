// What the page asks of the gateway that it came from. The API key is kept in this tab and sent in a header.

const KEY = "ratel-api-key";
const LONGEST_PAUSE_MS = 10000;
const SILENCE_MS = 8000; // an event comes each second: after so long without one the connection is dead

export const keyOf = () => sessionStorage.getItem(KEY) ?? "";
export function setKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
}

export class Refused extends Error {
  constructor(status, error) {
    super(error?.message ?? `the gateway answered ${status}`);
    this.status = status;
    this.kind = error?.name ?? "";
  }
}

function headers(more) {
  const key = keyOf();
  return key ? { authorization: `Bearer ${key}`, ...more } : { ...more };
}

async function checked(response) {
  if (response.ok) return response;
  let error = null;
  try {
    error = (await response.json()).error;
  } catch {
    // no JSON: something between here and the gateway has answered
  }
  throw new Refused(response.status, error);
}

export async function ask(path, params = {}, { method = "GET", idempotencyKey = "" } = {}) {
  const query = new URLSearchParams(params).toString();
  const more = idempotencyKey ? { "idempotency-key": idempotencyKey } : {};
  const options = { method, headers: headers(more), cache: "no-store" };
  if (method === "POST") options.body = new URLSearchParams(params);
  let response;
  try {
    response = await fetch(query && method === "GET" ? `${path}?${query}` : path, options);
  } catch {
    throw new Refused(0, { message: "the gateway cannot be reached" });
  }
  return (await checked(response)).json();
}

// Server-sent events by fetch, because EventSource sends no headers. It comes again when the connection ends.
export async function follow(path, { opened, event, closed, signal }) {
  for (let pause = 1000; !signal.aborted; ) {
    const attempt = new AbortController();
    const stop = () => attempt.abort();
    signal.addEventListener("abort", stop);
    let watchdog;
    try {
      const response = await checked(
        await fetch(path, { headers: headers({ accept: "text/event-stream" }), cache: "no-store", signal: attempt.signal }),
      );
      await opened();
      pause = 1000;
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let rest = ""; ; ) {
        watchdog = setTimeout(stop, SILENCE_MS);
        const { done, value } = await reader.read();
        clearTimeout(watchdog);
        if (done) break;
        const parts = (rest + value).split("\n\n");
        rest = parts.pop();
        for (const part of parts) {
          const data = part.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5));
          if (data.length) event(JSON.parse(data.join("\n")));
        }
      }
      closed(null);
    } catch (error) {
      if (signal.aborted) return;
      closed(error);
      if (error instanceof Refused && (error.status === 401 || error.status === 403)) return;
    } finally {
      clearTimeout(watchdog);
      signal.removeEventListener("abort", stop);
    }
    await new Promise((resolve) => setTimeout(resolve, pause));
    pause = Math.min(2 * pause, LONGEST_PAUSE_MS);
  }
}
