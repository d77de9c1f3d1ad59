// One account: budgets, buckets, terms, journal. With an operator's key also credit, and a block set or lifted.

import { $, badge, bar, el, number, show, table } from "./dom.js";
import { ask } from "./api.js";
import { fact } from "./cluster.js";

const CREDITS = { cents: ["/debitbalance", "cents"], sms: ["/debitsms", "SMS"] };

const utc = (time) => time.replace("T", " ").replace("Z", "");

export class Account {
  constructor(remember) {
    this.remember = remember;
    this.asked = 0;
    this.mayCredit = false;
    this.mayBlock = false;
    $("account-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.look(true);
    });
  }

  // What the key that is used may change of accounts.
  allow(mayCredit, mayBlock) {
    if (mayCredit === this.mayCredit && mayBlock === this.mayBlock) return;
    this.mayCredit = mayCredit;
    this.mayBlock = mayBlock;
    if (this.shown) this.render();
  }

  open(params) {
    for (const name of ["cstmid", "subj", "lines"]) if (params.has(name)) $(`account-${name}`).value = params.get(name);
    if (params.get("cstmid") && params.get("subj")) this.look(false);
  }

  async look(focus) {
    const who = { cstmid: $("account-cstmid").value.trim(), subj: $("account-subj").value.trim() };
    const lines = $("account-lines").value;
    this.remember("account", { ...who, lines });
    this.asked += 1;
    const turn = this.asked;
    this.complain("");
    try {
      const [account, history] = await Promise.all([ask("/account", who), ask("/history", { ...who, amount: lines })]);
      if (turn !== this.asked) return;
      this.shown = { who, account, history };
      this.render();
    } catch (error) {
      if (turn !== this.asked) return;
      this.shown = null;
      show($("account-result"));
      this.complain(error.message);
    }
    if (focus) $("account-result").focus({ preventScroll: true });
  }

  complain(text) {
    $("account-note").textContent = text;
    $("account-note").hidden = !text;
  }

  render() {
    const { account, history } = this.shown;
    $("account-result").replaceChildren(
      el("div", { class: "pair" }, budgets(account), terms(account, this.mayBlock ? this.blockButton(account.Blocked) : null)),
      ...(this.mayCredit ? [this.creditForm()] : []),
      buckets(account.MinuteBuckets),
      journal(history),
    );
  }

  blockButton(isBlocked) {
    const note = el("p", { class: "note", role: "status", id: "block-note" });
    let key = crypto.randomUUID(); // as for credit
    const toggle = async () => {
      const { who } = this.shown;
      const whose = `${who.subj} of ${who.cstmid}`;
      const question = isBlocked
        ? `Unblock ${whose}? Debits and talk time are granted again.`
        : `Block ${whose}? Debits and talk time are refused from now on.`;
      if (!window.confirm(question)) return;
      try {
        await ask("/setterms", { ...who, blocked: String(!isBlocked) }, { method: "POST", idempotencyKey: key });
        key = crypto.randomUUID();
        await this.look(false);
        $("block-button")?.focus({ preventScroll: true }); // it is another one, and focus is to stay where it was
        if ($("block-note")) $("block-note").textContent = isBlocked ? "Done: it is open." : "Done: it is blocked.";
      } catch (error) {
        if (error.status >= 400 && error.status < 500) key = crypto.randomUUID();
        note.textContent = error.message;
      }
    };
    const label = isBlocked ? "Unblock account" : "Block account";
    return el("div", { class: "go" }, el("button", { type: "button", class: "quiet", id: "block-button", onclick: toggle }, label), note);
  }

  creditForm() {
    const amount = el("input", { id: "credit-amount", name: "amount", required: true, inputmode: "decimal", autocomplete: "off" });
    const kind = el("select", { id: "credit-kind", name: "kind" },
      el("option", { value: "cents" }, "cents"), el("option", { value: "sms" }, "SMS"));
    const note = el("p", { class: "note", role: "status" });
    let key = crypto.randomUUID(); // the same one until it has gone through, so that it happens once
    const give = async (event) => {
      event.preventDefault();
      const [path, unit] = CREDITS[kind.value];
      const value = Number(amount.value);
      if (!Number.isFinite(value) || !value) {
        note.textContent = "An amount other than 0 is needed.";
        return;
      }
      const { who } = this.shown;
      if (!window.confirm(`Give ${number(value)} ${unit} to ${who.subj} of ${who.cstmid}?`)) return;
      try {
        const text = amount.value.trim().replace(/^\+/, "");
        const negated = text.startsWith("-") ? text.slice(1) : `-${text}`;
        const left = await ask(path, { ...who, dest: "0", amount: negated }, { method: "POST", idempotencyKey: key });
        key = crypto.randomUUID();
        await this.look(false);
        this.complain("");
        $("credit-note").textContent = `Done: ${number(left)} ${unit} now.`;
      } catch (error) {
        if (error.status >= 400 && error.status < 500) key = crypto.randomUUID();
        note.textContent = error.message;
      }
    };
    note.id = "credit-note";
    return el("form", { class: "card form", id: "credit-form", onsubmit: give },
      el("h2", {}, "Give credit"),
      el("p", {}, el("label", { for: "credit-amount" }, "Amount, negative to take away"), amount),
      el("p", {}, el("label", { for: "credit-kind" }, "Of"), kind),
      el("p", { class: "go" }, el("button", { type: "submit" }, "Give")),
      note);
  }
}

