"""Whether jsonb can hold a JSON text as the same value, and a repaired text where it cannot.

    is_lossless? ──yes──> stored as it is
         └──no──> repair (decodes the text), repair_large (does not) ──> a text for jsonb, and what was repaired

jsonb keeps the last of duplicate keys, and refuses NUL characters, lone surrogates, invalid UTF-8 and numbers that
numeric cannot hold. A decoded text may take thirty times its size, so large ones are not decoded.
"""

import codecs
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

MAX_BYTES = 200 * 1024 * 1024  # the longest body that is accepted: jsonb holds strings and containers of up to 256 MiB
LARGE = 4 * 1024 * 1024  # the longest text that is decoded
CHUNK = 1024 * 1024

INVALID_UTF8 = "invalid UTF-8 replaced"
DUPLICATE_KEY = "duplicate key: last one kept"
TOO_DEEP = "too_deep", "nested deeper than can be read"

_ESCAPES = (rb"\u0000", rb"\u0022", rb"\u003a", rb"\u003A")
SPACED_COLON = re.compile(rb'"[ \t\r\n]+:')
_NUMBER = re.compile(r"-?(\d+)(?:\.(\d+))?(?:[eE]([+-]?\d+))?")
_MAX_DIGITS_BEFORE, _MAX_DIGITS_AFTER = 131_072, 16_383
_SURROGATE = re.compile("[\ud800-\udfff]")
_ESCAPED = re.compile(
    rb"\\(?:[^u]|u(?:(?P<nul>0000)"
    rb"|[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?P<lone>[dD][89a-fA-F][0-9a-fA-F]{2}))?)"
)
_AT_BYTE = re.compile(r" \(byte (\d+)\)$")
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


@dataclass
class Unlandable(Exception):
    """Why a payload cannot land: a reason code, the reason in words, and where."""

    reason: str
    detail: str
    byte_offset: int | None = None
    path: str | None = None


def is_lossless(body: bytes) -> bool:
    """Whether jsonb certainly holds the same value; False means that the text has to be repaired or checked.

    A decoder keeps one of duplicate keys, so the text that is encoded from the decoded value has fewer `":`. That count
    is a proof only if each colon directly follows its key and no quote or colon is escaped.
    """
    if any(escape in body for escape in _ESCAPES) or SPACED_COLON.search(body):
        return False
    try:
        again = msgspec.json.encode(msgspec.json.decode(body))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError):
        return False
    return body.count(b'":') == again.count(b'":')


def repair(body: bytes) -> tuple[bytes, list[str]]:
    """A text that jsonb accepts, and what was repaired in it: nothing, if jsonb holds the value unchanged."""
    repairs: set[str] = set()

    def members(found: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(found)
        repairs.update([DUPLICATE_KEY] if len(result) < len(found) else [])
        return result

    def number(literal: str) -> Any:
        if _fits_numeric(literal):
            return msgspec.Raw(literal.encode())
        repairs.add("number beyond numeric's range kept as text")
        return literal

    def constant(literal: str) -> str:
        repairs.add(f"{literal} is not a JSON number: kept as text")
        return literal

    body, offset = _without_bom(body, repairs)
    text = _replace_escapes(body, repairs).decode("utf-8", errors="surrogateescape")
    valid = _SURROGATE.sub(_REPLACEMENT, text)  # bytes that are not UTF-8 were decoded to surrogates
    if valid != text:
        repairs.add(INVALID_UTF8)
    try:
        hooks: dict[str, Any] = {"parse_float": number, "parse_int": number, "parse_constant": constant}
        return msgspec.json.encode(json.loads(valid, object_pairs_hook=members, **hooks)), sorted(repairs)
    except json.JSONDecodeError as error:
        offset += len(text[: error.pos].encode("utf-8", errors="surrogateescape"))
        raise Unlandable("not_json", f"{error.msg.removesuffix(' at')} at byte {offset}", offset) from None
    except RecursionError:
        raise Unlandable(*TOO_DEEP) from None


def repair_large(body: bytes) -> tuple[bytes, list[str]]:
    """As `repair`, with the memory of one more copy; keeps duplicate keys and numbers beyond numeric's range.

    Raises Unlandable for NaN and infinities too.
    """
    repairs: set[str] = set()
    text, start = _without_bom(body, repairs)
    text = _replace_escapes(text, repairs)
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except RecursionError:
        raise Unlandable(*TOO_DEEP) from None
    except msgspec.DecodeError as error:
        at = _AT_BYTE.search(str(error))
        offset = start + (int(at.group(1)) if at else len(text))
        raise Unlandable("not_json", f"{_AT_BYTE.sub('', str(error))} at byte {offset}", offset) from None
    try:
        for _ in codecs.iterdecode(chunks(text), "utf-8"):
            pass
    except UnicodeDecodeError:
        repairs.add(INVALID_UTF8)
        repaired = io.BytesIO()
        for chunk in codecs.iterdecode(chunks(text), "utf-8", errors="surrogateescape"):
            repaired.write(_SURROGATE.sub(_REPLACEMENT, chunk).encode())
        text = repaired.getvalue()
    return text, sorted(repairs)


def repair_any_size(body: bytes) -> tuple[bytes, list[str]]:
    """As `repair_large` if the text is large, else as `repair`."""
    return repair_large(body) if len(body) > LARGE else repair(body)


def chunks(body: bytes) -> Iterator[bytes]:
    """A text in parts of at most `CHUNK` bytes."""
    return (body[at : at + CHUNK] for at in range(0, len(body), CHUNK))


def _without_bom(body: bytes, repairs: set[str]) -> tuple[bytes, int]:
    """A text without its byte-order mark, and the length of that. Raises Unlandable if the text is too long."""
    if len(body) > MAX_BYTES:
        raise Unlandable("too_large", f"{len(body):,} bytes; a payload may have {MAX_BYTES:,}")
    if not body.startswith(codecs.BOM_UTF8):
        return body, 0
    repairs.add("byte-order mark removed")
    return body[len(codecs.BOM_UTF8) :], len(codecs.BOM_UTF8)


def _replace_escapes(text: bytes, repairs: set[str]) -> bytes:
    """A text with the escape of the replacement character, of equal length, for each NUL and lone surrogate."""
    if rb"\u0000" not in text and rb"\ud" not in text and rb"\uD" not in text:
        return text
    repaired = io.BytesIO(text)
    for match in _ESCAPED.finditer(text):
        if match.lastgroup:
            repairs.add(f"{'NUL character' if match.lastgroup == 'nul' else 'lone surrogate'} replaced")
            repaired.seek(match.start())
            repaired.write(rb"\ufffd")
    return repaired.getvalue()


def _fits_numeric(literal: str) -> bool:
    """Whether numeric holds a JSON number (PostgreSQL manual, table 8.2: digits before and after the point)."""
    match = _NUMBER.fullmatch(literal)
    assert match is not None
    whole, fraction, exponent = match.group(1), match.group(2) or "", match.group(3) or "0"
    shift = int(exponent) if len(exponent) <= 7 else MAX_BYTES
    return len(whole) + shift <= _MAX_DIGITS_BEFORE and len(fraction) - shift <= _MAX_DIGITS_AFTER
