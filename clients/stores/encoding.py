r"""
How keys and bodies are written, the same in both stores, so that they sort alike and refuse the same things.

Azure Table forbids ``/ \ # ?`` and control characters in keys, and ``%`` and blanks make trouble in URLs
(learn.microsoft.com/rest/api/storageservices/understanding-the-table-service-data-model). The encoding
keeps the order of code points: a forbidden character becomes its allowed lower neighbour and ``b``, that
neighbour becomes itself and ``a`` (``.`` → ``.a``, ``/`` → ``.b``), blanks and control characters become
``!`` and two hex digits, everything from ``~`` on becomes ``~`` and six.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

from clients.stores.errors import CorruptRecord
from clients.stores.interface import Delete, Replace

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from clients.stores.interface import Write

MAX_KEY: Final = 512  # encoded characters: Azure allows 1 KiB of UTF-16
MAX_BODY: Final = 256 * 1024  # characters of JSON, all ASCII
MAX_WRITES: Final = 100
MAX_BATCH: Final = 3 * 1024 * 1024  # Azure takes 4 MiB for a transaction, headers of its parts included

_PAIRS: Final = {
    '"': '"a',
    "#": '"b',
    "$": "$a",
    "%": "$b",
    ".": ".a",
    "/": ".b",
    ">": ">a",
    "?": ">b",
    "[": "[a",
    "\\": "[b",
}
_UNPAIRS: Final = {encoded: char for char, encoded in _PAIRS.items()}
_ABOVE_ALL: Final = "~z"  # behind "~" only hex digits follow
# What is written as it is: everything from "&" to "}" that is in no pair. Most keys are made of nothing else.
_PLAIN: Final = re.compile(r"[&-\-0-=@-Z\]-}]*")
_CODED: Final = re.compile(r"![0-9a-f]{2}|~[0-9a-f]{6}|[\"$.>\[][ab]")


def encode_key(key: str) -> str:
    """
    Give the key as both stores write it: ASCII, sorting like the key itself.

    Raises: ValueError when it is empty, longer than 512 characters once encoded, or no Unicode text.
    """
    encoded = _encode(key)
    if not key or len(encoded) > MAX_KEY:
        raise ValueError(f"a key has 1 to {MAX_KEY} characters once encoded, this one {len(encoded)}")
    return encoded


def decode_key(encoded: str) -> str:
    """Reverse ``encode_key``."""
    return encoded if _PLAIN.fullmatch(encoded) else _CODED.sub(lambda found: _decode_char(found[0]), encoded)


def key_range(prefix: str, after: str) -> tuple[str, str, str]:
    """
    Give the bounds of a scan, all encoded: ``from <= key < below`` and ``key > beyond``.

    Raises: ValueError as ``encode_key`` does.
    """
    beyond = encode_key(after) if after else ""
    if not prefix:
        return "", _ABOVE_ALL, beyond
    start = encode_key(prefix)
    # No encoded text ends in "~", so the last character has a successor in ASCII.
    return start, start[:-1] + chr(ord(start[-1]) + 1), beyond


def dump(body: Mapping[str, Any]) -> str:
    """
    Write a body as JSON, in ASCII: then each character is one byte in every store, and no text is unwritable.

    Raises: ValueError when it is no JSON object or longer than 256 KiB.
    """
    try:
        text = json.dumps(dict(body), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    except TypeError as error:
        raise ValueError(f"a body is a JSON object: {error}") from error
    if len(text) > MAX_BODY:
        raise ValueError(f"a body has at most {MAX_BODY} characters of JSON, this one {len(text)}")
    return text


def load(key: str, text: str) -> Mapping[str, Any]:
    """Read a body. Raises: CorruptRecord when it is no JSON object."""
    try:
        body = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CorruptRecord(f"{key} does not hold JSON") from error
    if not isinstance(body, dict):
        raise CorruptRecord(f"{key} does not hold a JSON object")
    return body


def encode_batch(writes: Sequence[Write]) -> list[tuple[Write, str, str]]:
    """
    Check a batch and give each write with its encoded key and its JSON text ("" for a Delete).

    Raises: ValueError. Nothing has been sent then.
    """
    if len(writes) > MAX_WRITES:
        raise ValueError(f"a commit holds at most {MAX_WRITES} writes, this one {len(writes)}")
    encoded = [
        (write, encode_key(write.key), "" if isinstance(write, Delete) else dump(write.body))
        for write in writes
    ]
    if len({key for _, key, _ in encoded}) < len(encoded):
        raise ValueError("a commit names each key once")
    if any(isinstance(write, Replace | Delete) and write.etag in ("", "*") for write in writes):
        # Azure takes "*" for "whatever is there", which would undo the condition (RFC 9110 §13.1.1).
        raise ValueError("a Replace or Delete names the etag that was read")
    # In transit the text is a JSON string within JSON, so quotes and backslashes count twice.
    size = sum(len(text) + text.count('"') + text.count("\\") + 1024 for _, _, text in encoded)
    if size > MAX_BATCH:
        raise ValueError(f"a commit has at most {MAX_BATCH} bytes, this one about {size}")
    return encoded


def _encode(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else "".join(map(_encode_char, text))


def _encode_char(char: str) -> str:
    if char in _PAIRS:
        return _PAIRS[char]
    code = ord(char)
    if code <= ord("!"):
        return f"!{code:02x}"
    if 0xD800 <= code <= 0xDFFF:
        raise ValueError("a key is Unicode text, and half a surrogate pair is not")
    return f"~{code:06x}" if code >= ord("~") else char


def _decode_char(encoded: str) -> str:
    return _UNPAIRS.get(encoded) or chr(int(encoded[1:], 16))
