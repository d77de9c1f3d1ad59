"""`ratel load`: tariff files → a new active version, and accounts."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click

from common.commands.command_line import refuse
from common.commands.store_access import store_errors, too_few_copies
from common.settings.options import durable, json_option, store_option, wait_option
from common.storage.durability import Durability
from rater.accounts.opening import Opening
from rater.loader.fields import MAX_NAME_CHARS
from rater.loader.load import LoadOptions, LoadResult, Progress, Stage, TenantResult, load_paths
from rater.loader.report import MAX_SHOWN, Report, quote

KINDS: Final = ("rates", "destinations", "plans")


@click.command()
@click.argument(
    "paths", nargs=-1, required=True, metavar="PATH…", type=click.Path(exists=True, path_type=Path)
)
@store_option
@click.option(
    "--tenant",
    default="",
    envvar="RATEL_LOAD_TENANT",
    show_envvar=True,
    help="Whose destinations, plans and budgets are that name no CstmId.",
)
@click.option("--dry-run", is_flag=True, help="Check and report everything, write nothing.")
@click.option("--reset-balances", is_flag=True, help="Set accounts that exist to the balances in the files.")
@wait_option
@click.option(
    "--raters",
    type=click.IntRange(0, 65536),
    default=0,
    metavar="COUNT",
    help="Wait for at least so many, those that are still starting too; 0 waits for those that run.",
)
@durable("What must be certain of what is written before it is told, as for raters.")
@json_option()
def load(
    paths: tuple[Path, ...],
    store_url: str,
    tenant: str,
    dry_run: bool,
    reset_balances: bool,
    wait_s: float,
    raters: int,
    durability: Durability,
    as_json: bool,
) -> None:
    """Load tariff files: check everything, publish it as a new version, open accounts.

    PATH is a JSON file, or a folder, of which all *.json are read (not those of folders in it).
    Files hold lists of rates, destinations, tariff plans or user budgets; what an object is, its
    fields say. With an error anywhere nothing is changed. Raters pick the new version up
    without a restart.

    Of each tenant in the files, the rates replace all its rates, the destinations all its
    destinations, the plans all its plans; a kind that the files do not hold stays as it is. Budgets open
    accounts; one that exists keeps its live balances, unless --reset-balances is given. They are
    opened after the tariff is published; a load that was interrupted is completed by running it again.

    Destinations, plans and budgets without a CstmId belong to --tenant, else to the only tenant of
    the rates in the files, else, when there are none, to the only tenant in the store.

    \b
    Examples:
      ratel load deploy/sample-tariff --dry-run
      ratel load rates.json budgets.json --tenant vdf

    \b
    Exit codes:
      0  loaded, or nothing wrong in a dry run (warnings may have been shown)
      1  the files have errors, or someone else loaded at the same time: nothing was switched;
         or what the store holds is damaged
      2  the command line is wrong
      3  the store is not available, or too few copies confirmed what was written (--durability):
         run it again
    """
    if len(tenant) > MAX_NAME_CHARS or any("\ud800" <= character <= "\udfff" for character in tenant):
        raise click.BadParameter(f"expected up to {MAX_NAME_CHARS} characters of text", param_hint="--tenant")
    options = LoadOptions(store_url, tenant, dry_run, reset_balances, wait_s, raters, durability)
    with store_errors(), too_few_copies("load is not complete"), _progress() as progress:
        result = load_paths(paths, options, progress)
    if as_json:
        click.echo(json.dumps(_as_json(result, options), ensure_ascii=False))
    else:
        show_findings(result.report)
    if result.report.error_count:
        count = result.report.error_count
        refuse(f"{count} error{'s' * (count > 1)} in the files: nothing was loaded")
    if not as_json:
        _show(result, options)


# --- while it runs ------------------------------------------------------------------------------------


@contextmanager
def _progress() -> Iterator[Progress]:
    """A bar for each stage on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda stage, done, total: None
        return
    from rich.console import Console  # noqa: PLC0415 - not needed in a pipe
    from rich.progress import BarColumn, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415
    from rich.progress import Progress as Bars  # noqa: PLC0415

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[Stage, TaskID] = {}

        def progress(stage: Stage, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage.value)
            bars.update(tasks[stage], completed=done, total=total)

        yield progress


