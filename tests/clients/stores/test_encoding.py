"""Keys: nothing forbidden is left, nothing changes its place."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from clients.stores import encoding

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
