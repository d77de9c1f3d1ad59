"""`ratel audit` and `ratel journal export`: the journals as proof, and their archive."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Final

import click

from common.commands.command_line import EXIT_REFUSED, progress_bar, refuse
from common.commands.store_access import store_errors
from common.settings.options import json_option, key_ttl_option, store_option
from common.storage.stores import connect
from rater.journal.archive import ArchiveError, Format
from rater.journal.audit import ArchiveIndex, Result, Selection, Summary
from rater.journal.audit import audit as audit_store
from rater.journal.chain import KEY_TTL_MS
from rater.journal.export import ExportResult, Lost, Problem
from rater.journal.export import export as export_journals
from rater.loader.report import quote

STORE_TIMEOUT_MS: Final = 30_000
"""Longer than for requests: nobody waits, and a store that is busy is no reason to give up."""


@click.command()
@store_option
@click.option("--tenant", help="Only this tenant's accounts.")
@click.option("--subject", help="Only accounts of this subject.")
@click.option(
    "--archive",
    "archives",
    multiple=True,
    metavar="PATH",
    type=click.Path(exists=True, path_type=Path),
    envvar="RATEL_AUDIT_ARCHIVE",
    show_envvar=True,
    help="Files or folders of `ratel journal export`, joined with what the store has.  [repeatable]",
)
@key_ttl_option(
    0, None, KEY_TTL_MS // 1000, "For how long the raters remember a client's key, as they were told."
)
@json_option("JSON Lines: each difference, then a summary.")
def audit(
    store_url: str,
    tenant: str | None,
    subject: str | None,
    archives: tuple[Path, ...],
    key_ttl_s: int,
    as_json: bool,
) -> None:
    """Recompute every account from its journal and report each difference.

    Each line's balances must follow from the line before it, sequence numbers must have no gap, no
    request may have been carried out twice, and the last line must be the account as it is now. The
    cluster may be at work meanwhile.

    A journal whose beginning was trimmed is checked from its first line on; with the archives, from
    the account's opening on.

    \b
    Examples:
      ratel audit
      ratel audit --tenant vdf --archive /var/archive/ratel

    \b
    Exit codes:
      0  no differences
      1  there are differences, or an archive can't be read
      2  the command line is wrong
      3  the store is not available
    """
    selection = Selection(tenant, subject)

    def report(result: Result) -> None:
        for line in _finding_lines(result, as_json):
            click.echo(line)

    with (
        store_errors(ArchiveError, OSError),
        connect(store_url, timeout_ms=STORE_TIMEOUT_MS) as store,
        ArchiveIndex(archives, selection) if archives else nullcontext() as index,
        progress_bar("accounts") as progress,
    ):
        summary = audit_store(
            store, selection, index, key_ttl_ms=key_ttl_s * 1000, report=report, progress=progress
        )
    if tenant is not None and subject is not None and not summary.accounts:
        refuse(f"there is no trace of an account of tenant {quote(tenant)}, subject {quote(subject)}")
    click.echo(json.dumps({"summary": summary._asdict()}) if as_json else _summary_line(summary))
    if summary.findings:
        sys.exit(EXIT_REFUSED)


@click.group()
def journal() -> None:
    """The accounts' journals: archive them."""


@journal.command(short_help="Write what is new since the last run into files.")
@store_option
@click.option(
    "--to",
    "folder",
    required=True,
    metavar="DIR",
    envvar="RATEL_JOURNAL_EXPORT_TO",
    show_envvar=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the archive is; it is made when it does not exist.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice([form.value for form in Format]),
    default=Format.JSONL.value,
    show_default=True,
    envvar="RATEL_JOURNAL_EXPORT_FORMAT",
    show_envvar=True,
    help="Of the archive's files.",
)
@click.option(
    "--trim",
    is_flag=True,
    envvar="RATEL_JOURNAL_EXPORT_TRIM",
    show_envvar=True,
    help="Then remove archived lines from the store, all but the last.",
)
@json_option()
def export(store_url: str, folder: Path, form: str, trim: bool, as_json: bool) -> None:
    """Write every account's new journal lines since the last export into files.

    A run makes one file for each tenant that has new lines. It may be interrupted at any point, by
    force too, and run again: every line is in the archive exactly once. The cluster may be at work
    meanwhile. Archive files may be moved away; the folder's state remembers how far it got.

    \b
    Example:
      ratel journal export --to /var/archive/ratel --format csv --trim

    \b
    Exit codes:
      0  everything new is archived
      1  lines were lost before they could be archived, or the store's lines contradict the archive,
         or the folder can't be used: see the messages
      2  the command line is wrong
      3  the store is not available: run it again later
    """
    problems = 0

    def problem(found: Problem) -> None:
        nonlocal problems
        problems += 1
        click.echo(f"error: {_problem_text(found)}", err=True)

    with (
        store_errors(ArchiveError, OSError),
        connect(store_url, timeout_ms=STORE_TIMEOUT_MS) as store,
        progress_bar("journals") as progress,
    ):
        result = export_journals(store, folder, Format(form), trim=trim, problem=problem, progress=progress)
    if as_json:
        files = [str(file) for file in result.files]
        click.echo(json.dumps(result._asdict() | {"files": files, "problems": problems}))
    else:
        for line in _result_lines(result, trim):
            click.echo(line)
    if problems:
        refuse(f"{_count(problems, 'problem')}, see above")


# --- what came out ------------------------------------------------------------------------------------


def _finding_lines(result: Result, as_json: bool) -> Iterator[str]:
    for seq, difference in result.findings:
        if as_json:
            yield json.dumps({**result.name._asdict(), "seq": seq, **difference._asdict()})
        else:
            at = "" if seq is None else f" seq {seq}"
            field, expected, found = difference
            yield f"{_name(*result.name)}{at}: {field}: expected {expected}, found {found}"


def _name(tenant: str, subject: str) -> str:
    return f"tenant {quote(tenant)} subject {quote(subject)}"


def _summary_line(summary: Summary) -> str:
    later = summary.accounts - summary.whole
    checked = (
        f"{_count(summary.accounts, 'account')}, {_count(summary.lines, 'line')}: "
        f"{summary.whole} checked from the opening on, "
        f"{later} from a later line on, because what came before is trimmed"
    )
    if not summary.findings:
        return f"{checked}\nno differences"
    found, where = _count(summary.findings, "difference"), _count(summary.with_findings, "account")
    return f"{checked}\n{found} in {where}"


def _count(number: int, things: str) -> str:
    return f"{number} {things}{'s' * (number != 1)}"


def _problem_text(problem: Problem) -> str:
    if isinstance(problem, Lost):
        name, first, last = problem
        return (
            f"{_name(*name)}: seq {first} to {last} ({_count(last - first + 1, 'line')}) LOST: "
            "dropped from the store before they were archived; "
            "export more often, or raise `ratel rater --journal-lines`"
        )
    return f"{_name(*problem.name)}: nothing archived: {problem.text}"


def _result_lines(result: ExportResult, trim: bool) -> Iterator[str]:
    if result.adopted:
        yield f"of an interrupted run, in the archive as well: {_count(result.adopted, 'line')}"
    for file in result.files:
        yield str(file)
    yield f"{_count(result.lines, 'new line')} of {_count(result.accounts, 'account')}" + (
        f", run {result.run}" if result.lines else ": nothing to write"
    )
    if trim:
        yield f"{_count(result.trimmed, 'archived line')} removed from the store"
