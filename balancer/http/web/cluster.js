// The state of the cluster: figures, charts, raters, stores, tariffs.

import { $, badge, bar, bytes, el, ms, number, rate, seconds, show, table } from "./dom.js";
import { Chart, SPARK, mean, most, sparkline } from "./chart.js";

const KEPT = 300;
const ALL = "all";
const STATES = { working: "good", leaving: "mild", silent: "bad", "no tariff": "bad", "no store": "bad" };
const CALM_S = 5; // how often charts move for who prefers reduced motion

const NOTHING = [0, 0, 0, 0];
const calm = window.matchMedia("(prefers-reduced-motion: reduce)");

export class Cluster {
  constructor() {
    this.history = [];
    this.names = [];
    this.paused = false;
    this.seen = 0;
    const row = (second) => (this.method === ALL ? second.all : second.methods[this.method]) ?? NOTHING;
    this.charts = [
      new Chart({
        title: "Requests", unit: "per second", format: rate, together: mean, least: 10,
        lines: [{ name: "requests", kind: "a", value: (second) => row(second)[0] }],
      }),
      new Chart({
        title: "Latency", unit: "ms", format: rate, together: most, least: 1,
        lines: [
          { name: "p50", kind: "a", value: (second) => row(second)[2] / 1000 },
          { name: "p99", kind: "b", value: (second) => row(second)[3] / 1000 },
        ],
      }),
      new Chart({
        title: "Errors", unit: "per second", format: rate, together: mean, least: 1,
        lines: [{ name: "errors", kind: "c", value: (second) => row(second)[1] }],
      }),
    ];
    $("charts").replaceChildren(...this.charts.map((chart) => chart.node));
    $("method").replaceChildren(el("option", { value: ALL }, "all methods"));
    $("method").addEventListener("change", () => this.drawCharts());
    $("pause").addEventListener("click", () => this.setPaused(!this.paused));
  }

  get method() {
    return $("method").value || ALL;
  }

  setPaused(paused) {
    this.paused = paused;
    $("pause").setAttribute("aria-pressed", String(paused));
    $("pause").textContent = paused ? "Go on" : "Pause";
    if (!paused && this.status) this.draw(this.status);
  }

  begin(status) {
    this.history = status.history ?? [];
    this.draw(status);
    this.drawCharts();
  }

  take(status) {
    if (status.second) this.history = [...this.history, status.second].slice(-KEPT);
    this.seen += 1;
    this.status = status;
    if (this.paused) return;
    this.draw(status);
    if (!calm.matches || this.seen % CALM_S === 0) this.drawCharts();
  }

  drawCharts() {
    for (const chart of this.charts) chart.update(this.history);
  }

  draw(status) {
    this.status = status;
    const names = Object.keys(status.methods);
    if (names.join() !== this.names.join()) {
      const chosen = this.method;
      this.names = names;
      const options = [ALL, ...names].map((name) =>
        el("option", { value: name, selected: name === chosen }, name === ALL ? "all methods" : name),
      );
      $("method").replaceChildren(...options);
    }
    const version = status.version ? `, version ${status.version}` : "";
    show($("about"), `${status.name}${version}, up for ${seconds(status.uptime_s)}`, status.draining && [" ", badge("draining", "mild")]);
    this.drawTiles(status);
    this.drawMethods(status, names);
    this.drawRaters(status.raters);
    this.drawStores(status.raters);
    this.drawRest(status);
  }

  drawTiles({ all, queue, raters, window_s }) {
    const working = raters.filter((rater) => rater.state === "working").length;
    const tile = (name, value, kind = "") => el("div", { class: kind }, el("dt", {}, name), el("dd", {}, value));
    show(
      $("tiles"),
      tile("requests/s", rate(all.answers_per_s)),
      tile("median", ms(all.p50_us)),
      tile("p90", ms(all.p90_us)),
      tile("p99", ms(all.p99_us)),
      tile("errors/s", rate(all.errors_per_s), all.errors_per_s > 0 ? "bad" : ""),
      tile("in flight", number(queue.unanswered), queue.overloaded ? "bad" : ""),
      tile("raters working", `${working} of ${raters.length}`, working < raters.length || !working ? "bad" : ""),
    );
    $("tiles").setAttribute("aria-label", `Means of the last ${window_s} seconds`);
  }

  drawMethods({ methods }, names) {
    if (!names.length) {
      show($("methods"), el("p", { class: "note" }, "No request has come yet."));
      return;
    }
    const recent = this.history.slice(-SPARK);
    const refusals = ([, { outcomes }]) => {
      const found = Object.entries(outcomes).filter(([name, count]) => name !== "ok" && count);
      return found.map(([name, count]) => `${name} ${number(count)}`).join(", ");
    };
    show($("methods"), table("Methods", [
      ["Method", ([name]) => name, { head: true }],
      ["Last minute", ([name]) => sparkline(recent.map((second) => second.methods[name]?.[0] ?? 0))],
      ["Per second", ([, figures]) => rate(figures.answers_per_s), { right: true }],
      ["Median", ([, figures]) => ms(figures.p50_us), { right: true }],
      ["p90", ([, figures]) => ms(figures.p90_us), { right: true }],
      ["p99", ([, figures]) => ms(figures.p99_us), { right: true }],
      ["Errors/s", ([, figures]) => rate(figures.errors_per_s), { right: true }],
      ["Total", ([, figures]) => number(figures.total), { right: true }],
      ["Replays", ([, figures]) => number(figures.replays), { right: true }],
      ["Not ok", refusals, { wide: true }],
    ], Object.entries(methods)));
  }

