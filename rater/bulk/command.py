"""`ratel rate`: a file of call records rated, by the cluster or by a tariff folder."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click

from common.commands.client_options import Connect, client_options
from common.commands.command_line import EXIT_REFUSED, code_of, progress_bar, refuse
from common.errors import RatelError
from common.money import format_micros
from common.settings.options import json_option
from rater.bulk.outputs import Progress, Totals
from rater.bulk.raters import Cluster, Offline, Rater
from rater.bulk.records import FileProblem
from rater.bulk.run import Files, files_for, run

DAY_US: Final = 86_400_000_000
MAX_CALL_US: Final = 31 * DAY_US
"""Offline: the longest call that is rated, as raters have it unless told otherwise."""


@click.command()
@click.argument("records", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Rated records.  [default: FILE.rated.…]",
)
@click.option(
    "--rejects", type=click.Path(dir_okay=False, path_type=Path), help="The rest.  [default: FILE.rejects.…]"
)
@click.option(
    "--tariff",
    "tariffs",
    multiple=True,
    metavar="PATH",
    type=click.Path(exists=True, path_type=Path),
    help="Rate by these tariff files or folders, without a cluster.  [repeatable]",
)
@click.option("--tenant", default="", help="With --tariff: whose objects are that name no CstmId.")
@click.option("--restart", is_flag=True, help="Begin anew, over what an earlier run has written.")
@client_options
@json_option("The totals as one JSON object.")
def rate(
    records: Path,
    output: Path | None,
    rejects: Path | None,
    tariffs: tuple[Path, ...],
    tenant: str,
    restart: bool,
    connect: Connect,
    as_json: bool,
) -> None:
    """Rate the call records in FILE, CSV with a header or JSON Lines.

    Columns are named as the fields of a call, in any case: CstmId, Subject, DestinationPrefix, TimeStart,
    and TimeEnd or duration (seconds); short names too: subj, dest, start, end. Other columns are kept. Each
    record comes out with RatedPrefix, RatedCost and RatedConnectFee (cents), or among the rejects with the
    reason. Nothing is debited.

    A run that was interrupted goes on where it was when it is started again.

    \b
    Examples:
      ratel rate calls.csv
      ratel rate calls.jsonl --tariff deploy/sample-tariff --json

    \b
    Exit codes:
      0  all records are rated
      1  some were rejected, or a file can't be used: see the message
      2  the command line is wrong
      3  the cluster is not available: run it again, it goes on
    """
    files = files_for(records, output, rejects)
    if len({path.absolute() for path in (files.records, files.rated, files.rejects, files.state)}) < 4:
        raise click.UsageError("FILE, --output and --rejects must be different files")
    try:
        with _rater(tariffs, tenant, connect) as (rater, source), progress_bar("rating") as advance:
            progress = run(files, rater, source, restart=restart, advance=advance)
    except (FileProblem, OSError) as error:
        refuse(str(error))
    except KeyboardInterrupt:
        refuse("interrupted; run it again, it goes on from here")
    except RatelError as error:
        refuse(f"{error.message}; run it again, it goes on from here", code_of(error))
    if as_json:
        click.echo(json.dumps(_as_json(files, progress)))
    else:
        _show(files, progress)
    if progress.rejects:
        sys.exit(EXIT_REFUSED)


@contextmanager
def _rater(tariffs: tuple[Path, ...], tenant: str, connect: Connect) -> Iterator[tuple[Rater, str]]:
    if tariffs:
        yield Offline(tariffs, tenant, MAX_CALL_US), f"the files {', '.join(map(str, tariffs))}"
        return
    with connect() as client:
        yield Cluster(client), "the cluster"


# --- what came out ----------------------------------------------------------------------------------


def _sorted(progress: Progress) -> list[tuple[str, Totals]]:
    return sorted(progress.totals.items(), key=lambda each: (-each[1].cost_micros, each[0]))


def _sum(progress: Progress) -> Totals:
    every = progress.totals.values()
    return Totals(
        sum(each.calls for each in every),
        sum(each.duration_us for each in every),
        sum(each.cost_micros for each in every),
        sum(each.fee_micros for each in every),
    )


def _figures(totals: Totals) -> tuple[str, str, str, str]:
    seconds, cost, fee = map(format_micros, (totals.duration_us, totals.cost_micros, totals.fee_micros))
    return str(totals.calls), seconds, cost, fee


def _show(files: Files, progress: Progress) -> None:
    rows = [("prefix", "calls", "seconds", "cost", "connect fees")]
    rows += [(prefix, *_figures(totals)) for prefix, totals in _sorted(progress)]
    rows.append(("all", *_figures(_sum(progress))))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *figures in rows:
        cells = (text.rjust(width) for text, width in zip(figures, widths[1:], strict=True))
        click.echo("  ".join([first.ljust(widths[0]), *cells]))
    click.echo(f"rated: {files.rated}")
    if progress.rejects:
        reasons = ", ".join(f"{count} {name}" for name, count in sorted(progress.rejected.items()))
        click.echo(f"rejected: {progress.rejects} ({reasons}): {files.rejects}")


def _as_json(files: Files, progress: Progress) -> dict[str, Any]:
    def totals(each: Totals) -> dict[str, Any]:
        calls, seconds, cost, fee = _figures(each)
        return {"calls": int(calls), "seconds": seconds, "cost": cost, "connect_fees": fee}

    return {
        "rated": str(files.rated),
        "rejects": str(files.rejects),
        "totals": totals(_sum(progress)),
        "by_prefix": {prefix: totals(each) for prefix, each in _sorted(progress)},
        "rejected": progress.rejected,
    }
