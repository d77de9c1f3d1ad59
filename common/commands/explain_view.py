"""An explanation for people at a terminal: the verdict, then every step that led to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

Tree = Mapping[str, Any]

TRIED_SHOWN: Final = 6
"""Prefixes of a lookup that are written out: who needs the others asks for JSON."""

_COLOURS: Final = {"ok": "green", "no_credit": "yellow"}


def show_explanation(console: Console, answer: Tree) -> None:
    """Print an answer of `Responder.Explain`."""
    verdict = str(answer["Verdict"])
    console.print(
        f"[bold]{escape(str(answer['CstmId']))}[/bold]: {escape(str(answer['Subject']))} to "
        f"{escape(str(answer['DestinationPrefix']))}, {answer['TimeStart']} to {answer['TimeEnd']}"
    )
    colour = _COLOURS.get(verdict, "red")
    console.print(f"[{colour}]{verdict}[/{colour}]: {escape(str(answer['Message']))}")
    _show_rate(console, answer["Rate"])
    if answer["Account"] is not None:
        _show_account(console, answer["Account"], answer["Discount"])
    if answer["Buckets"]:
        _show_buckets(console, answer["Buckets"])
    if answer["Timespans"]:
        _show_spans(console, answer)
    _show_session(console, answer["MaxSessionTime"])


def _heading(console: Console, text: str) -> None:
    console.print(f"\n[bold]{text}[/bold]")


def _table(*headings: str, right: Sequence[str] = ()) -> Table:
    table = Table(show_edge=False, pad_edge=False)
    for heading in headings:
        is_right = heading in right
        table.add_column(heading, justify="right" if is_right else "left", no_wrap=is_right)
    return table


def _show_rate(console: Console, rate: Tree) -> None:
    _heading(console, "Rate")
    for lookup in rate["Lookups"]:
        tried = lookup["Tried"]
        shown = ", ".join(tried[:TRIED_SHOWN]) + (" …" if len(tried) > TRIED_SHOWN else "")
        console.print(f"  {escape(lookup['Text'])}  [dim](tried {escape(shown)})[/dim]")
        if lookup["ShorterMatches"]:
            console.print(f"    shorter ones that it has: {escape(', '.join(lookup['ShorterMatches']))}")
    for period in rate["ActivationPeriods"]:
        mark = "in effect at the start" if period["InEffectAtStart"] else "not in effect at the start"
        console.print(f"  period from {period['ActivationTime']}: {period['Intervals']} intervals, {mark}")
    if rate["Timezone"] not in (None, "UTC"):
        console.print(f"  times of day are read in {escape(str(rate['Timezone']))}")


def _show_account(console: Console, account: Tree, discount: Tree) -> None:
    _heading(console, "Account")
    spendable = "without limit" if account["Spendable"] is None else f"{account['Spendable']} cents"
    floor = "no floor" if account["MinCredit"] is None else f"floor {account['MinCredit']}"
    state = "[red]blocked[/red], " if account["Blocked"] else ""
    console.print(
        f"  {state}{account['Type']}, credit {account['Credit']} cents, {floor}: can spend {spendable}"
    )
    console.print(
        f"  volume discount {discount['Percent']} %: {escape(discount['Text'])} "
        f"({discount['VolumeDiscountSeconds']} s counted)"
    )


def _show_buckets(console: Console, buckets: Sequence[Tree]) -> None:
    _heading(console, "Minute buckets")
    table = _table(
        "Destination",
        "Matched",
        "Priority",
        "Price",
        "Seconds",
        "Used",
        "Cost",
        "Why",
        right=("Priority", "Price", "Seconds", "Used", "Cost"),
    )
    for each in buckets:
        figures = (str(each[name]) for name in ("Priority", "Price", "Seconds", "Used", "Cost"))
        destination, matched = escape(each["DestinationId"]), escape(each["MatchedPrefix"] or "–")
        table.add_row(destination, matched, *figures, escape(each["Text"]))
    console.print(table)


def _show_spans(console: Console, answer: Tree) -> None:
    _heading(console, "Timespans")
    table = _table("From (local)", "Seconds", "Cost", "How", "Why", right=("Seconds", "Cost"))
    table.columns[0].no_wrap = True
    for span in answer["Timespans"]:
        why = escape(span["Why"])
        if span["Bucket"] is not None:
            why = f"bucket {escape(span['Bucket'])}: {why}"
        for rival in span["Rivals"]:
            if rival["AppliesFrom"] is not None:
                why += f"\n[dim]not {_price(rival['Interval'])}: {escape(rival['Text'])}[/dim]"
        table.add_row(
            span["LocalStart"], str(span["Seconds"]), str(span["Cost"]), escape(span["Arithmetic"]), why
        )
    console.print(table)
    if answer["MoreTimespans"]:
        console.print(f"  … and {answer['MoreTimespans']} more")
    console.print(
        f"  Cost [bold]{answer['Cost']}[/bold] cents, connect fee [bold]{answer['ConnectFee']}[/bold] cents"
    )


def _price(interval: Tree) -> str:
    return f"{interval['Price']} per {interval['BillingUnit']} s"


def _show_session(console: Console, session: Tree) -> None:
    _heading(console, "How long they may talk")
    granted = "nothing can be said" if session["Granted"] is None else f"{session['Granted']} s"
    console.print(f"  of {session['Asked']} s: [bold]{granted}[/bold], {escape(session['Text'])}")
    if session["Candidates"]:
        table = _table("Percent", "Seconds", "Cost", "Can pay", right=("Percent", "Seconds", "Cost"))
        for each in session["Candidates"]:
            table.add_row(
                str(each["Percent"]),
                str(each["Seconds"]),
                str(each["Cost"]),
                "yes" if each["Affordable"] else "no",
            )
        console.print(table)