function budgets(account) {
  return el("div", { class: "card" },
    el("h2", {}, "Budgets", account.Blocked ? [" ", badge("blocked", "bad")] : null),
    el("dl", { class: "facts big" },
      fact("Credit", [el("strong", {}, number(account.Credit)), " cents"]),
      fact("Can spend", account.Spendable === null ? "without limit" : `${number(account.Spendable)} cents`),
      fact("SMS", number(account.SmsCredit)),
      fact("Traffic", number(account.Traffic)),
      fact("Volume discount counter", `${number(account.VolumeDiscountSeconds)} s`),
      fact("Received calls counter", `${number(account.ReceivedCallSeconds)} s`)));
}

function terms(account, action) {
  return el("div", { class: "card" }, el("h2", {}, "Terms"),
    el("dl", { class: "facts" },
      fact("Type", account.Type),
      fact("Floor", account.MinCredit === null ? "none" : `${number(account.MinCredit)} cents`),
      fact("Tariff plan", account.TariffPlanId ?? "none"),
      fact("Reset day", account.ResetDayOfTheMonth || "none"),
      fact("State", account.Blocked ? badge("blocked", "bad") : badge("open", "good")),
      fact("Changes", number(account.Changes)),
      fact("Last change", utc(account.LastChange))),
    action);
}

function buckets(found) {
  const most = Math.max(1, ...found.map((bucket) => bucket.Seconds));
  return el("div", { class: "card" }, el("h2", {}, "Minute buckets"),
    found.length
      ? table("Minute buckets", [
          ["Destination", (bucket) => bucket.DestinationId, { head: true }],
          ["Seconds", (bucket) => number(bucket.Seconds), { right: true }],
          ["Beside the largest", (bucket) => share(bucket.Seconds / most)],
          ["Cents a second", (bucket) => number(bucket.Price), { right: true }],
          ["Priority", (bucket) => number(bucket.Priority), { right: true }],
        ], found)
      : el("p", { class: "note" }, "None."));
}

function share(part) {
  const node = bar(part, "");
  node.querySelector(".meter").className = "meter fine";
  return node;
}

function journal(history) {
  const lines = [...history.Lines].reverse();
  const columns = [
    ["Time", (line) => (line.Damaged ? line.Id : utc(line.Time)), { head: true }],
    ["No", (line) => number(line.Seq), { right: true }],
    ["Operation", (line) => (line.Damaged ? badge("damaged", "bad") : line.Operation)],
    ["Amount", (line) => number(line.Amount), { right: true }],
    ["Credit", (line) => number(line.Credit), { right: true }],
    ["SMS", (line) => number(line.SmsCredit), { right: true }],
    ["Notes", notes, { wide: true }],
  ];
  return el("div", { class: "card" },
    el("h2", {}, "Journal", el("small", {}, ` newest first, UTC; balances after each change`)),
    lines.length ? table("Journal", columns, lines) : el("p", { class: "note" }, "The journal is empty."));
}

function notes(line) {
  if (line.Damaged) return `${line.Damaged.field}: expected ${line.Damaged.expected}, found ${line.Damaged.found}`;
  const parts = [];
  if (line.Cost) parts.push(`cost ${number(line.Cost)}`);
  if (line.Terms) parts.push(line.Terms);
  for (const bucket of line.MinuteBuckets ?? []) parts.push(`${bucket.DestinationId} ${number(bucket.Seconds)} s`);
  if (line.Token) parts.push(line.Token.startsWith("c:") ? `request ${line.Token.slice(2)}` : line.Token);
  return parts.join(" · ");
}
