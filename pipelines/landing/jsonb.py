"""Whether jsonb can hold a JSON text as the same value, and what to store where it cannot.

jsonb drops all but the last of duplicate keys and refuses NUL characters, lone surrogates, invalid UTF-8 and numbers
beyond its range. `faithful` proves the common case fast; `repair` reads slowly and carefully, and says what it had to
change. Both decode the text, which may take thirty times its size; `mend` does what can be done to a large one without,
and `readable` chooses by the size.
What is no JSON at all raises `NotJson`. Belongs here: JSON texts. Not: contracts, not the database.
"""

import codecs
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

MAX_BYTES = 200 * 1024 * 1024
"""Longest body that is tried: jsonb holds strings and containers up to 256 MiB."""

LARGE = 4 * 1024 * 1024
"""A text beyond it is never decoded whole, where it can be helped."""

PIECE = 1024 * 1024

MARK = "byte-order mark removed"
WRONG = "invalid UTF-8 replaced"
NUL = "NUL character replaced"
LONE = "lone surrogate replaced"
TWICE = "duplicate key: last one kept"

_ESCAPES = (rb"\u0000", rb"\u0022", rb"\u003a", rb"\u003A")
_KEY_APART = re.compile(rb'"[ \t\r\n]+:')
_NUMBER = re.compile(r"-?(\d+)(?:\.(\d+))?(?:[eE]([+-]?\d+))?")
_MAX_DIGITS_BEFORE, _MAX_DIGITS_AFTER = 131_072, 16_383
_SURROGATE = re.compile("[\ud800-\udfff]")
_ESCAPED = re.compile(
    rb"\\(?:[^u]|u(?:(?P<nul>0000)"
    rb"|[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?P<lone>[dD][89a-fA-F][0-9a-fA-F]{2}))?)"
)
_WRONG_BYTES = {chr(0xDC00 + byte) for byte in range(0x80, 0x100)}
"""What bytes that are no UTF-8 are read as."""
_AT_BYTE = re.compile(r" \(byte (\d+)\)$")
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


@dataclass
class NotJson(Exception):
    """The bytes are no JSON document."""

    reason: str
    detail: str
    byte_offset: int | None = None


def faithful(body: bytes) -> bool:
    """True if jsonb holds the same value for certain; False if it must be looked at closely.

    A decoder keeps one of duplicate keys, so text written from the decoded value has fewer `":`. The count is a proof
    only where each key's colon follows its quote and no quote or colon is an escape; other texts are not decided.
    """
    if len(body) > MAX_BYTES or any(escape in body for escape in _ESCAPES) or _KEY_APART.search(body):
        return False
    try:
        again = msgspec.json.encode(msgspec.json.decode(body))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError):
        return False
    return body.count(b'":') == again.count(b'":')


def repair(body: bytes) -> tuple[bytes, list[str]]:
    """A text that jsonb takes, and what was changed in it: nothing, if jsonb holds the value after all."""
    repairs: set[str] = set()
    body, begins = _begin(body, repairs)
    text = body.decode("utf-8", errors="surrogateescape")
    if not text.isascii() and _SURROGATE.search(text):
        repairs.add(WRONG)

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        result = {clean(key): clean(value) for key, value in found}
        if len(result) < len(found):
            repairs.add(TWICE)
        return result

    def clean(value: Any) -> Any:
        if isinstance(value, list):
            nested = [value]
            while nested:
                elements = nested.pop()
                nested += [each for each in elements if isinstance(each, list)]
                elements[:] = [each if isinstance(each, list) else clean(each) for each in elements]
            return value
        if not isinstance(value, str):
            return value
        if "\x00" in value:
            repairs.add(NUL)
            value = value.replace("\x00", _REPLACEMENT)
        if not value.isascii() and (found := set(_SURROGATE.findall(value))):
            if WRONG not in repairs or not found <= _WRONG_BYTES:
                repairs.add(LONE)
            value = _SURROGATE.sub(_REPLACEMENT, value)
        return value

    def number(literal: str) -> Any:
        if _fits_numeric(literal):
            return msgspec.Raw(literal.encode())
        repairs.add("number beyond numeric's range kept as text")
        return literal

    def constant(literal: str) -> Any:
        repairs.add(f"{literal} is no JSON number: kept as text")
        return literal

    try:
        value = json.loads(text, object_pairs_hook=pairs, parse_float=number, parse_int=number, parse_constant=constant)
        return msgspec.json.encode(clean(value)), sorted(repairs)
    except json.JSONDecodeError as error:
        offset = begins + len(text[: error.pos].encode("utf-8", errors="surrogateescape"))
        raise NotJson("not_json", f"{error.msg.removesuffix(' at')} at byte {offset}", offset) from None
    except RecursionError:
        raise NotJson("too_deep", "nested deeper than can be read") from None


