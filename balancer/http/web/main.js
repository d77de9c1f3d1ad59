// Which page is shown, who looks at it, and the stream that keeps it up to date.

import { $ } from "./dom.js";
import { ask, follow, keyOf, setKey } from "./api.js";
import { Cluster } from "./cluster.js";
import { Try } from "./try.js";
import { Account } from "./account.js";

const VIEWS = ["cluster", "try", "account"];
const TITLES = { cluster: "Cluster", try: "Try a call", account: "Account" };

const cluster = new Cluster();
const pages = { try: new Try(remember), account: new Account(remember) };
let shown = "";
let written = ""; // the address as the page itself set it
let stream = new AbortController();

// The address says what is looked at, so that it can be shared and gone back to.
function remember(view, params) {
  const hash = `#${view}?${new URLSearchParams(params)}`;
  if (location.hash === hash) return;
  written = hash;
  location.hash = hash;
}

function route() {
  const [name, query] = location.hash.slice(1).split("?", 2);
  const view = VIEWS.includes(name) ? name : "cluster";
  for (const each of VIEWS) {
    $(`view-${each}`).hidden = each !== view;
    const link = document.querySelector(`nav a[data-view="${each}"]`);
    if (each === view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${TITLES[view]} – Ratel`;
  if (view !== shown && shown) window.scrollTo(0, 0);
  shown = view;
  if (location.hash !== written) pages[view]?.open(new URLSearchParams(query ?? ""));
  written = "";
}

function tell(state, text) {
  $("link").dataset.state = state;
  if ($("link-text").textContent !== text) $("link-text").textContent = text; // else it would be read out again
}

function complain(text) {
  $("trouble").textContent = text;
  $("trouble").hidden = !text;
}

async function identify() {
  try {
    const who = await ask("/whoami");
    $("key-button").hidden = !who.Keys;
    const allowed = new Set(who.Methods);
    const mayChange = who.Keys && allowed.has("Account") && allowed.has("History");
    pages.account.allow(
      Boolean(mayChange && allowed.has("DebitBalance") && allowed.has("DebitSMS")),
      Boolean(mayChange && allowed.has("SetTerms")),
    );
    return true;
  } catch (error) {
    if (error.status !== 401) return false;
    $("key-button").hidden = false;
    pages.account.allow(false, false);
    return false;
  }
}

function watch() {
  stream.abort();
  stream = new AbortController();
  tell("wait", "connecting");
  follow("/events", {
    signal: stream.signal,
    async opened() {
      cluster.begin(await ask("/status.json", { history: 1 }));
      complain("");
    },
    event(status) {
      tell(status.draining ? "wait" : "live", status.draining ? "shutting down" : "live");
      cluster.take(status);
    },
    closed(error) {
      if (error?.status === 401 || error?.status === 403) {
        tell("off", "needs a key");
        complain(error.message);
        openKeyForm(true);
      } else {
        tell("off", "no connection, trying again");
      }
    },
  });
}

function openKeyForm(open) {
  $("key-form").hidden = !open;
  $("key-button").hidden = false;
  $("key-button").setAttribute("aria-expanded", String(open));
  $("key").value = keyOf();
}

$("key-button").addEventListener("click", () => {
  openKeyForm($("key-form").hidden);
  if (!$("key-form").hidden) $("key").focus();
});
$("key-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  setKey($("key").value.trim());
  openKeyForm(false);
  await identify();
  watch();
});
$("key-forget").addEventListener("click", async () => {
  setKey("");
  openKeyForm(true);
  await identify();
  watch();
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address belongs to the pages
  $("main").focus();
});

// A page that nobody looks at gives its connection back: a browser has but six for all pages of one gateway.
function attend() {
  if (document.hidden) stream.abort();
  else if (stream.signal.aborted) watch();
}

document.addEventListener("visibilitychange", attend);
window.addEventListener("pagehide", () => stream.abort());
window.addEventListener("pageshow", attend);
window.addEventListener("hashchange", route);
await identify();
route();
watch();
