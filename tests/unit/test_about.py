"""What raters say of themselves reaches balancers of other versions, or does no harm."""

from __future__ import annotations

from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.about import MAX_TENANTS, About, NodeHealth, StoreHealth, decode, encode, own_version
from common.wire import Kind, encode_about
from common.wire import decode as decode_frame
from rater.store.memory import NodeMemory, StoreMemory, parse_memory, total
from rater.telemetry import RaterTelemetry


def test_it_comes_as_it_was_sent() -> None:
    about = About(
        "1.2",
        0.25,
        {"vdf": 3},
        StoreHealth(True, "redis+cluster://h:1", 10, 20, 30, (NodeHealth("h:1", True, 10, 20, 1),)),
    )
    kind, [text] = decode_frame(encode_about(encode(about)))
    assert kind is Kind.ABOUT
    assert decode(text) == about


def test_fields_that_are_missing_or_new_do_no_harm() -> None:
    assert decode(msgspec.msgpack.encode({})) == About()
    assert decode(msgspec.msgpack.encode({"version": "9", "mood": "fine"})) == About("9")


@given(st.binary(max_size=40))
def test_nonsense_is_refused(text: bytes) -> None:
    with suppress(ValueError):
        assert isinstance(decode(text), About)


@pytest.mark.parametrize("wrong", [{"tariffs": {"vdf": "x"}}, {"store": 3}, {"version": 1}, [1]])
def test_what_has_the_wrong_type_is_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match="none"):
        decode(msgspec.msgpack.encode(wrong))


def test_it_says_how_busy_the_rater_was_since_the_last_time() -> None:
    telemetry = RaterTelemetry(0)
    telemetry.busy_us = 250_000
    first = telemetry.about(1_000_000, {}, StoreHealth())
    second = telemetry.about(2_000_000, {}, StoreHealth())
    assert (first.busy, second.busy) == (0.25, 0.0)
    assert first.version == own_version() != ""


def test_it_names_a_bounded_number_of_tenants() -> None:
    versions = {f"t{number:04}": number for number in range(3 * MAX_TENANTS)}
    about = RaterTelemetry(0).about(1, versions, StoreHealth())
    assert len(about.tariffs) == MAX_TENANTS
    assert about.tariffs["t0007"] == 7


def test_a_cluster_s_memory_is_that_of_all_nodes_that_answer() -> None:
    nodes = (NodeMemory("a:1", True, 100, 1000, 1), NodeMemory("b:1"), NodeMemory("c:1", True, 200, 500))
    assert total(nodes) == StoreMemory(300, 1500, nodes)
    without_limit = (*nodes, NodeMemory("d:1", True, 50))
    assert total(without_limit) == StoreMemory(350, 0, without_limit)
    assert total(()) == StoreMemory()


def test_memory_is_what_the_store_says() -> None:
    text = b"# Memory\r\nused_memory:1458768\r\nused_memory_human:1.39M\r\nmaxmemory:2097152\r\n"
    assert parse_memory(text) == StoreMemory(1458768, 2097152)
    assert parse_memory(b"# Memory\r\n") == parse_memory(b"used_memory:many\r\n") == StoreMemory()
