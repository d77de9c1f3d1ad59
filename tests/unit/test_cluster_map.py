"""Who serves which slot: URLs, slots of keys, what nodes say."""

from __future__ import annotations

import pytest
from redis.crc import key_slot

from common.addresses import Address
from common.storage.cluster import ClusterConnection
from common.storage.cluster_map import (
    View,
    holdings,
    key_of,
    newest,
    parse_cluster_url,
    parse_redirect,
    parse_view,
    slot_of,
)
from common.storage.store import StoreConnection
from common.storage.store_url import StoreUrlError, describe_store_url
from common.storage.stores import connect
from rater.store import keys

ASKED = Address("10.0.0.9", 7000)


def test_a_url_names_nodes_and_how_to_log_in() -> None:
    url = parse_cluster_url("rediss+cluster://u:p%40ss@a,b:1,[::1]:2/0?ssl_ca_certs=/ca.pem")
    assert url.seeds == (Address("a", 6379), Address("b", 1), Address("::1", 2))
    assert url.node_url(Address("fe80::1", 7)) == "rediss://u:p%40ss@[fe80::1]:7?ssl_ca_certs=/ca.pem"
    assert parse_cluster_url("redis+cluster://a").node_url(Address("b", 1)) == "redis://b:1"
    assert describe_store_url("redis+cluster://u:secret@a:1,b:2?x=secret") == "redis+cluster://a:1,b:2"


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("redis+cluster://u:secret@", "HOST or HOST:PORT"),
        ("redis+cluster://u:secret@a:1,", "HOST or HOST:PORT"),
        ("redis+cluster://u:secret@a:x", "HOST or HOST:PORT"),
        ("redis+cluster://u:sec/ret@a:1", "HOST or HOST:PORT"),
        ("redis+cluster://[::1", "not a store's URL"),
        ("redis+cluster://u:secret@a:1/1", "no databases"),
        ("redis+cluster://u:secret@a:1/service", "no databases"),
        ("redis+cluster://u:secret@a?socket_timeout=x", "socket_timeout"),
        ("redis+clusters://u:secret@a", "begins with"),
    ],
)
def test_a_wrong_url_is_found_at_once_and_no_password_shown(url: str, complaint: str) -> None:
    with pytest.raises(StoreUrlError) as caught:
        connect(url)
    assert complaint in str(caught.value)
    assert "sec" not in str(caught.value)


def test_the_url_chooses_the_kind_of_connection() -> None:
    assert isinstance(connect("redis+cluster://a"), ClusterConnection)
    assert isinstance(connect("redis://a"), StoreConnection)
    assert isinstance(connect("redis+sentinel://a/s"), StoreConnection)


@pytest.mark.parametrize(
    "key", ["", "a", "{a}b", "x{a}b{c}", "{}a", "{a", "a}{b}", "{{a}}", "ratel:{vdf:rif}:journal", "ä"]
)
def test_slots_are_those_of_the_cluster(key: str) -> None:
    assert slot_of(key) == slot_of(key.encode()) == key_slot(key.encode())


def test_all_keys_of_an_account_and_the_switch_of_tariffs_have_one_slot() -> None:
    account = keys.account_keys("ten:{a}nt", "sub}ject")
    assert len({slot_of(key) for key in (*account, account.token_prefix + b"c:{x}")}) == 1
    assert slot_of(keys.TARIFF_EPOCH) == slot_of(keys.TARIFF_ACTIVE)


def test_the_key_of_a_command() -> None:
    assert key_of((b"EVALSHA", b"sha", 3, b"a", b"b", b"c", 1)) == b"a"
    assert key_of(("EVAL", "text", 2, "a", "b")) == "a"
    assert key_of((b"MGET", b"a")) == b"a"
    assert key_of(("MULTI",)) is key_of(("TIME",)) is key_of(("SCRIPT", "LOAD", "a")) is None


def test_what_a_node_says_of_the_cluster() -> None:
    info = b"cluster_state:ok\r\ncluster_current_epoch:7\r\n"
    slots = [
        [0, 100, [b"10.0.0.1", 7001, b"id", []], [b"10.0.0.2", 7002, b"id", []]],
        [101, 101, [None, 7000, b"id"]],
        [102, 200, [b"", 7003, b"id"]],
        [201, 300, [b"?", 7004, b"id"]],
    ]
    view = parse_view(info, slots, ASKED)
    ranges = (
        (0, 100, Address("10.0.0.1", 7001)),
        (101, 101, ASKED),
        (102, 200, Address("10.0.0.9", 7003)),
    )
    assert view == View(True, 7, ranges)
    with pytest.raises(ValueError, match="no epoch"):
        parse_view(b"cluster_enabled:0\r\n", [], ASKED)


def test_the_view_with_the_highest_epoch_is_believed_and_of_those_a_working_one() -> None:
    old, broken, good = View(True, 3, ()), View(False, 4, ()), View(True, 4, ())
    assert newest([old, broken, good, old]) is good
    assert newest([old, broken]) is broken


def test_redirects() -> None:
    assert parse_redirect("MOVED 5 10.0.0.1:7", ASKED) == (False, 5, Address("10.0.0.1", 7))
    assert parse_redirect("ASK 5 ::1:7", ASKED) == (True, 5, Address("::1", 7))
    assert parse_redirect("MOVED 5 :7001", ASKED) == (False, 5, Address("10.0.0.9", 7001))
    assert parse_redirect("MOVED 5 ?:7001", ASKED) is None
    assert parse_redirect("TRYAGAIN Multiple keys", ASKED) is None


def test_what_a_node_holds_shows_slots_that_are_on_their_way() -> None:
    nodes = (
        b"aa 10.0.0.1:7@17 master - 0 1 1 connected 0-5460\n"
        b"bb 10.0.0.2:7@17 myself,master - 0 0 2 connected 5461-10922 [5461->-aa]\n"
    )
    assert holdings(nodes) == "2 5461-10922 [5461->-aa]"
    assert holdings(b"") == ""
