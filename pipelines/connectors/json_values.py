"""Replaces values of a JSON text at paths, and leaves every other byte as it is; decodes whole numbers as integers.

    text ──scan along the paths──> spans of values ──replace──> text        {"id": 7.0} ──> {"id": 7}

A text is scanned, not decoded: so duplicate keys, spaces, and what strict JSON refuses (NaN, invalid UTF-8) stay.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from functools import cache
from typing import Any, TypeVar

import msgspec
from msgspec.inspect import DictType, IntType, ListType, StructType, Type, UnionType

EACH_ELEMENT, EACH_VALUE = "[*]", "*"
MAX_DIGITS = 1_000  # of a whole number that is written without its exponent

Steps = tuple[str, ...]
DocumentT = TypeVar("DocumentT")

_SPACE = re.compile(rb"[ \t\r\n]*+")
_START = re.compile(rb"(?:\xef\xbb\xbf)?+")
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_SCALAR = re.compile(rb'[^ \t\r\n,:"\[\]{}]++')
_BRACKET = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[\]{}]', re.DOTALL)
_FRACTIONAL = re.compile(rb"-?[0-9]++(?=[.eE])(?:\.[0-9]++)?+(?:[eE][+-]?[0-9]{1,9}+)?+")


def steps_of(path: str) -> Steps:
    """The steps of a path, such as `versions[*].stats`."""
    return tuple(path.replace(EACH_ELEMENT, f".{EACH_ELEMENT}").split("."))


def replace_values(text: bytes, paths: Sequence[Steps], replace: Callable[[bytes], bytes]) -> bytes:
    """A JSON text with `replace(value)` for each value at the paths.

    Where no path goes on, since the text has a value of another type on the way, that whole value is replaced.
    Raises ValueError where the text is not JSON.
    """
    found: list[tuple[int, int]] = []
    _find(text, _START.match(text).end(), list(paths), found)  # type: ignore[union-attr]
    parts, at = [], 0
    for start, end in found:
        parts += [text[at:start], replace(text[start:end])]
        at = end
    return b"".join([*parts, text[at:]]) if found else text


def with_whole_numbers(text: bytes, document_type: Any) -> bytes:
    """A JSON text with `7` for `7.0`, `0.7e1` and their kind, where the type has an integer.

    Raises ValueError where the text is not JSON.
    """
    paths = _integers_of(document_type)
    return replace_values(text, paths, _whole_number) if paths else text


def decode(text: bytes, document_type: type[DocumentT]) -> DocumentT:
    """Decodes JSON strictly, but takes `7.0` for an integer. Raises what msgspec raises."""
    try:
        return msgspec.json.decode(text, type=document_type)
    except msgspec.ValidationError:
        msgspec.json.decode(text, type=msgspec.Raw)
        return msgspec.json.decode(with_whole_numbers(text, document_type), type=document_type)


@cache
def _integers_of(document_type: Any) -> tuple[Steps, ...]:
    types = types_at(msgspec.inspect.type_info(document_type))
    return tuple(steps for steps, kind in types if isinstance(kind, IntType))


def types_at(kind: Type, steps: Steps = ()) -> Iterator[tuple[Steps, Type]]:
    """The paths that a type names, what is below a path before it, each with its type; of a union with all of them."""
    match kind:
        case UnionType():
            for one in kind.types:
                yield from types_at(one, steps)
        case StructType():
            for field in kind.fields:
                yield from types_at(field.type, (*steps, field.encode_name))
        case ListType():
            yield from types_at(kind.item_type, (*steps, EACH_ELEMENT))
        case DictType():
            yield from types_at(kind.value_type, (*steps, EACH_VALUE))
    yield steps, kind


def _whole_number(value: bytes) -> bytes:
    if not _FRACTIONAL.fullmatch(value):
        return value
    number = Decimal(value.decode())
    if number.adjusted() >= MAX_DIGITS or number != (whole := int(number)):
        return value
    return str(whole).encode()


def _find(text: bytes, at: int, paths: list[Steps], found: list[tuple[int, int]]) -> int:
    """Appends the spans of the values at the paths below a value; returns where that value ends."""
    at = _skip(_SPACE, text, at)
    is_list = text.startswith(b"[", at)
    if () not in paths and (is_list or text.startswith(b"{", at)):
        paths_below = [path for path in paths if (path[0] == EACH_ELEMENT) == is_list]
        if paths_below:
            return (_find_in_list if is_list else _find_in_object)(text, at + 1, paths_below, found)
    end = _end(text, at)
    found.append((at, end))
    return end


def _find_in_list(text: bytes, at: int, paths: list[Steps], found: list[tuple[int, int]]) -> int:
    below = [path[1:] for path in paths]
    at = _skip(_SPACE, text, at)
    while not text.startswith(b"]", at):
        at = _next(text, _find(text, at, below, found))
    return at + 1


def _find_in_object(text: bytes, at: int, paths: list[Steps], found: list[tuple[int, int]]) -> int:
    at = _skip(_SPACE, text, at)
    while not text.startswith(b"}", at):
        end = _skip(_STRING, text, at)
        key = json.loads(text[at:end].decode(errors="replace"), strict=False)
        at = _skip(_SPACE, text, _skip(_SPACE, text, end) + 1)
        below = [path[1:] for path in paths if path[0] in (key, EACH_VALUE)]
        at = _next(text, _find(text, at, below, found) if below else _end(text, at))
    return at + 1


def _next(text: bytes, at: int) -> int:
    """Where the next element or key begins, or the bracket after the last one is."""
    at = _skip(_SPACE, text, at)
    return _skip(_SPACE, text, at + 1) if text.startswith(b",", at) else at


def _end(text: bytes, at: int) -> int:
    """Where the value ends that begins at a place."""
    if text.startswith(b'"', at):
        return _skip(_STRING, text, at)
    if not text.startswith((b"[", b"{"), at):
        return _skip(_SCALAR, text, at)
    depth = 0
    for match in _BRACKET.finditer(text, at):
        opening = text[match.start()]
        depth += opening in b"[{"
        depth -= opening in b"]}"
        if not depth:
            return match.end()
    raise ValueError(f"not JSON: the value at byte {at} has no end")


def _skip(pattern: re.Pattern[bytes], text: bytes, at: int) -> int:
    match = pattern.match(text, at)
    if match is None:
        raise ValueError(f"not JSON at byte {at}")
    return match.end()
