"""Lines of the log: one an event, whatever is in it."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any, cast

import pytest

from balancer import front
from balancer.http.app import HttpApp
from balancer.http.message import Request
from common.logs import JsonFormatter, KeyValueFormatter, Throttle, describe_error, is_journal, setup

NUMBER = "40712345678"


def line(text: str, *args: object) -> str:
    return KeyValueFormatter().format(logging.LogRecord("balancer.x", logging.INFO, "", 1, text, args, None))


def test_a_line_has_time_level_logger_and_event() -> None:
    assert line("rater=%s joins", "a").endswith("Z level=info logger=balancer.x rater=a joins")
    assert line("x").startswith("time=20")


def test_an_event_cannot_forge_a_second_line() -> None:
    assert line("peer=%s", "a\nlevel=error\r").endswith("peer=a\\nlevel=error\\r")


def test_a_throttle_lets_one_event_through_an_interval_and_counts_the_others() -> None:
    throttle = Throttle(5.0)
    assert [throttle.passes(now_s) for now_s in (100.0, 101.0, 104.9, 105.0, 200.0)] == [0, None, None, 2, 0]


def failing(chained: bool = True) -> BaseException:
    try:
        try:
            raise KeyError(NUMBER)
        except KeyError as error:
            if chained:
                raise ValueError(f"no account {NUMBER}") from error
            raise ValueError(NUMBER) from None
    except ValueError as error:
        return error


def test_a_traceback_shows_where_and_what_kind_of_errors_and_not_their_texts() -> None:
    error = failing()
    record = logging.LogRecord("x", logging.ERROR, "", 1, "failed", (), (type(error), error, None))
    text = KeyValueFormatter().format(record)
    assert NUMBER not in text
    assert "\n" not in text
    for part in (" failed traceback='", "test_logs.py", "in failing", "ValueError", "because of", "KeyError"):
        assert part in text
    assert "KeyError" not in describe_error(failing(chained=False))


def test_a_chain_of_causes_ends() -> None:
    first, second = ValueError(NUMBER), ValueError(NUMBER)
    first.__cause__, second.__cause__ = second, first
    assert describe_error(first).count("ValueError") == 5


def test_an_uncaught_error_is_logged_and_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    before, handlers = sys.excepthook, logging.getLogger().handlers[:]
    try:
        setup("info")
        error = failing()
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        sys.excepthook = before
        logging.getLogger().handlers[:] = handlers
    [line] = capsys.readouterr().err.splitlines()
    assert "level=critical logger=ratel uncaught, the process ends traceback=" in line
    assert NUMBER not in line


def test_a_defect_in_the_http_gateway_is_logged_without_the_query(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        status = 0

        def turn_away(self) -> None:
            raise failing()

        def respond(self, _request: Request, status: int, *_: bytes) -> None:
            self.status = status

    broken = Broken()
    target = f"/getcost?cstmid=vdf&subj={NUMBER}&dest=1".encode()
    HttpApp(cast(Any, broken)).serve(Request(broken, b"GET", target, []))
    [record] = caplog.records
    assert (broken.status, record.getMessage()) == (500, "a defect: path=b'/getcost'")
    assert NUMBER not in KeyValueFormatter().format(record)


def test_a_defect_in_the_event_loop_is_logged_without_arguments(caplog: pytest.LogCaptureFixture) -> None:
    context = {"message": NUMBER, "exception": failing(), "handle": NUMBER, "protocol": NUMBER}
    front._report_defect(cast(Any, None), context)
    [record] = caplog.records
    text = KeyValueFormatter().format(record)
    assert "a defect in the event loop traceback=" in text
    assert NUMBER not in text


# --- JSON, the journal, debug --------------------------------------------------------------------


def as_json(text: str, *args: object, level: int = logging.INFO) -> Any:
    line = JsonFormatter().format(logging.LogRecord("x", level, "", 1, text, args, None))
    assert "\n" not in line
    return json.loads(line)


def test_a_line_as_json_has_the_same_and_the_fields_of_its_event() -> None:
    line = as_json("rater=%s joins credit=%s at %s 100%% ratio=%.2f", "a\n", 12, "noon", 0.5)
    assert line.pop("time").startswith("20")
    assert line == {
        "level": "info",
        "logger": "x",
        "event": "rater=a\n joins credit=12 at noon 100% ratio=0.50",
        "fields": {"rater": "a\n", "credit": 12, "ratio": 0.5},
    }
    assert "fields" not in as_json("stopped")


def test_a_traceback_as_json_keeps_to_itself_what_errors_say() -> None:
    error = failing()
    record = logging.LogRecord("x", logging.ERROR, "", 1, "failed", (), (type(error), error, None))
    text = JsonFormatter().format(record)
    assert NUMBER not in text
    assert "ValueError" in json.loads(text)["traceback"]


@pytest.mark.parametrize(
    ("level", "begins"),
    [(logging.DEBUG, "<7>"), (logging.INFO, "<6>"), (logging.WARNING, "<4>"), (logging.ERROR, "<3>")],
)
def test_lines_for_the_journal_begin_with_their_priority(level: int, begins: str) -> None:
    record = logging.LogRecord("x", level, "", 1, "event", (), None)
    assert KeyValueFormatter(in_journal=True).format(record).startswith(f"{begins}level=")
    assert JsonFormatter(in_journal=True).format(record).startswith(begins + "{")


def test_the_journal_is_known_by_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "journal").open("w") as stream:
        monkeypatch.delenv("JOURNAL_STREAM", raising=False)
        assert not is_journal(stream)
        found = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
        assert is_journal(stream)
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino + 1}")
        assert not is_journal(stream)
