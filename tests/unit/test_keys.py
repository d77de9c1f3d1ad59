"""The names in the store: distinct accounts never share one, and all keys of one share a hash tag."""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InvalidParams
from rater.store.keys import (
    account_key,
    account_keys,
    encode_part,
    tariff_chunk_key,
    tariff_key,
    tariff_next_key,
)

TEXTS = st.text(alphabet=st.one_of(st.sampled_from(":{}%\n\x00\"'é😀25A7Bab "), st.characters(codec="utf-8")))


def hash_tag(key: bytes) -> bytes:
    """What a cluster hashes: between the first `{` and the first `}` after it, if that is not empty."""
    start = key.index(b"{") + 1
    return key[start : key.index(b"}", start)]


def test_plain_names_stand_as_they_are() -> None:
    keys = account_keys("vdf", "rif")
    assert keys.account == b"ratel:{vdf:rif}:account"
    assert keys.journal == b"ratel:{vdf:rif}:journal"
    assert keys.token_prefix == b"ratel:{vdf:rif}:token:"


@given(TEXTS, TEXTS)
def test_the_key_of_an_account_is_the_same_by_itself(tenant: str, subject: str) -> None:
    assert account_key(tenant, subject) == account_keys(tenant, subject).account


def test_only_what_has_a_meaning_is_encoded() -> None:
    assert encode_part("a:b{c}d%e\n\x7f\x85") == "a%3Ab%7Bc%7Dd%25e%0A%7F%C2%85"
    assert encode_part("é 😀'\"/\\*") == "é 😀'\"/\\*"
    assert encode_part("") == ""


@given(TEXTS)
def test_encoding_can_be_undone_so_no_two_texts_share_a_name(text: str) -> None:
    encoded = encode_part(text)
    assert unquote_to_bytes(encoded).decode() == text
    assert not set(":{}\n\x00") & set(encoded)


@given(TEXTS, TEXTS, TEXTS, TEXTS)
def test_pairs_share_keys_only_when_they_are_the_same(a: str, b: str, c: str, d: str) -> None:
    assert (account_keys(a, b) == account_keys(c, d)) == ((a, b) == (c, d))


@given(TEXTS, TEXTS, TEXTS)
def test_all_keys_of_an_account_share_a_hash_tag(tenant: str, subject: str, token: str) -> None:
    keys = account_keys(tenant, subject)
    tag = f"{encode_part(tenant)}:{encode_part(subject)}".encode()
    for key in (keys.account, keys.journal, keys.token_prefix + token.encode()):
        assert hash_tag(key) == tag


@pytest.mark.parametrize(
    ("tenant", "subject", "field"), [("\ud800", "a", "CstmId"), ("a", "b\udfff", "Subject")]
)
def test_a_lone_surrogate_is_refused_by_the_field_that_holds_it(
    tenant: str, subject: str, field: str
) -> None:
    with pytest.raises(InvalidParams) as caught:
        account_keys(tenant, subject)
    assert caught.value.data["field"] == field


def test_tariff_keys_of_odd_tenants_do_not_collide() -> None:
    assert tariff_key("vdf", 7) == "ratel:tariff:vdf:7"
    assert tariff_chunk_key("vdf", 7, 0) == "ratel:tariff:vdf:7:0"
    assert tariff_next_key("vdf") == "ratel:tariff:vdf:next"
    assert tariff_key("vdf:7", 0) != tariff_chunk_key("vdf", 7, 0)
