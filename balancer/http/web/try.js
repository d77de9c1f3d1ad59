// A call tried out: what Explain says of it, as a timeline of spans and the reasons behind it.

import { $, badge, el, number, seconds, show, table } from "./dom.js";
import { ask } from "./api.js";
import { fact } from "./cluster.js";

const KINDS = { ok: "good", no_credit: "mild", no_rate: "bad", not_active: "bad", blocked: "bad" };
const VERDICTS = {
  ok: "has a price", no_credit: "too little credit", no_rate: "no rate", not_active: "rate not active yet", blocked: "account blocked",
};
const SHADES = 5;
const FIELDS = ["cstmid", "subj", "dest", "start", "duration", "amount"];
const TRIED_SHOWN = 12;

const cents = (value) => `${number(value)} ${value === 1 ? "cent" : "cents"}`;
const clock = (local) => local.slice(11, 19);
const price = (interval) => `${number(interval.Price)} per ${number(interval.BillingUnit)} s`;

export class Try {
  constructor(remember) {
    this.remember = remember;
    this.asked = 0;
    $("try-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.explain(true);
    });
  }

  open(params) {
    for (const name of FIELDS) if (params.has(name)) $(`try-${name}`).value = params.get(name);
    if (params.get("cstmid") && params.get("subj") && params.get("dest")) this.explain(false);
  }

  async explain(focus) {
    const params = {};
    for (const name of FIELDS) {
      const value = $(`try-${name}`).value.trim();
      if (value) params[name] = value;
    }
    this.remember("try", params);
    if (params.start) params.start = `${params.start.length === 16 ? `${params.start}:00` : params.start}Z`;
    this.asked += 1;
    const turn = this.asked;
    $("try-note").hidden = true;
    try {
      const answer = await ask("/explain", params);
      if (turn !== this.asked) return;
      show($("try-result"), ...render(answer));
    } catch (error) {
      if (turn !== this.asked) return;
      show($("try-result"));
      $("try-note").textContent = error.message;
      $("try-note").hidden = false;
    }
    if (focus) $("try-result").focus({ preventScroll: true });
  }
}

function render(answer) {
  return [
    el("div", { class: `card verdict ${KINDS[answer.Verdict] ?? "mild"}` },
      el("p", { class: "price" },
        el("strong", {}, answer.Cost === null ? "–" : number(answer.Cost)), answer.Cost === null ? "" : " cents",
        answer.ConnectFee ? el("span", {}, ` + ${cents(answer.ConnectFee)} connect fee`) : null),
      el("p", {}, badge(VERDICTS[answer.Verdict] ?? answer.Verdict, KINDS[answer.Verdict] ?? "mild"), " ", answer.Message),
      el("p", { class: "note" }, `${answer.CstmId}: ${answer.Subject} to ${answer.DestinationPrefix}, ${answer.TimeStart} to ${answer.TimeEnd}`)),
    answer.Timespans.length ? spans(answer) : null,
    el("div", { class: "pair" }, session(answer.MaxSessionTime), rates(answer.Rate)),
    answer.Account || answer.Buckets.length ? el("div", { class: "pair" }, answer.Account && account(answer), answer.Buckets.length && buckets(answer.Buckets)) : null,
  ].filter(Boolean);
}

// What priced a span: the same colour for the same bucket or price.
function pricedBy(span) {
  if (span.Bucket !== null) return `bucket ${span.Bucket}`;
  return span.Interval ? price(span.Interval) : "no price";
}

function spans(answer) {
  const kinds = [...new Set(answer.Timespans.map(pricedBy))];
  const shade = (span) => `shade-${kinds.indexOf(pricedBy(span)) % SHADES}`;
  const segments = answer.Timespans.map((span) => {
    const item = el("li", { class: shade(span) },
      el("span", { class: "block", title: `${clock(span.LocalStart)} ${pricedBy(span)}: ${cents(span.Cost)}` },
        el("b", {}, number(span.Cost)), el("span", {}, ` ${pricedBy(span)}`)),
      el("time", { datetime: span.TimeStart }, clock(span.LocalStart)));
    item.style.flexGrow = String(Math.max(span.Seconds, 0.001));
    return item;
  });
  const last = answer.Timespans.at(-1);
  return el("div", { class: "card" },
    el("h2", {}, "Timeline"),
    el("ol", { class: "timeline", "aria-label": "Spans of the call, as wide as they are long" }, segments),
    el("p", { class: "timeline-end" }, answer.MoreTimespans ? `… and ${number(answer.MoreTimespans)} more spans` : clock(last.LocalEnd)),
    table("Spans", [
      ["From", (span) => [el("span", { class: `swatch ${shade(span)}`, "aria-hidden": "true" }), clock(span.LocalStart)], { head: true }],
      ["Length", (span) => seconds(span.Seconds), { right: true }],
      ["Cents", (span) => number(span.Cost), { right: true }],
      ["Priced by", pricedBy],
      ["Sum", (span) => span.Arithmetic, { wide: true }],
      ["Why", (span) => [span.Why, losers(span)], { wide: true }],
    ], answer.Timespans),
    el("p", { class: "note" }, `Times of day are those of ${answer.Rate.Timezone ?? "UTC"}.`));
}

