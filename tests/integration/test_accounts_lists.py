"""A script does a list of requests: each as if it came alone, in order, whatever happens to its neighbours.

What must hold after anything: the account is its last journal line, and each line's token stands. Then a
request that is sent again by itself is told what became of it, and nothing happens twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count, pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.exceptions import ResponseError

from common.errors import Damaged, InternalError, StoreUnavailable
from common.storage.store import Command, StoreConnection
from rater.accounts.mutation import Mutation, MutationResult, Refused
from rater.accounts.mutations import (
    MAX_SCRIPT_REQUESTS,
    batch_command,
    mutation_command,
    parse_account,
    parse_mutation_reply,
)
from rater.accounts.opening import open_command, parse_open_reply
from rater.model import MAX_BUCKETS, Account, Bonus, Bucket, Plan
from rater.store import scripts
from rater.store.keys import AccountKeys, account_keys
from tests.integration.conftest import Accounts
from tests.integration.test_accounts_model import ACCOUNTS, MUTATIONS, Model, mutation_of, outcome_of
from tests.stored import FIGURES, account_fields, line_fields

SUBJECTS = count()
PLAN = Plan("p", 5, 6, 10, Bonus(1, 2, 3, Bucket("e", 4, 0, 0)), (Bucket("d", 9, 0, 0),))
FULL = Account("", 1000, 1000, 1000, plan="p", buckets=(Bucket("d", 1000, 0, 10**9), Bucket("e", 9, 0, 0)))
METHODS: dict[str, dict[str, Any]] = {
    "DebitBalance": {"amount_micros": 5},
    "DebitSMS": {"amount_micros": 5},
    "DebitSeconds": {"amount_micros": 5, "destination": "0723", "matches": (("d", 2),)},
    "AddVolumeDiscountSeconds": {"amount_micros": 5},
    "ResetVolumeDiscountSeconds": {},
    "AddRecievedCallSeconds": {"amount_micros": 12, "plan_id": "p", "plan": PLAN},
    "ResetUserBudget": {"plan_id": "p", "plan": PLAN},
}


def keys_of(mutation: Mutation) -> AccountKeys:
    return account_keys(mutation.tenant, mutation.subject)


def command(mutations: Sequence[Mutation]) -> Command:
    return batch_command(mutations[0].method, [(keys_of(mutation), mutation) for mutation in mutations])


def token_key(mutation: Mutation) -> bytes:
    return keys_of(mutation).token_prefix + mutation.token.encode()


def mutations(method: str, subjects: Sequence[str], **fields: Any) -> list[Mutation]:
    return [
        Mutation(
            method=method,
            tenant="vdf",
            subject=subject,
            token=f"t{place}",
            **({"token_ttl_ms": 60_000} | METHODS[method] | fields),
        )
        for place, subject in enumerate(subjects)
    ]


def open_all(store: StoreConnection, subjects: Sequence[str]) -> None:
    for reply in scripts.execute(
        store, [open_command(account_keys("vdf", subject), FULL) for subject in subjects]
    ):
        parse_open_reply(reply)


def expect_whole(store: StoreConnection, subjects: Sequence[str], asked: Sequence[Mutation]) -> None:
    """Each account is its last line, lines follow each other, and each has its token and no other has."""
    done: set[tuple[str, str]] = set()
    for subject in subjects:
        keys = account_keys("vdf", subject)
        value, entries = store.execute([("GET", keys.account), ("XRANGE", keys.journal, "-", "+")])
        lines = [line_fields(pairs) for _, pairs in entries]
        assert [int(line["seq"]) for line in lines] == list(range(1, len(lines) + 1))
        live = account_fields(value)
        assert {name: lines[-1][name].decode() for name in FIGURES} == {name: live[name] for name in FIGURES}
        for name in ("credit", "sms"):
            took = {"credit": b"DebitBalance", "sms": b"DebitSMS"}[name]
            for before, after in pairwise(lines):
                if after["op"] == took:
                    assert int(after[name]) == int(before[name]) - int(after["amount"])
        tokens = [line["token"].decode() for line in lines[1:]]
        assert len(set(tokens)) == len(tokens)
        done |= {(subject, token) for token in tokens}
    for mutation in asked:
        if (mutation.subject, mutation.token) in done:
            [stored] = store.execute([("GET", token_key(mutation))])
            assert stored.partition(b"\n")[2].startswith(b"OK ")


def each_alone(store: StoreConnection, asked: Sequence[Mutation]) -> list[Any]:
    replies = scripts.execute(store, [mutation_command(keys_of(m), m) for m in asked])
    return [reply[0] if type(reply) is list else reply for reply in replies]


# --- as if each came alone --------------------------------------------------------------------------


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    starts=st.lists(ACCOUNTS, min_size=2, max_size=2),
    lists=st.lists(
        st.tuples(MUTATIONS, st.lists(st.tuples(MUTATIONS, st.integers(0, 1)), min_size=1, max_size=12)),
        min_size=1,
        max_size=4,
    ),
)
def test_any_lists_do_what_the_model_does_one_by_one(
    store: Any, starts: list[Account], lists: list[tuple[dict[str, Any], Any]]
) -> None:
    number = next(SUBJECTS)
    names = [f"{number}.{place}" for place in range(2)]
    models = [Model(start) for start in starts]
    for name, start in zip(names, starts, strict=True):
        assert scripts.execute(store, [open_command(account_keys("m", name), start)]) == [b"Opened"]
    for first, others in lists:
        # One method a list, and of the others what is of the same method.
        steps = [(first, 0), *((values, place) for values, place in others)]
        steps = [(values, place) for values, place in steps if values["method"] == first["method"]]
        batch, expected = [], []
        plans = [model.account.plan for model in models]
        for values, place in steps:
            mutation = mutation_of(values, names[place], plans[place])
            batch.append((account_keys("m", names[place]), mutation))
            expected.append(models[place].apply(mutation))
        [replies] = scripts.execute(store, [batch_command(first["method"], batch)])
        told = [outcome_of(parse_mutation_reply(m, r)) for (_, m), r in zip(batch, replies, strict=True)]
        assert told == expected
        for name, model in zip(names, models, strict=True):
            keys = account_keys("m", name)
            value, length, last = store.execute(
                [
                    ("GET", keys.account),
                    ("XLEN", keys.journal),
                    ("XREVRANGE", keys.journal, "+", "-", "COUNT", 1),
                ]
            )
            assert parse_account("", value) == model.account
            assert length == model.seq == int(account_fields(value)["seq"])
            line = line_fields(last[0][1])
            live = account_fields(value)
            assert all(line[figure].decode() == live[figure] for figure in FIGURES)


@pytest.mark.parametrize("method", METHODS)
def test_requests_of_one_account_see_each_other_in_order(store: StoreConnection, method: str) -> None:
    subjects = ["a", "a", "b", "a", "a"]
    open_all(store, ["a", "b", "alone"])
    asked = mutations(method, subjects)
    [replies] = scripts.execute(store, [command(asked)])
    alone = mutations(method, ["alone"] * 4)
    one_by_one = each_alone(store, alone)
    assert [replies[place] for place in (0, 1, 3, 4)] == one_by_one
    assert replies[2] == one_by_one[0]
    values = store.execute([("GET", account_keys("vdf", name).account) for name in ("a", "alone")])
    assert values[0] == values[1]
    expect_whole(store, ["a", "b"], asked)
    assert each_alone(store, asked) == [b"*" + reply for reply in replies]


def test_a_token_that_stands_twice_in_a_list_is_done_once(store: StoreConnection) -> None:
    open_all(store, ["a"])
    [one] = mutations("DebitBalance", ["a"])
    [other] = mutations("DebitBalance", ["a"], amount_micros=6)
    [replies] = scripts.execute(store, [command([one, one, other])])
    assert replies == [b"OK 995", b"*OK 995", b"KeyReused"]


def test_what_is_late_refused_unknown_or_replayed_does_not_disturb_the_others(
    store: StoreConnection,
) -> None:
    open_all(store, ["a"])
    asked = mutations("DebitSMS", ["a", "a", "nobody", "a", "a", "a"])
    asked[1] = mutations("DebitSMS", ["a", "a"], amount_micros=5000)[1]
    asked[3] = mutations("DebitSMS", ["a"] * 4, deadline_us=1)[3]
    scripts.execute(store, [command(asked[4:5])])
    [replies] = scripts.execute(store, [command(asked)])
    assert replies == [
        b"OK 990",
        b"InsufficientSms 990",
        b"UnknownSubject",
        b"Expired",
        b"*OK 995",
        b"OK 985",
    ]
    expect_whole(store, ["a"], asked)


def test_a_list_is_bounded_and_a_token_lives(store: StoreConnection) -> None:
    open_all(store, ["a"])
    asked = mutations("DebitBalance", ["a"] * MAX_SCRIPT_REQUESTS)
    [replies] = scripts.execute(store, [command(asked)])
    assert replies[-1] == b"OK %d" % (1000 - 5 * MAX_SCRIPT_REQUESTS)
    keys = account_keys("vdf", "a")
    for batch in ([], [(keys, asked[0])] * (MAX_SCRIPT_REQUESTS + 1)):
        with pytest.raises(ValueError, match="requests for one script"):
            batch_command("DebitBalance", batch)
    with pytest.raises(ValueError, match="can't live"):
        command(mutations("DebitBalance", ["a"], token_ttl_ms=0))


def test_a_list_of_one_account_stays_in_one_slot_of_a_cluster() -> None:
    words = command(mutations("DebitBalance", ["a{b"] * 3))
    keys = words[3 : 3 + int(words[2])]
    assert len(keys) == 9
    assert {bytes(key).split(b"{", 1)[1].split(b"}", 1)[0] for key in keys} == {b"vdf:a%7Bb"}  # type: ignore[arg-type]


def test_a_full_account_s_list_is_written_once_and_shrinks(store: StoreConnection) -> None:
    """A value that gets shorter is written anew, one that gets longer grows."""
    buckets = tuple(Bucket(f"d{place}" * 20, 1000, 0, 0) for place in range(MAX_BUCKETS - 1))
    keys = account_keys("vdf", "a")
    scripts.execute(store, [open_command(keys, Account("a", plan="p", buckets=buckets))])
    [added] = scripts.execute(store, [command(mutations("AddRecievedCallSeconds", ["a"] * 3))])
    assert added == [b"OK 2", b"OK 4", b"OK 6"]
    [value] = store.execute([("GET", keys.account)])
    account = parse_account("a", value)
    assert account is not None
    assert account.buckets == (*buckets, Bucket("e", 12, 0, 0))
    reset = mutations("ResetUserBudget", ["a"] * 2)
    scripts.execute(
        store,
        [
            batch_command(
                "ResetUserBudget", [(keys, r) for r in (_token(m, f"r{i}") for i, m in enumerate(reset))]
            )
        ],
    )
    [value] = store.execute([("GET", keys.account)])
    account = parse_account("a", value)
    assert account is not None
    assert account.buckets == PLAN.buckets


def _token(mutation: Mutation, token: str) -> Mutation:
    values = {name: getattr(mutation, name) for name in Mutation.__struct_fields__}
    return Mutation(**(values | {"token": token}))


# --- damaged keys -------------------------------------------------------------------------------------

DAMAGE: dict[str, Any] = {
    "account of another type": lambda keys: [
        ("DEL", keys.account),
        ("HSET", keys.account, "seq", 1, "credit", 1),
    ],
    "account of another format": lambda keys: [("SET", keys.account, b"RATELac2" + bytes(64))],
    "account cut off": lambda keys: [("SET", keys.account, b"RATELac1" + bytes(63))],
    "plan cut off": lambda keys: [("SETRANGE", keys.account, 68, b"\xff")],
    "journal": lambda keys: [("DEL", keys.journal), ("SET", keys.journal, "not a stream")],
    "journal full": lambda keys: [
        ("XADD", keys.journal, f"{2**64 - 1}-{2**64 - 1}", "the", "last"),
    ],
}
SHAPES = ("X", "Xa", "aX", "aXa", "aXb", "aXXb", "XaX", "aaXbb", "XX")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("damage", [*DAMAGE, "token"])
def test_a_damaged_key_is_an_error_of_its_own_requests_and_changes_nothing(
    store: StoreConnection, damage: str, method: str
) -> None:
    for shape in SHAPES:
        store.execute([("FLUSHALL", "SYNC")])
        open_all(store, ["a", "b", "X"])
        bad = account_keys("vdf", "X")
        asked = mutations(method, list(shape))
        tokens = [token_key(mutation) for mutation in asked if mutation.subject == "X"]
        harm = (
            [("HSET", key, "not", "a string") for key in tokens] if damage == "token" else DAMAGE[damage](bad)
        )
        assert not [reply for reply in store.execute(harm) if isinstance(reply, Exception)]
        watched = (bad.account, bad.journal, *tokens)
        before = store.execute([("DUMP", key) for key in watched])
        [replies] = scripts.execute(store, [command(asked)])
        for mutation, reply in zip(asked, replies, strict=True):
            outcome = parse_mutation_reply(mutation, reply)
            if mutation.subject == "X":
                assert isinstance(outcome, Refused), shape
                assert type(outcome.error) is (InternalError if damage == "journal full" else Damaged)
            else:
                assert isinstance(outcome, MutationResult), shape
        assert store.execute([("DUMP", key) for key in watched]) == before
        expect_whole(store, ["a", "b"], asked)
        # Sent again by itself: a replay where it was done, the same error where it was not.
        for mutation, reply, again in zip(asked, replies, each_alone(store, asked), strict=True):
            if mutation.subject == "X":
                assert isinstance(again, ResponseError)
            else:
                assert again == b"*" + reply


def test_what_could_not_be_written_is_not_what_the_next_one_is_decided_on(store: StoreConnection) -> None:
    open_all(store, ["a"])
    keys = account_keys("vdf", "a")
    store.execute([("SET", keys.journal, "not a stream")])
    asked = mutations("DebitSMS", ["a"] * 3, amount_micros=600)
    [replies] = scripts.execute(store, [command(asked)])
    assert [type(reply) for reply in replies] == [ResponseError] * 3
    assert store.execute([("EXISTS", *map(token_key, asked))]) == [0]


@pytest.mark.parametrize("method", ["DebitSeconds", "AddRecievedCallSeconds", "ResetUserBudget"])
@pytest.mark.parametrize("at", [-1, 0, 28 + 1, 28 + 1 + 28 + 1])
def test_buckets_that_are_not_whole_are_an_error_for_what_needs_them(
    store: StoreConnection, method: str, at: int
) -> None:
    """It says that there are more, goes on behind its last bucket, or ends before or within one."""
    open_all(store, ["a", "b"])
    key = account_keys("vdf", "a").account
    [value] = store.execute([("GET", key)])
    if at < 0:
        store.execute([("SETRANGE", key, 67, b"\3")])
    else:
        store.execute([("SET", key, value[: 73 + at] + b"x")])
    before = store.execute([("DUMP", key)])
    [replies] = scripts.execute(store, [command(mutations(method, ["b", "a", "a", "b"]))])
    assert [type(reply) for reply in replies] == [bytes, ResponseError, ResponseError, bytes]
    assert store.execute([("DUMP", key)]) == before


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("fit", [0, 1, 2, 3])
def test_a_journal_that_ends_in_the_middle_leaves_the_account_at_its_last_line(
    store: StoreConnection, method: str, fit: int
) -> None:
    """A stream's ids end somewhere: so many more lines fit, then each is an error."""
    open_all(store, ["a", "b"])
    keys = account_keys("vdf", "a")
    store.execute([("XSETID", keys.journal, f"{2**64 - 1}-{2**64 - 1 - fit}")])
    asked = mutations(method, ["b", "a", "a", "a", "a", "b"])
    [replies] = scripts.execute(store, [command(asked)])
    done = [reply for reply in replies[1:5] if isinstance(reply, bytes)]
    assert len(done) == min(fit, 4)
    assert all(isinstance(reply, ResponseError) for reply in replies[1 + len(done) : 5])
    expect_whole(store, ["a", "b"], asked)
    exist = store.execute([("EXISTS", token_key(mutation)) for mutation in asked])
    assert exist == [1, *[1] * len(done), *[0] * (4 - len(done)), 1]
    again = each_alone(store, asked)
    for reply, told in zip(replies, again, strict=True):
        assert told == b"*" + reply if isinstance(reply, bytes) else isinstance(told, ResponseError)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_a_script_that_fails_as_a_whole_leaves_what_was_done_whole(
    store: StoreConnection, method: str, place: int
) -> None:
    """Words that no rater sends make it fail midway: what came before stands, the rest is not begun."""
    open_all(store, ["a"])
    asked = mutations(method, ["a"] * 4)
    words = list(command(asked))
    size = (len(words) - 3 - 12 - 1) // 4
    words[3 + 12 + 1 + size * place] = "no number" if not method.startswith("Reset") else 0
    if method.startswith("Reset"):
        del words[3 + 12 + 1 + size * place + (2 if place == 3 else 0) :]
    [reply] = scripts.execute(store, [tuple(words)])
    assert isinstance(reply, ResponseError)
    expect_whole(store, ["a"], asked)
    exist = store.execute([("EXISTS", token_key(mutation)) for mutation in asked])
    assert exist == [1] * place + [0] * (4 - place)
    again = each_alone(store, asked)
    assert [told.startswith(b"*") for told in again] == [True] * place + [False] * (4 - place)
    expect_whole(store, ["a"], asked)
    [length] = store.execute([("XLEN", account_keys("vdf", "a").journal)])
    assert length == 5


