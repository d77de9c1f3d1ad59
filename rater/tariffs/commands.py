"""`ratel tariff`: the versions of a tenant's tariff, going back to one, and what two differ in."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click

from common.commands.command_line import EXIT_REFUSED, refuse
from common.commands.store_access import open_store, too_few_copies
from common.settings.options import durable, json_option, store_option, wait_option
from common.storage.durability import Durability
from common.storage.stores import Store
from rater.loader.assembly import NothingActive, assemble
from rater.loader.command import show_findings
from rater.loader.diff import Difference, Differences, compare_destinations, compare_plans, compare_rates
from rater.loader.files import read_paths
from rater.loader.load import STORE_TIMEOUT_MS, wait_for_raters
from rater.loader.report import Report, quote
from rater.model import Rate
from rater.tariffs.parts import BadPart, Rates, join
from rater.tariffs.store import (
    FORMAT,
    Switch,
    Version,
    activate,
    list_versions,
    read_active,
    read_source,
)

MAX_LIMIT: Final = 10_000
"""Differences of a kind that are shown: more than anyone reads."""

_json_option: Final = json_option()
_version_type: Final = click.IntRange(1, 10**9)


@click.group()
def tariff() -> None:
    """Look at the versions of tariffs, go back to one, compare two.

    Each `ratel load` makes a new version for each of its tenants; the last ten are kept.

    \b
    Exit codes of all subcommands:
      0  done
      1  refused: no such tenant or version, one that is damaged, or someone else switched meanwhile
      2  the command line is wrong
      3  the store is not available, or too few copies confirmed a switch (--durability): run it again
    """


@tariff.command("list", short_help="List the versions that are kept.")
@click.argument("tenant", required=False)
@store_option
@_json_option
def list_(tenant: str | None, store_url: str, as_json: bool) -> None:
    """List the versions that are kept: of TENANT, or of all tenants.

    \b
    Examples:
      ratel tariff list
      ratel tariff list vdf --json
    """
    with open_store(store_url, STORE_TIMEOUT_MS, BadPart) as store:
        active = read_active(store).versions
        tenants = [tenant] if tenant else sorted(active)
        found = {name: list_versions(store, name) for name in tenants}
    if tenant and not found[tenant]:
        refuse(_no_tenant(tenant, list(active)))
    if as_json:
        rows = {name: [_as_json(each, active.get(name)) for each in them] for name, them in found.items()}
        click.echo(json.dumps(rows, ensure_ascii=False))
        return
    if not found:
        click.echo("no tariff was loaded yet")
    for name, versions in found.items():
        click.echo(f"tenant {quote(name)}:")
        for each in versions:
            click.echo(f"{'*' if each.number == active.get(name) else ' '} {_line(each)}")
    if found:
        click.echo("* is the active one")


@tariff.command("check", short_help="Check tariff files by themselves, without a store.")
@click.argument(
    "paths", nargs=-1, required=True, metavar="PATH…", type=click.Path(exists=True, path_type=Path)
)
@click.option("--tenant", default="", help="Whose objects are that name no CstmId.")
@json_option()
def check(paths: tuple[Path, ...], tenant: str, as_json: bool) -> None:
    """Check tariff files by themselves, without a store: what `ratel load` would find wrong or suspicious.

    Plans and destinations that only the active tariff has are missing here; `ratel load --dry-run` looks at
    those, too.

    \b
    Example:
      ratel tariff check deploy/sample-tariff
    """
    report = Report()
    contents = read_paths(paths, report, lambda done, total: None)
    loads = assemble(contents, tenant, NothingActive(), report)
    held = {
        load.tenant: {
            "rates": len(load.rates),
            "destinations": len(load.destinations),
            "plans": len(load.plans),
            "accounts": len(load.budgets),
        }
        for load in loads
    }
    if as_json:
        found = {"errors": report.errors, "warnings": report.warnings, "tenants": held}
        counts = {"error_count": report.error_count, "warning_count": report.warning_count}
        click.echo(json.dumps(counts | found, ensure_ascii=False))
    else:
        show_findings(report)
        for name, kinds in held.items():
            counted = ", ".join(_counted(count, kind) for kind, count in kinds.items())
            click.echo(f"tenant {quote(name)}: {counted}")
        click.echo(f"errors: {report.error_count}, warnings: {report.warning_count}")
    if report.error_count:
        sys.exit(EXIT_REFUSED)


@tariff.command("activate", short_help="Go back to a version, or on to one.")
@click.argument("tenant")
@click.argument("version", type=_version_type)
@store_option
@wait_option
@durable("What must be certain of the switch before it is told, as for raters.")
@json_option()
def activate_(
    tenant: str, version: int, store_url: str, wait_s: float, durability: Durability, as_json: bool
) -> None:
    """Make VERSION of TENANT's tariff the active one: the way back after a load that was a mistake.

    The version is read and checked as a whole first. Raters switch between two batches, and no request
    fails. Accounts stay as they are.

    \b
    Example:
      ratel tariff activate vdf 41
    """
    with open_store(store_url, STORE_TIMEOUT_MS, BadPart) as store, too_few_copies("switch is not certain"):
        base = read_active(store).versions.get(tenant, 0)
        _need(store, tenant, [version])
        picked_up = None
        if base == version and durability.waits:  # that it is active may not have got to the copies
            activate(store, [Switch(tenant, base, version)], durability)
        elif base != version:
            epoch = activate(store, [Switch(tenant, base, version)], durability)
            if not as_json:
                click.echo(
                    f"tenant {quote(tenant)}: version {version} is active, instead of {base or 'none'}"
                )
            picked_up = wait_for_raters(store, epoch, wait_s) if wait_s > 0 else None
    if as_json:
        done = {"tenant": tenant, "version": version, "before": base or None, "changed": base != version}
        click.echo(json.dumps(done | {"picked_up": picked_up and picked_up._asdict()}, ensure_ascii=False))
    elif base == version:
        click.echo(f"tenant {quote(tenant)}: version {version} is active already")
    elif picked_up is not None:
        raters, of = picked_up
        click.echo(f"picked up by {raters} of {of} raters" if of else "no raters are running")


@tariff.command("diff", short_help="Show what differs between two versions.")
@click.argument("tenant")
@click.argument("a", type=_version_type)
@click.argument("b", type=_version_type)
@store_option
@click.option(
    "--limit",
    type=click.IntRange(0, MAX_LIMIT),
    default=20,
    show_default=True,
    envvar="RATEL_TARIFF_DIFF_LIMIT",
    show_envvar=True,
    help="How many differences to show of each kind; all are counted.",
)
@_json_option
def diff(tenant: str, a: int, b: int, store_url: str, limit: int, as_json: bool) -> None:
    """Show what version B of TENANT's tariff has added, removed and changed against version A.

    \b
    Examples:
      ratel tariff diff vdf 41 42
      ratel tariff diff vdf 41 42 --limit 1000 --json
    """
    with open_store(store_url, STORE_TIMEOUT_MS, BadPart) as store:
        _need(store, tenant, [a, b])
        found = {
            "rates": compare_rates(_rates(store, tenant, a), _rates(store, tenant, b), limit),
            **_others(store, tenant, a, b, limit),
        }
    if as_json:
        kinds = {kind: _differences_as_json(each) for kind, each in found.items()}
        click.echo(json.dumps({"tenant": tenant, "a": a, "b": b, **kinds}, ensure_ascii=False))
        return
    for kind, each in found.items():
        counts = (f"{getattr(each, how)} {how}" for how in ("added", "removed", "changed"))
        click.echo(f"{kind}: {', '.join(counts)}, {each.same} the same")
        for how, sign in (("added", "+"), ("removed", "-"), ("changed", "~")):
            for line in each.shown[how]:
                click.echo(f"  {sign} {_difference(line)}")
            more = getattr(each, how) - len(each.shown[how])
            if more and limit:
                click.echo(f"  {sign} … and {more} more")


# --- what they share --------------------------------------------------------------------------------


def _need(store: Store, tenant: str, versions: list[int]) -> None:
    """End the command unless the tenant has these versions."""
    there = [each.number for each in list_versions(store, tenant)]
    if not there:
        refuse(_no_tenant(tenant, list(read_active(store).versions)))
    for version in versions:
        if version not in there:
            kept = ", ".join(map(str, there))
            refuse(f"tenant {quote(tenant)} has no version {version}; those that are kept are {kept}")


def _no_tenant(tenant: str, known: list[str]) -> str:
    names = ", ".join(map(quote, sorted(known)[:5])) + (", …" if len(known) > 5 else "")
    return f"there is no tariff of tenant {quote(tenant)}; " + (
        f"there are those of {names}" if known else "none was loaded yet"
    )


def _rates(store: Store, tenant: str, version: int) -> Iterator[Rate]:
    rates = Rates()
    for part in read_source(store, tenant, version):
        yield from rates.of(part)


def _others(store: Store, tenant: str, a: int, b: int, limit: int) -> dict[str, Differences]:
    before, after = (
        join(tenant, (part for part in read_source(store, tenant, version) if not part.says))
        for version in (a, b)
    )
    return {
        "destinations": compare_destinations(before.destinations, after.destinations, limit),
        "plans": compare_plans(before.plans, after.plans, limit),
    }


def _difference(found: Difference) -> str:
    if found.was and found.now:
        return f"{found.name}: {found.was} → {found.now}"
    return f"{found.name}: {found.was or found.now}"


def _differences_as_json(found: Differences) -> dict[str, Any]:
    counts = {how: getattr(found, how) for how in ("added", "removed", "changed", "same")}
    return counts | {"shown": {how: [each._asdict() for each in them] for how, them in found.shown.items()}}


def _counted(count: int | str, kind: str) -> str:
    return f"{count} {kind[:-1] if str(count) == '1' else kind}"


def _line(version: Version) -> str:
    known = version.known
    counts = ", ".join(_counted(known.get(kind, "?"), kind) for kind in ("rates", "destinations", "plans"))
    state = _state(version)
    said = f"  ({state})" if state != "whole" else ""
    created, sources = (quote(known.get(name, "?"))[1:-1] for name in ("created", "sources"))
    return f"{version.number:>4}  {created:<20}  {counts}  from {sources}{said}"


def _state(version: Version) -> str:
    if version.known.get("format") != str(FORMAT):
        return f"of format {version.known.get('format', '?')}, which this release does not read"
    return "whole" if version.is_whole else "not whole: chunks are missing"


def _as_json(version: Version, active: int | None) -> dict[str, Any]:
    known = version.known
    return {
        "version": version.number,
        "active": version.number == active,
        "created": known.get("created", ""),
        "sources": known.get("sources", ""),
        "rates": _count(known.get("rates", "")),
        "destinations": _count(known.get("destinations", "")),
        "plans": _count(known.get("plans", "")),
        "state": _state(version),
    }


def _count(text: str) -> int | None:
    return int(text) if text.isdecimal() else None