function losers(span) {
  if (!span.Rivals.length) return null;
  const lines = span.Rivals.map((rival) => el("li", {}, el("b", {}, price(rival.Interval)), ` ${hours(rival.Interval)}: ${rival.Text}`));
  if (span.MoreRivals) lines.push(el("li", {}, `… and ${number(span.MoreRivals)} more`));
  const count = span.Rivals.length + span.MoreRivals;
  return el("details", {}, el("summary", {}, `${number(count)} other ${count === 1 ? "interval" : "intervals"}`), el("ul", {}, lines));
}

const DAYS = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];

function hours(interval) {
  const days = interval.WeekDays?.length && interval.WeekDays.length < 7 ? `${interval.WeekDays.map((day) => DAYS[day % 7]).join(" ")} ` : "";
  const when = interval.StartTime || interval.EndTime ? `${interval.StartTime || "00:00:00"}–${interval.EndTime || "24:00:00"}` : "all day";
  const date = interval.Month || interval.MonthDay ? `, day ${interval.MonthDay || "any"} of month ${interval.Month || "any"}` : "";
  return `(${days}${when}${date})`;
}

function session(answer) {
  const granted = answer.Granted;
  return el("div", { class: "card" },
    el("h2", {}, "How long they may talk"),
    el("p", {}, el("strong", {}, granted === null ? "nothing can be said" : seconds(granted)), ` of ${seconds(answer.Asked)}: ${answer.Text}`),
    answer.Candidates.length
      ? table("Candidates", [
          ["Share", (each) => `${each.Percent} %`, { head: true, right: true }],
          ["Seconds", (each) => number(each.Seconds), { right: true }],
          ["Cents", (each) => number(each.Cost), { right: true }],
          ["Can pay", (each) => badge(each.Affordable ? "yes" : "no", each.Affordable ? "good" : "bad")],
        ], answer.Candidates, { plain: true })
      : null);
}

function rates(answer) {
  const lookups = answer.Lookups.map((lookup) => {
    const tried = lookup.Tried.slice(0, TRIED_SHOWN).join(", ") + (lookup.Tried.length > TRIED_SHOWN ? " …" : "");
    return el("li", {}, lookup.Text,
      el("details", {}, el("summary", {}, "Prefixes tried"), el("p", {}, tried || "none"),
        lookup.ShorterMatches.length ? el("p", {}, `Shorter ones that it has: ${lookup.ShorterMatches.join(", ")}`) : null));
  });
  const periods = answer.ActivationPeriods.map((period) =>
    el("li", {}, `From ${period.ActivationTime}: ${number(period.Intervals)} intervals `, period.InEffectAtStart ? badge("in effect", "good") : ""));
  return el("div", { class: "card" },
    el("h2", {}, "Rate", answer.Prefix ? el("small", {}, ` prefix ${answer.Prefix}`) : null),
    el("ul", { class: "reasons" }, lookups),
    periods.length ? [el("h3", {}, "Activation periods"), el("ul", { class: "reasons" }, periods)] : null);
}

function account({ Account: found, Discount: discount }) {
  return el("div", { class: "card" }, el("h2", {}, "Account"),
    el("dl", { class: "facts" },
      fact("Type", [found.Type, found.Blocked ? [" ", badge("blocked", "bad")] : ""]),
      fact("Credit", cents(found.Credit)),
      fact("Floor", found.MinCredit === null ? "none" : cents(found.MinCredit)),
      fact("Can spend", found.Spendable === null ? "without limit" : cents(found.Spendable)),
      fact("Tariff plan", found.TariffPlanId ?? "none"),
      fact("Volume discount", `${number(discount.Percent)} %`)),
    el("p", { class: "note" }, discount.Text));
}

function buckets(found) {
  return el("div", { class: "card" }, el("h2", {}, "Minute buckets"),
    table("Minute buckets", [
      ["Destination", (each) => each.DestinationId, { head: true }],
      ["Matched", (each) => each.MatchedPrefix ?? "–"],
      ["Has", (each) => `${number(each.Seconds)} s`, { right: true }],
      ["Used", (each) => `${number(each.Used)} s`, { right: true }],
      ["Cents", (each) => number(each.Cost), { right: true }],
      ["Why", (each) => each.Text, { wide: true }],
    ], found));
}
