"""`ratel rate`: records come out once each, in order, rated as GetCost rates them; also after a kill -9."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from common.client import JSONClient
from common.errors import Overloaded, RatelError, ServiceError, Unauthorized
from rater.bulk import outputs as outputs_module
from rater.bulk import run as run_module
from rater.bulk.command import MAX_CALL_US
from rater.bulk.command import rate as command
from rater.bulk.raters import Cluster, Offline, Outcome
from rater.bulk.records import FileProblem, Record
from rater.bulk.run import files_for, run
from tests.e2e.cluster import SAMPLE_TARIFF

HEADER = "id,CstmId,subj,Dest,TimeStart,duration"
ROW = "1,vdf,rif,0256308200,2012-02-02T17:30:00Z,3600"


def rate(*words: str | Path) -> Result:
    result = CliRunner().invoke(command, [*map(str, words), "--tariff", str(SAMPLE_TARIFF)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def objects(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_csv_is_rated_and_what_is_wrong_is_set_aside(tmp_path: Path) -> None:
    calls = write(
        tmp_path / "calls.csv",
        HEADER,
        ROW,
        "2,vdf,rif,999,2012-02-02T17:30:00Z,60",
        '3,vdf,rif,"0256\n",2012-02-02T17:30:00Z,60',
        "4,vdf,rif,0256,yesterday,60",
        "5,vdf,rif",
        "6,other,rif,0256,2012-02-02T17:30:00Z,60",
        "7,vdf,rif,0256,2012-02-02T17:30:00Z,-1",
        "8,vdf,rif,0256,2012-02-02T17:30:00Z,0.5",
        "",
        "9,vdf,,0256,2012-02-02T17:30:00Z,1",
    )
    result = rate(calls)
    assert result.exit_code == 1
    assert [
        (row["id"], row["RatedPrefix"], row["RatedCost"]) for row in rows(tmp_path / "calls.rated.csv")
    ] == [
        ("1", "0256", "540"),
        ("3", "0256", "12"),
        ("8", "0256", "0.1"),
    ]
    rejected = [(r["RejectLine"], r["id"], r["RejectError"]) for r in rows(tmp_path / "calls.rejects.csv")]
    assert rejected == [
        ("3", "2", "no_rate"),
        ("6", "4", "invalid_params"),
        ("7", "5", "parse_error"),
        ("8", "6", "unknown_tenant"),
        ("9", "7", "invalid_params"),
        ("12", "9", "invalid_params"),
    ]
    assert "rejected: 6 (3 invalid_params, 1 no_rate, 1 parse_error, 1 unknown_tenant)" in result.stdout
    assert "all         3   3660.5  552.1             0" in result.stdout
    assert not list(tmp_path.glob("*.state*"))


def test_json_lines_keep_their_members_as_they_were(tmp_path: Path) -> None:
    call = '{"n": 1.10, "CstmId": "vdf", "subject": "rif", "dest": "0256", "start": "2012-02-02T17:30:00Z", '
    calls = write(tmp_path / "calls.jsonl", call + '"duration": 1.5}', call + '"end": 7}', "[1]", "{", "")
    result = rate(calls, "--json")
    assert result.exit_code == 1
    [rated] = (tmp_path / "calls.rated.jsonl").read_text().splitlines()
    assert '"n":1.10' in rated
    assert '"RatedCost":0.3' in rated
    first, second, third = objects(tmp_path / "calls.rejects.jsonl")
    assert (first["n"], first["RejectLine"], first["RejectError"]) == (1.1, 2, "invalid_params")
    assert "end" in first["RejectMessage"].lower()
    assert (second["Text"], second["RejectError"]) == ("[1]", "parse_error")
    assert third["Text"] == "{"
    shown = json.loads(result.stdout)
    assert shown["by_prefix"] == {"0256": {"calls": 1, "seconds": "1.5", "cost": "0.3", "connect_fees": "0"}}
    assert shown["rejected"] == {"invalid_params": 1, "parse_error": 2}


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ('"subject": "rif", "subj": "dan", "dest": "0256"', "Subject: is given twice"),
        ('"subj": "dan", "subj": "rif", "dest": "0256"', "Subject: is given twice"),
        ('"\\u0073ubj": "dan", "subj": "rif", "dest": "0256"', "Subject: is given twice"),
        ('"subj": "rif", "dest": 2.56e2', "DestinationPrefix: expected a string, not a number"),
        ('"subj": "rif", "dest": 256', "DestinationPrefix: expected a string, not a number"),
        ('"subj": 1.0, "dest": "0256"', "Subject: expected a string, not a number"),
    ],
)
def test_a_member_that_could_mean_something_else_is_rejected(tmp_path: Path, members: str, said: str) -> None:
    """Not rated for one of two subjects, or for the prefix that a number happens to be written as."""
    call = f'{{"CstmId": "vdf", {members}, "start": "2012-02-02T17:30:00Z", "duration": 60}}'
    plain = call.replace(members, '"subj": "rif", "dest": "0256", "end": null, "note": "\\"subj\\""')
    result = rate(write(tmp_path / "calls.jsonl", call, plain), "--json")
    [reject] = objects(tmp_path / "calls.rejects.jsonl")
    assert (reject["RejectError"], reject["RejectMessage"]) == ("invalid_params", said)
    assert json.loads(result.stdout)["totals"]["calls"] == 1


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_rejects_can_be_put_right_and_rated(tmp_path: Path, suffix: str) -> None:
    if suffix == "csv":
        calls = write(tmp_path / "calls.csv", HEADER, ROW.replace("rif,0256308200", "rif,9"))
    else:
        fields = {
            "CstmId": "vdf",
            "subj": "rif",
            "dest": "9",
            "start": "2012-02-02T17:30:00Z",
            "duration": 60,
        }
        calls = write(tmp_path / "calls.jsonl", json.dumps(fields))
    assert rate(calls).exit_code == 1
    rejects = tmp_path / f"calls.rejects.{suffix}"
    text = rejects.read_text()
    rejects.write_text(text.replace("rif,9,", "rif,0256,").replace('"dest":"9"', '"dest":"0256"'))
    again = rate(rejects)
    assert again.exit_code == 0, again.output
    rated = tmp_path / f"calls.rejects.rated.{suffix}"
    assert "Reject" not in rated.read_text()
    assert len(rated.read_text().splitlines()) == (2 if suffix == "csv" else 1)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "it is empty"),
        (["CstmId,subj,dest,duration"], "names no column TimeStart"),
        (["CstmId,subj,dest,start"], "neither TimeEnd nor duration"),
        (["CstmId,subj,Subject,dest,start,end"], "two columns for Subject"),
        ([HEADER, "x" * 70_000], "line 2 is longer than 65536 bytes"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, lines: Sequence[str], said: str) -> None:
    result = rate(write(tmp_path / "calls.csv", *lines))
    assert result.exit_code == 1
    assert said in result.stderr


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    calls = write(tmp_path / "calls.csv", HEADER, ROW)
    assert rate(calls).exit_code == 0
    kept = (tmp_path / "calls.rated.csv").read_bytes()
    again = rate(calls)
    assert again.exit_code == 1
    assert "is there already; --restart writes it anew" in again.stderr
    assert (tmp_path / "calls.rated.csv").read_bytes() == kept
    assert rate(calls, "--restart").exit_code == 0
    assert rate(calls, "--output", calls).exit_code == 2
    assert calls.read_text().startswith(HEADER)


def many(path: Path, count: int) -> Path:
    """Records of which every tenth has no rate."""
    chance = random.Random(1)
    numbers = ("0256", "0257", "0723", "0044")
    with path.open("w") as file:
        file.write(f"{HEADER}\n")
        for number in range(count):
            dest = "999" if number % 10 == 9 else chance.choice(numbers)
            file.write(f"{number},vdf,rif,{dest},2024-02-02T17:30:00Z,{chance.randrange(1, 5000)}\n")
    return path


class Fails(Exception):
    pass


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_an_interrupted_run_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setattr(run_module, "CHUNK", 7)
    monkeypatch.setattr(run_module, "SAVE_EVERY_S", 0.0)
    calls = many(tmp_path / "calls.csv", 100)
    if suffix == "jsonl":
        names = ["id", "CstmId", "subj", "dest", "start", "duration"]
        values = [dict(zip(names, row.values(), strict=True)) for row in rows(calls)]
        calls = write(tmp_path / "calls.jsonl", *map(json.dumps, values))
    offline = Offline([SAMPLE_TARIFF], "", 10**13)

    class Interrupted:
        def __init__(self, after: int) -> None:
            self.left = after

        def rate(self, records: Sequence[Record]) -> list[Outcome]:
            self.left -= 1
            if self.left < 0:
                raise Fails
            return offline.rate(records)

    whole = files_for(calls, tmp_path / "whole", tmp_path / "whole.rejects")
    expected = run(whole, offline, "x")
    files = files_for(calls, None, None)
    for after in (0, 1, 3, 0, 2):
        with pytest.raises(Fails):
            run(files, Interrupted(after), "x")
        if files.rated.exists():  # what a kill leaves behind what was safe
            files.rated.write_bytes(files.rated.read_bytes() + b"half a li")
    found = run(files, offline, "x")
    assert files.rated.read_bytes() == whole.rated.read_bytes()
    assert files.rejects.read_bytes() == whole.rejects.read_bytes()
    assert (found.totals, found.rejected) == (expected.totals, expected.rejected)
    assert found.rejects == 10


def test_an_interrupted_run_does_not_go_on_with_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "CHUNK", 7)
    monkeypatch.setattr(run_module, "SAVE_EVERY_S", 0.0)
    calls = many(tmp_path / "calls.csv", 50)
    files = files_for(calls, None, None)
    offline = Offline([SAMPLE_TARIFF], "", 10**13)

    def half(records: Sequence[Record]) -> list[Outcome]:
        if records[0].line > 20:
            raise Fails
        return offline.rate(records)

    breaking: Any = type("Half", (), {"rate": staticmethod(half)})()
    with pytest.raises(Fails):
        run(files, breaking, "x")
    with pytest.raises(FileProblem, match="rated by x, this one would by y"):
        run(files, offline, "y")
    kept = files.rated.read_bytes()
    files.rated.write_bytes(kept[:-20])
    with pytest.raises(FileProblem, match="shorter than the interrupted run left it"):
        run(files, offline, "x")
    files.rated.write_bytes(kept)
    state = files.state.read_bytes()
    files.state.write_bytes(b"{")
    with pytest.raises(FileProblem, match="can't be read"):
        run(files, offline, "x")
    files.state.write_bytes(state.replace(b'"format":1', b'"format":9'))
    with pytest.raises(FileProblem, match="of another release"):
        run(files, offline, "x")
    files.state.write_bytes(state)
    with calls.open("a") as file:
        file.write(f"{ROW}\n")
    with pytest.raises(FileProblem, match="has changed since the interrupted run"):
        run(files, offline, "x")
    assert run(files, offline, "x", restart=True).calls == 46
    assert outputs_module.read_state(files.state) is None


def offset_in(state: Path) -> int:
    return int(json.loads(state.read_bytes())["offset"]) if state.exists() else len(HEADER) + 1


def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    """kill -9 in the middle, twice, of the real command; then the outputs are those of a run in one go."""
    calls = many(tmp_path / "calls.csv", 40_000)
    often = "from rater.bulk import run; run.CHUNK, run.SAVE_EVERY_S = 100, 0; "
    often += "from common.cli import main; main()"
    words = [sys.executable, "-c", often, "rate", str(calls), "--tariff", str(SAMPLE_TARIFF)]
    state = tmp_path / "calls.rated.csv.state"
    offsets = []
    for _ in range(2):
        before = offset_in(state)
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        while process.poll() is None and offset_in(state) == before:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it was done before it was killed"
        offsets.append(offset_in(state))
    assert 0 < offsets[0] < offsets[1] < calls.stat().st_size
    assert subprocess.run(words, stdout=subprocess.DEVNULL, check=False).returncode == 1
    ids = [row["id"] for row in rows(tmp_path / "calls.rated.csv")]
    assert ids == [str(number) for number in range(40_000) if number % 10 != 9]
    assert len(rows(tmp_path / "calls.rejects.csv")) == 4_000


def test_two_runs_do_not_write_the_same_files(tmp_path: Path) -> None:
    """Each would cut off what the other one has written."""
    files = files_for(many(tmp_path / "calls.csv", 8), None, None)

    class Meanwhile(Offline):
        def rate(self, records: Sequence[Record]) -> list[Outcome]:
            for restart in (False, True):
                with pytest.raises(FileProblem, match="another run is writing it"):
                    run(files, offline, "x", restart=restart)
            return super().rate(records)

    offline, other = (kind([SAMPLE_TARIFF], "", MAX_CALL_US) for kind in (Offline, Meanwhile))
    assert run(files, other, "x").calls == 8
    assert [row["id"] for row in rows(files.rated)] == list("01234567")


# --- by a cluster -----------------------------------------------------------------------------------


class Flaky(JSONClient):
    """Answers that it is overloaded, so many times, before it rates."""

    def __init__(self, times: int) -> None:
        super().__init__("127.0.0.1:1")
        self.times = times
        self.asked: list[int] = []

    def call_many(self, calls: Any, **_: Any) -> list[Any]:
        calls = list(calls)
        self.asked.append(len(calls))
        self.times -= 1
        good = {"DestinationPrefix": "02", "Cost": 1, "ConnectFee": 0}
        refusal: RatelError = Overloaded(detail="too much")
        return [
            refusal if self.times >= 0 and (place % 2 or len(calls) == 1) else good
            for place in range(len(calls))
        ]


def test_what_the_cluster_can_not_do_now_is_asked_again(tmp_path: Path) -> None:
    files = files_for(many(tmp_path / "calls.csv", 8), None, None)
    pauses: list[float] = []
    client = Flaky(3)
    assert run(files, Cluster(client, pauses.append), "x").calls == 8
    assert client.asked == [8, 4, 2, 1]
    assert pauses == sorted(pauses)


def test_when_it_can_not_for_long_the_run_ends_and_goes_on_later(tmp_path: Path) -> None:
    files = files_for(many(tmp_path / "calls.csv", 8), None, None)
    with pytest.raises(ServiceError):
        run(files, Cluster(Flaky(10**6), lambda seconds: None), "x")
    assert files.rated.read_text().count("\n") == 1


def test_a_key_that_is_no_longer_valid_rejects_no_record(tmp_path: Path) -> None:
    """It says nothing about the records: the run goes on with a new one."""

    class Revoked(Flaky):
        def call_many(self, calls: Any, **_: Any) -> list[Any]:
            found = super().call_many(calls)
            return [*found[:1], *[Unauthorized(detail="the API key was revoked") for _ in found[1:]]]

    files = files_for(many(tmp_path / "calls.csv", 8), None, None)
    with pytest.raises(Unauthorized):
        run(files, Cluster(Revoked(0)), "x")
    progress = run(files, Cluster(Flaky(0)), "x")
    assert (progress.calls, progress.rejected) == (8, {})


def test_a_cluster_that_is_not_there_is_told(tmp_path: Path) -> None:
    calls = write(tmp_path / "calls.csv", HEADER, ROW)
    result = CliRunner().invoke(
        command, [str(calls), "--timeout", "0.2"], env={**os.environ, "RATEL_ADDRESS": "127.0.0.1:1"}
    )
    assert result.exit_code == 3
    assert "run it again, it goes on from here" in result.stderr
