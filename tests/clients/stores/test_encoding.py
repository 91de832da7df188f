"""Keys: nothing forbidden is left, nothing changes its place."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients.stores import CorruptRecord, encoding

KEYS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)


@given(KEYS)
def test_an_encoded_key_is_plain_and_comes_back(key: str) -> None:
    encoded = encoding.encode_key(key)

    assert re.fullmatch(r"[!-~]+", encoded)
    assert not re.search(r"[/\\#?%]", encoded)
    assert encoding.decode_key(encoded) == key


@given(KEYS, KEYS)
def test_encoded_keys_sort_as_keys_do(one: str, other: str) -> None:
    assert (one < other) == (encoding.encode_key(one) < encoding.encode_key(other))


@given(KEYS, KEYS)
def test_a_range_holds_exactly_what_begins_with_the_prefix(prefix: str, other: str) -> None:
    start, below, _ = encoding.key_range(prefix, "")

    for key in (other, prefix, prefix + other):
        assert (start <= encoding.encode_key(key) < below) == key.startswith(prefix)


def test_the_short_way_of_writing_a_key_is_the_long_way_for_every_character() -> None:
    for code in [*range(0xD800), *range(0xE000, 0x10000), 0x1D51E]:
        char = chr(code)
        assert encoding.encode_key(f"a{char}b") == "a" + encoding._encode_char(char) + "b"


def test_text_that_is_nested_too_deep_to_be_read_is_no_record() -> None:
    with pytest.raises(CorruptRecord):
        encoding.load("key", '{"a":' * 200_000)
