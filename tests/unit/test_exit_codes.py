"""One error ends every command with one exit code, whether it comes from the store or by the API."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
from redis.exceptions import ResponseError

from common.commands.client_options import call_errors
from common.commands.command_line import EXIT_REFUSED, EXIT_UNAVAILABLE
from common.commands.store_access import store_errors
from common.errors import (
    CallerError,
    Damaged,
    ErrorBody,
    InternalError,
    RatelError,
    TariffUnreadable,
    _classes,
    decode_error,
    encode_error,
    error_from_body,
)
from rater.store.errors import store_error

Ending = Callable[[], AbstractContextManager[None]]


def code(ending: Ending, error: Exception) -> object:
    with pytest.raises(SystemExit) as ended, ending():
        raise error
    return ended.value.code


@pytest.mark.parametrize("kind", _classes(RatelError), ids=lambda kind: kind.__name__)
def test_an_error_has_one_exit_code_wherever_it_is_met(kind: type[RatelError]) -> None:
    error = kind.__new__(kind)
    error.data = {}
    Exception.__init__(error, "it went wrong")
    stays = issubclass(kind, (CallerError, Damaged, TariffUnreadable))
    expected = EXIT_REFUSED if stays else EXIT_UNAVAILABLE
    assert code(store_errors, error) == expected
    assert code(call_errors, error) == expected


def test_an_error_that_this_version_does_not_know_may_be_tried_again() -> None:
    assert code(call_errors, error_from_body(ErrorBody(-1, "new", "of tomorrow"))) == EXIT_UNAVAILABLE


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("WRONGTYPE Operation against a key holding the wrong kind of value", EXIT_REFUSED),
        ("ERR the account holds something else", EXIT_REFUSED),
        ("ERR unknown command 'WAITAOF'", EXIT_UNAVAILABLE),
        ("OOM command not allowed when used memory > 'maxmemory'.", EXIT_UNAVAILABLE),
        ("NOPERM User ratel has no permissions", EXIT_UNAVAILABLE),
    ],
)
def test_what_is_damaged_in_the_store_is_nothing_to_try_again(text: str, expected: int) -> None:
    assert code(store_errors, store_error(ResponseError(text))) == expected


def test_a_damaged_key_is_an_internal_error_to_clients() -> None:
    told = decode_error(encode_error(store_error(ResponseError("WRONGTYPE"))))
    assert type(told) is InternalError


def test_what_a_command_refuses_itself_is_refused() -> None:
    assert code(lambda: store_errors(OSError), OSError("no space")) == EXIT_REFUSED
    with pytest.raises(OSError, match="no space"), store_errors():
        raise OSError("no space")
