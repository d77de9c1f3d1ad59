"""The store, for commands that work on it, whose troubles end them as `common.commands.command_line` says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

import click

from common.commands.command_line import code_of, refuse
from common.errors import NotDurable, RatelError
from common.storage.store_url import StoreUrlError
from common.storage.stores import Store, connect


@contextmanager
def store_errors(*refusals: type[Exception]) -> Iterator[None]:
    """What goes wrong with the store, or is refused, ends the command; as `refusals` do, of whatever kind."""
    try:
        yield
    except StoreUrlError as error:
        raise click.BadParameter(str(error), param_hint="--store") from None
    except RatelError as error:
        refuse(error.message, code_of(error))
    except refusals as error:
        refuse(str(error))


@contextmanager
def open_store(url: str, timeout_ms: int, *refusals: type[Exception]) -> Iterator[Store]:
    """A connection, for as long as the command needs it; errors as with `store_errors`."""
    with store_errors(*refusals), closing(connect(url, timeout_ms=timeout_ms)) as store:
        yield store


@contextmanager
def too_few_copies(what: str) -> Iterator[None]:
    """For a command whose changes have no request id: that copies are missing ends it with what to do."""
    try:
        yield
    except NotDurable as error:
        confirmed, copies, timeout_ms = (error.data[name] for name in ("confirmed", "copies", "timeout_ms"))
        said = f"{confirmed} of {copies} copies confirmed within {timeout_ms} ms what was written last"
        refuse(f"the {what}: {said}; run it again", code_of(error))