# --- a store that takes no writes ---------------------------------------------------------------------


@pytest.fixture
def full_store(accounts: Accounts) -> Any:
    open_all(accounts.store, ["a", "b"])
    yield accounts.store
    accounts.store.execute([("CONFIG", "SET", "maxmemory", 0)])


@pytest.mark.parametrize("method", METHODS)
def test_a_store_without_memory_refuses_a_list_and_changes_nothing(full_store: Any, method: str) -> None:
    asked = mutations(method, ["a", "a", "b"])
    [keys] = full_store.execute([("KEYS", "*")])
    before = full_store.execute([("DUMP", key) for key in keys])
    full_store.execute([("CONFIG", "SET", "maxmemory", 1)])
    [replies] = scripts.execute(full_store, [command(asked)])
    for mutation, reply in zip(asked, replies, strict=True):
        outcome = parse_mutation_reply(mutation, reply)
        assert isinstance(outcome, Refused)
        assert type(outcome.error) is StoreUnavailable
        assert "OOM" in str(outcome.error)
    assert full_store.execute([("DUMP", key) for key in keys]) == before
    assert full_store.execute([("DBSIZE",)]) == [len(keys)]
    full_store.execute([("CONFIG", "SET", "maxmemory", 0)])
    assert all(reply.startswith(b"OK ") for reply in each_alone(full_store, asked))
    expect_whole(full_store, ["a", "b"], asked)


