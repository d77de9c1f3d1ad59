// Elements are made here and nowhere else: text goes in as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export const el = (name, attributes, ...children) => fill(document.createElement(name), attributes, children);
export const svg = (name, attributes, ...children) =>
  fill(document.createElementNS(SVG, name), attributes, children);
export const $ = (id) => document.getElementById(id);

const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 6 });
const short = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

export const number = (value) => (value === null || value === undefined ? "–" : grouped.format(value));
export const rate = (value) => (value >= 1000 ? grouped.format(Math.round(value)) : short.format(value));

export function ms(us) {
  const digits = us < 10_000 ? 2 : us < 100_000 ? 1 : 0;
  return us ? `${(us / 1000).toFixed(digits)} ms` : "–";
}

export function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let power = 0;
  for (; count >= 1024 && power < units.length - 1; power += 1) count /= 1024;
  return `${short.format(count)} ${units[power]}`;
}

export function seconds(value) {
  const whole = Math.floor(value);
  const parts = [Math.floor(whole / 86400), Math.floor(whole / 3600) % 24, Math.floor(whole / 60) % 60, whole % 60];
  const shown = parts.map((part, index) => (part ? `${part} ${"dhms"[index]}` : "")).filter(Boolean).slice(0, 2);
  return shown.join(" ") || `${number(value)} s`;
}

// columns: [heading, cell(row), {right, wide, head}]
export function table(caption, columns, rows, options = {}) {
  const head = columns.map(([heading, , flags]) => el("th", { scope: "col", class: flags?.right && "right" }, heading));
  const body = rows.map((row) =>
    el(
      "tr",
      {},
      columns.map(([heading, cell, flags]) =>
        el(flags?.head ? "th" : "td", {
          class: [flags?.right && "right", flags?.wide && "wide"].filter(Boolean).join(" ") || null,
          scope: flags?.head && "row",
          "data-label": heading,
        }, cell(row)),
      ),
    ),
  );
  return el(
    "table",
    { class: options.plain ? "plain" : "cards" },
    el("caption", { class: "hidden" }, caption),
    el("thead", {}, el("tr", {}, head)),
    el("tbody", {}, body),
  );
}

// Puts new content in place of the old, but for what is the same: focus and scrolling stay where they are.
export function show(node, ...children) {
  const next = el("div", {}, ...children);
  if (node.childNodes.length === next.childNodes.length && node.innerHTML === next.innerHTML) return;
  node.replaceChildren(...next.childNodes);
}

export function bar(share, label) {
  const width = Math.round(Math.min(Math.max(share, 0), 1) * 100);
  const inner = el("span", {});
  inner.style.width = `${width}%`;
  const level = width >= 90 ? "high" : width >= 70 ? "warm" : "fine";
  return el("span", { class: "load" }, el("span", { class: `meter ${level}`, "aria-hidden": "true" }, inner), label);
}

export function badge(text, kind) {
  return el("span", { class: `badge ${kind}` }, text);
}
