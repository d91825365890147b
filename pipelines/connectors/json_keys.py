"""Whether bytes are JSON, and which keys an object has, also a broken one."""

import json
from typing import Any

import msgspec

UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that it cannot decode."""
BLANK = b" \t\r\n"


def is_json(body: bytes) -> bool:
    """Whether the bytes are a JSON value, as far as msgspec.Raw requires it."""
    try:
        msgspec.json.decode(body, type=msgspec.Raw)
    except UNDECODABLE:
        return False
    return True


def has_key_twice(body: bytes, levels: int = 1) -> bool:
    """Whether an object may have a key twice: decoding it loses some of its bytes. levels: 2 for its values too."""
    try:
        members = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except UNDECODABLE:
        return False
    again = msgspec.json.encode(members)
    if len(again) != len(body) and len(again.translate(None, BLANK)) != len(body.translate(None, BLANK)):
        return True
    return levels > 1 and any(has_key_twice(bytes(each), levels - 1) for each in members.values())


def keys_of(body: bytes) -> frozenset[str] | None:
    """The keys of an object, none of another value, also where NaN or wrong characters are in it; None for no JSON."""
    try:
        document: Any = msgspec.json.decode(body, type=dict[str, msgspec.Raw] | msgspec.Raw)
    except UNDECODABLE:
        try:
            document = json.loads(body.decode("utf-8-sig", "surrogateescape"), strict=False, parse_int=len)
        except (ValueError, RecursionError):
            return None
    return frozenset(document) if isinstance(document, dict) else frozenset()