def mend(body: bytes) -> tuple[bytes, list[str]]:
    """As `repair`, in memory for one more text; leaves keys told twice and numbers beyond numeric's range as they are.

    NaN and infinities are no JSON, and in a large text not repaired.
    """
    repairs: set[str] = set()
    text, begins = _begin(body, repairs)
    text = _without_escapes(text, repairs)
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except RecursionError:
        raise NotJson("too_deep", "nested deeper than can be read") from None
    except msgspec.DecodeError as error:
        at = _AT_BYTE.search(str(error))
        offset = begins + (int(at.group(1)) if at else len(text))
        raise NotJson("not_json", f"{_AT_BYTE.sub('', str(error))} at byte {offset}", offset) from None
    return _without_wrong_bytes(text, repairs), sorted(repairs)


def readable(body: bytes) -> tuple[bytes, list[str]]:
    """A text made JSON: by `mend` where it is large, else by `repair`."""
    return mend(body) if len(body) > LARGE else repair(body)


def pieces(body: bytes) -> Iterator[bytes]:
    """A large text bit by bit."""
    return (body[at : at + PIECE] for at in range(0, len(body), PIECE))


def _begin(body: bytes, repairs: set[str]) -> tuple[bytes, int]:
    """A text without its byte-order mark, and where it begins; refuses one that is too long."""
    if len(body) > MAX_BYTES:
        raise NotJson("too_large", f"{len(body):,} bytes; a payload may have {MAX_BYTES:,}")
    if not body.startswith(codecs.BOM_UTF8):
        return body, 0
    repairs.add(MARK)
    return body[len(codecs.BOM_UTF8) :], len(codecs.BOM_UTF8)


def _without_escapes(text: bytes, repairs: set[str]) -> bytes:
    """A text in which another escape, as long, stands for each NUL and lone surrogate."""
    if rb"\u0000" not in text and rb"\ud" not in text and rb"\uD" not in text:
        return text
    mended = io.BytesIO(text)
    for match in _ESCAPED.finditer(text):
        if match.lastgroup:
            repairs.add(NUL if match.lastgroup == "nul" else LONE)
            mended.seek(match.start())
            mended.write(rb"\ufffd")
    return mended.getvalue()


def _without_wrong_bytes(text: bytes, repairs: set[str]) -> bytes:
    """A text with a replacement character for each byte that is no UTF-8."""
    try:
        for _ in codecs.iterdecode(pieces(text), "utf-8"):
            pass
    except UnicodeDecodeError:
        repairs.add(WRONG)
        mended = io.BytesIO()
        for piece in codecs.iterdecode(pieces(text), "utf-8", errors="surrogateescape"):
            mended.write(_SURROGATE.sub(_REPLACEMENT, piece).encode())
        return mended.getvalue()
    return text


def _fits_numeric(literal: str) -> bool:
    """Whether Postgres' numeric holds a JSON number (Table 8.2 of its manual: digits before and after the point)."""
    match = _NUMBER.fullmatch(literal)
    assert match is not None
    whole, fraction, exponent = match.group(1), match.group(2) or "", match.group(3) or "0"
    if len(exponent) > 7:
        return False
    shift = int(exponent)
    return len(whole) + shift <= _MAX_DIGITS_BEFORE and len(fraction) - shift <= _MAX_DIGITS_AFTER