def test_a_refusal_that_can_t_be_stored_is_none(full_store: Any) -> None:
    asked = mutations("DebitSMS", ["a", "b"], amount_micros=5000)
    full_store.execute([("CONFIG", "SET", "maxmemory", 1)])
    [replies] = scripts.execute(full_store, [command(asked)])
    assert [str(reply).split(" ", 1)[0] for reply in replies] == ["OOM", "OOM"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_replay_among_them_leaves_a_full_store_whole(full_store: Any, method: str, place: int) -> None:
    """A replay may write, and a store lets a script that has written go on: then all of it, and whole."""
    asked = mutations(method, ["a", "a", "b"])
    scripts.execute(full_store, [command([asked[place]])])
    full_store.execute([("CONFIG", "SET", "maxmemory", 1)])
    [replies] = scripts.execute(full_store, [command(asked)])
    full_store.execute([("CONFIG", "SET", "maxmemory", 0)])
    for at, reply in enumerate(replies):
        if at == place:
            assert reply.startswith(b"*OK ")
        else:
            assert isinstance(reply, ResponseError) if at < place else reply.startswith(b"OK ")
    expect_whole(full_store, ["a", "b"], asked)
    again = each_alone(full_store, asked)
    for reply, told in zip(replies, again, strict=True):
        assert told == b"*" + reply.lstrip(b"*") if isinstance(reply, bytes) else told.startswith(b"OK ")
    expect_whole(full_store, ["a", "b"], asked)


# --- a store of another release -------------------------------------------------------------------------


def test_an_account_of_another_format_is_never_taken_for_none(accounts: Accounts) -> None:
    keys = account_keys("vdf", "rif")
    for damage in ([("HSET", keys.account, "seq", 1, "credit", 5)], [("SET", keys.account, b"RATELac0")]):
        accounts.store.execute([("DEL", keys.account), *damage])
        before = accounts.store.execute([("DUMP", keys.account)])
        for method in METHODS:
            outcome = accounts.send(_token(mutations(method, ["rif"])[0], method))
            assert isinstance(outcome, Refused)
            assert type(outcome.error) is Damaged
        for replace in (False, True):
            with pytest.raises(InternalError):
                accounts.open(Account("rif"), replace=replace)
        assert accounts.store.execute([("DUMP", keys.account)]) == before
        assert accounts.store.execute([("DBSIZE",)]) == [1]
    with pytest.raises(InternalError, match="holds something else as the account of 'rif'"):
        accounts.read()
