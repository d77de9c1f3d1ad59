// A chart of the last five minutes, second by second: lines over time, the newest at the right.

import { el, svg, table } from "./dom.js";

const SPAN = 300; // seconds across
const HEIGHT = 150;
const LEFT = 46;
const BOTTOM = 20;
const TOP = 8;
export const SPARK = 60; // seconds across a small one
const ROW = 10; // seconds that a row of the table sums up

// The least round figure that is not below `value`: 1, 2 or 5 times a power of ten.
function ceiling(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value * 0.999999) ?? value;
}

export class Chart {
  // lines: [{name, kind, value(row)}]; `format` writes a figure; `together` makes one figure of a row's seconds.
  constructor({ title, unit, lines, format, together, least }) {
    Object.assign(this, { title, unit, lines, format, together, least });
    this.rows = [];
    this.plot = svg("svg", { class: "plot", height: HEIGHT, role: "img", focusable: "false" });
    this.latest = el("span", { class: "latest" });
    this.data = el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `${title}, as a table` });
    this.details = el("details", { ontoggle: () => this.draw() }, el("summary", {}, "Data as a table"), this.data);
    const legend = el(
      "ul",
      { class: "legend" },
      lines.map((line) => el("li", {}, el("span", { class: `swatch ${line.kind}`, "aria-hidden": "true" }), line.name)),
    );
    this.node = el(
      "figure",
      { class: "card chart" },
      el("figcaption", {}, el("h2", {}, title, el("small", {}, ` ${unit}`)), lines.length > 1 && legend, this.latest),
      this.plot,
      this.details,
    );
    new ResizeObserver(() => this.draw()).observe(this.node);
  }

  update(rows) {
    this.rows = rows.slice(-SPAN);
    this.draw();
  }

  draw() {
    const width = Math.max(this.plot.clientWidth, 200);
    const rows = this.rows;
    const series = this.lines.map((line) => rows.map(line.value));
    const top = ceiling(Math.max(this.least, ...series.flat()));
    const x = (index) => LEFT + ((SPAN - rows.length + index) / (SPAN - 1)) * (width - LEFT - 4);
    const y = (value) => TOP + (1 - value / top) * (HEIGHT - TOP - BOTTOM);
    const parts = [0, 0.5, 1].map((share) => [
      svg("line", { class: "grid", x1: LEFT, x2: width - 4, y1: y(share * top), y2: y(share * top) }),
      svg("text", { class: "tick", x: LEFT - 6, y: y(share * top) + 4, "text-anchor": "end" }, this.format(share * top)),
    ]);
    for (const minutes of [5, 4, 3, 2, 1, 0]) {
      const at = LEFT + (1 - (minutes * 60) / SPAN) * (width - LEFT - 4);
      const anchor = minutes === 0 ? "end" : minutes === 5 ? "start" : "middle";
      const text = minutes ? `−${minutes} min` : "now";
      if (width > 420 || minutes % 5 === 0 || minutes === 2) {
        parts.push(svg("text", { class: "tick", x: at, y: HEIGHT - 4, "text-anchor": anchor }, text));
      }
    }
    series.forEach((values, which) => {
      const { kind } = this.lines[which];
      const points = values.map((value, index) => `${x(index).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
      if (which === 0 && values.length) {
        const area = `${x(0).toFixed(1)},${y(0)} ${points} ${x(values.length - 1).toFixed(1)},${y(0)}`;
        parts.push(svg("polygon", { class: `area ${kind}`, points: area }));
      }
      parts.push(svg("polyline", { class: `line ${kind}`, points }));
    });
    this.plot.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.plot.replaceChildren(...parts.flat());
    const now = this.lines.map((line, index) => `${line.name} ${this.format(series[index].at(-1) ?? 0)} ${this.unit}`);
    this.plot.setAttribute("aria-label", `${this.title}, the last five minutes; now ${now.join(", ")}`);
    this.latest.textContent = rows.length ? this.format(series[0].at(-1)) : "–";
    if (this.details.open) this.fillTable(series);
  }

  fillTable(series) {
    const count = this.rows.length;
    const groups = [];
    for (let end = count; end > 0; end -= ROW) groups.push([Math.max(0, end - ROW), end]);
    const columns = [
      ["Seconds ago", ([start, end]) => `${count - end}–${count - start}`, { right: true }],
      ...this.lines.map((line, index) => [
        line.name,
        ([start, end]) => this.format(this.together(series[index].slice(start, end))),
        { right: true },
      ]),
    ];
    this.data.replaceChildren(table(`${this.title}, ${this.unit}`, columns, groups, { plain: true }));
  }
}

export const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
export const most = (values) => Math.max(...values);

export function sparkline(values) {
  const top = Math.max(1, ...values);
  const first = SPARK - values.length;
  const points = values.map((value, index) => `${(((first + index) / (SPARK - 1)) * 100).toFixed(1)},${(22 - (value / top) * 20).toFixed(1)}`);
  return svg(
    "svg",
    { class: "spark", viewBox: "0 0 100 24", width: 100, height: 24, "aria-hidden": "true", preserveAspectRatio: "none" },
    svg("polyline", { class: "line a", points: points.join(" ") }),
  );
}