  drawRaters(raters) {
    if (!raters.length) {
      show($("raters"), el("p", { class: "note" }, "No rater has joined: requests wait until their deadline."));
      return;
    }
    show($("raters"), table("Raters", [
      ["Rater", (rater) => rater.name, { head: true }],
      ["State", (rater) => badge(rater.state, STATES[rater.state] ?? "mild")],
      ["Load", (rater) => bar(rater.busy, `${Math.round(rater.busy * 100)} %`)],
      ["In flight", (rater) => `${number(rater.in_flight)} of ${number(rater.credit)}`, { right: true }],
      ["Speed", (rater) => (rater.speed_per_s ? `${rate(rater.speed_per_s)}/s` : "–"), { right: true }],
      ["Tariff", (rater) => number(rater.tariff_epoch), { right: true }],
      ["Store", (rater) => (rater.store ? ms(rater.store.round_trip_us) : "–"), { right: true }],
      ["Version", (rater) => rater.version || "–", { right: true }],
      ["Heartbeat", (rater) => `${(rater.seen_ms_ago / 1000).toFixed(1)} s ago`, { right: true }],
    ], raters));
  }

  drawStores(raters) {
    const stores = new Map();
    for (const { store, state } of raters) {
      if (!store) continue;
      const known = stores.get(store.url);
      stores.set(store.url, {
        ...store,
        ok: store.ok && (known?.ok ?? true),
        used_memory: Math.max(store.used_memory, known?.used_memory ?? 0),
        round_trip_us: Math.max(store.round_trip_us, known?.round_trip_us ?? 0),
        nodes: sameNodes(known?.nodes ?? [], (state !== "silent" && store.nodes) || []),  // else its word is old
        raters: (known?.raters ?? 0) + 1,
      });
    }
    const blocks = [...stores.values()].map((store) =>
      el("dl", { class: "facts" },
        fact("Address", el("code", {}, store.url || "–")),
        fact("Health", health(store)),
        fact("Memory", memory(store)),
        fact("Slowest round trip", ms(store.round_trip_us)),
        fact("Used by", `${store.raters} ${store.raters === 1 ? "rater" : "raters"}`),
        store.nodes.map((node) => fact(el("code", {}, node.address), node.ok ? holds(node) : badge("does not answer", "bad")))),
    );
    show($("stores"), blocks.length ? blocks : el("p", { class: "note" }, "No rater has told of its store yet."));
  }

  drawRest({ tariffs, queue }) {
    const rows = Object.entries(tariffs);
    show($("tariffs"), rows.length
      ? table("Tariffs", [["Tenant", ([tenant]) => tenant, { head: true }], ["Version", ([, version]) => number(version), { right: true }]], rows, { plain: true })
      : el("p", { class: "note" }, "No tariff is loaded."));
    show($("queue"), el("dl", { class: "facts" },
      fact("Not answered yet", number(queue.unanswered)),
      fact("Of them waiting for a rater", number(queue.waiting)),
      fact("Room for", number(queue.room)),
      fact("Held", bytes(queue.bytes)),
      fact("Turned away", number(queue.turned_away)),
      fact("State", queue.overloaded ? badge("overloaded", "bad") : badge("takes requests", "good"))));
  }
}

// The nodes of a cluster of stores, as two raters see them: away is what one of them misses.
function sameNodes(known, told) {
  const nodes = new Map(known.map((node) => [node.address, node]));
  for (const node of told) {
    const other = nodes.get(node.address) ?? node;
    nodes.set(node.address, {
      address: node.address,
      ok: node.ok && other.ok,
      used_memory: Math.max(node.used_memory, other.used_memory),
      max_memory: Math.max(node.max_memory, other.max_memory),
      replicas: Math.max(node.replicas, other.replicas),
    });
  }
  return [...nodes.values()].sort((one, other) => (one.address < other.address ? -1 : 1));
}

function health({ ok, nodes }) {
  const away = nodes.filter((node) => !node.ok).length;
  if (ok && away) return badge(`${away} of ${nodes.length} nodes ${away === 1 ? "does" : "do"} not answer`, "bad");
  return badge(ok ? "answers" : "does not answer", ok ? "good" : "bad");
}

function memory({ used_memory: used, max_memory: limit }) {
  if (!used) return "–";
  return limit ? bar(used / limit, `${bytes(used)} of ${bytes(limit)}`) : `${bytes(used)}, no limit`;
}

function holds({ used_memory: used, max_memory: limit, replicas }) {
  const share = limit ? `${bytes(used)} of ${bytes(limit)}` : bytes(used);
  return `${share}, ${replicas || "no"} ${replicas === 1 ? "replica" : "replicas"}`;
}

export const fact = (name, value) => el("div", {}, el("dt", {}, name), el("dd", {}, value));