# --- what came out --------------------------------------------------------------------------------------


def show_findings(report: Report) -> None:
    for word, lines, count in (
        ("warning", report.warnings, report.warning_count),
        ("error", report.errors, report.error_count),
    ):
        for line in lines:
            click.echo(f"{word}: {line}", err=True)
        if count > len(lines):
            click.echo(f"{word}: … and {count - MAX_SHOWN} more like these", err=True)


def _as_json(result: LoadResult, options: LoadOptions) -> dict[str, Any]:
    report = result.report
    return {
        "dry_run": options.dry_run,
        "errors": report.errors,
        "error_count": report.error_count,
        "warnings": report.warnings,
        "warning_count": report.warning_count,
        "tenants": [
            {
                "tenant": each.tenant,
                "version": each.version,
                **{kind: len(getattr(each.tariff, kind)) if each.tariff else None for kind in KINDS},
                "carried": sorted(each.carried),
                "accounts": each.accounts,
                **{opening.name.lower(): count for opening, count in each.opened.items()},
            }
            for each in result.tenants
        ],
        "picked_up": result.picked_up and result.picked_up._asdict(),
        "unchecked": result.unchecked,
    }


def _show(result: LoadResult, options: LoadOptions) -> None:
    if sys.stdout.isatty():
        _show_table(result, options)
    else:
        for tenant in result.tenants:
            for line in _lines(tenant, options.dry_run):
                click.echo(f"tenant {quote(tenant.tenant)}: {line}")
    if not result.tenants:
        click.echo("the files hold nothing: nothing was loaded")
    if result.report.warning_count:
        count = result.report.warning_count
        click.echo(f"{count} warning{'s' * (count > 1)}")
    if result.unchecked:
        click.echo(f"not checked against the active tariff: {result.unchecked}")
    if options.dry_run:
        click.echo("dry run: no errors; nothing was written")
    elif result.picked_up is not None:
        click.echo(_picked_up(*result.picked_up, options.wait_s))


def _picked_up(raters: int, of: int, wait_s: float) -> str:
    if not of:
        return "no raters are running: they pick it up when they start"
    if raters < of:
        return f"picked up by {raters} of {of} raters within {wait_s:g} s: the others follow by themselves"
    return f"picked up by {raters} rater{'s' * (raters > 1)}"


def _lines(tenant: TenantResult, dry_run: bool) -> Iterator[str]:
    if tenant.tariff is not None:
        version = "would be a new version" if dry_run else f"version {tenant.version}"
        yield f"{version}: " + ", ".join(_amount(_count(tenant, kind), kind) for kind in KINDS)
    if tenant.accounts:
        in_files = _amount(str(tenant.accounts), "accounts")
        yield f"{in_files} in the files" if dry_run else f"accounts: {_accounts(tenant)}"


def _amount(count: str, things: str) -> str:
    return f"{count} {things[:-1] if count.split(maxsplit=1)[0] == '1' else things}"


def _count(tenant: TenantResult, kind: str) -> str:
    """How many the tenant has from now on; those that the files do not hold are kept."""
    if tenant.tariff is None:
        return "–"
    count = str(len(getattr(tenant.tariff, kind)))
    return f"{count} kept" if kind in tenant.carried and count != "0" else count


def _accounts(tenant: TenantResult) -> str:
    opened = tenant.opened
    return f"{opened[Opening.CREATED]} created, {opened[Opening.KEPT]} kept, {opened[Opening.REPLACED]} reset"


def _show_table(result: LoadResult, options: LoadOptions) -> None:
    from rich.console import Console  # noqa: PLC0415 - not needed in a pipe
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table()
    for heading in ("Tenant", "Version", "Rates", "Destinations", "Plans", "Accounts"):
        table.add_column(heading, justify="left" if heading in ("Tenant", "Accounts") else "right")
    for tenant in result.tenants:
        version = "–" if tenant.version is None else str(tenant.version)
        accounts = f"{tenant.accounts} in the files" if options.dry_run else _accounts(tenant)
        cells = (quote(tenant.tenant)[1:-1], version, *(_count(tenant, kind) for kind in KINDS), accounts)
        table.add_row(*map(Text, cells))  # as Text: a name is not markup
    Console().print(table)
