"""Finds values of another type than the contract names, of which a payload can do without.

    {"id": 1, "likes": "many"} ──> {"id": 1} for the contract, and `$.likes` "many" for quarantine

An optional field is one with a default. It may have a value of another type, and so may an element of a list or a value
of a map; a null is no value. A payload that lacks a required field, or has it with another type, cannot land, and so
does one in which a child, that is an object in a list or a map, lacks a required field or is no object.
"""

from functools import cache
from types import UnionType
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin

import msgspec

from pipelines.landing.json_paths import quoted_key
from pipelines.landing.jsonb import Unlandable

MAX_VALUES = 100  # of one payload that have an entry of their own


class RejectedValue(NamedTuple):
    """A value of another type than the contract names, and where it is."""

    path: str
    value: bytes
    detail: str


def split_off_rejected(body: bytes, contract: Any) -> tuple[bytes, list[RejectedValue]]:
    """A payload without optional values of another type and without nulls in their place; the first of these values.

    Raises Unlandable where a required field is missing or has another type, DecodeError where the payload is not JSON.
    """
    found: list[RejectedValue] = []
    accepted = _accepted(msgspec.Raw(body.strip()), contract, "$", found)
    return bytes(accepted), found[:MAX_VALUES]


def _accepted(value: msgspec.Raw, kind: Any, path: str, found: list[RejectedValue]) -> msgspec.Raw:
    """A value without what does not fit its type, which is appended to `found`. Raises Unlandable."""
    try:
        _decoder(kind).decode(value)
        return value
    except msgspec.ValidationError as error:
        detail = str(error).partition(" - at `")[0].encode(errors="backslashreplace").decode().replace("\0", "\\0")
    opening = bytes(memoryview(value)[:1])
    for each in _members(kind):
        if opening == b"{" and isinstance(each, type) and issubclass(each, msgspec.Struct):
            return _accepted_fields(value, each, path, found)
        if opening == b"{" and get_origin(each) is dict:
            values = msgspec.json.decode(value, type=dict[str, msgspec.Raw])
            below = {name: f"{path}.{quoted_key(name)}" for name in values}
            kept = {name: _child(one, get_args(each)[1], below[name], found) for name, one in values.items()}
            return _encoded({name: one for name, one in kept.items() if one is not None})
        if opening == b"[" and get_origin(each) is list:
            elements = enumerate(msgspec.json.decode(value, type=list[msgspec.Raw]))
            children = (_child(one, get_args(each)[0], f"{path}[{number}]", found) for number, one in elements)
            return _encoded([one for one in children if one is not None])
    raise Unlandable("wrong_type", detail, path=path)


def _accepted_fields(
    value: msgspec.Raw, struct: type[msgspec.Struct], path: str, found: list[RejectedValue]
) -> msgspec.Raw:
    values = msgspec.json.decode(value, type=dict[str, msgspec.Raw])
    for field in msgspec.structs.fields(struct):
        name, below = field.encode_name, f"{path}.{quoted_key(field.encode_name)}"
        if field.required and name not in values:
            raise Unlandable("missing_field", f"Object missing required field `{name}`", path=below)
        if field.required:
            values[name] = _accepted(values[name], field.type, below, found)
        elif name in values and (kept := _optional(values.pop(name), field.type, below, found)) is not None:
            values[name] = kept
    return _encoded(values)


def _child(value: msgspec.Raw, kind: Any, path: str, found: list[RejectedValue]) -> msgspec.Raw | None:
    """As `_optional`; where the type is an object with required fields, another value is not accepted."""
    if has_required_fields(kind) and not _is_null(value):
        return _accepted(value, kind, path, found)
    return _optional(value, kind, path, found)


def _optional(value: msgspec.Raw, kind: Any, path: str, found: list[RejectedValue]) -> msgspec.Raw | None:
    """What is accepted of a value; None for a null, and for a value of another type, which is appended to `found`."""
    if _is_null(value):
        return None
    try:
        return _accepted(value, kind, path, found)
    except Unlandable as fault:
        if fault.path != path:  # a required field below it
            raise
        found.append(RejectedValue(path, bytes(value), fault.detail))
        return None


def _is_null(value: msgspec.Raw) -> bool:
    return bytes(memoryview(value)[:5]) == b"null"


@cache
def has_required_fields(kind: Any) -> bool:
    """Whether a type has objects with required fields."""
    structs = [each for each in _members(kind) if isinstance(each, type) and issubclass(each, msgspec.Struct)]
    return any(field.required for struct in structs for field in msgspec.structs.fields(struct))


def _members(kind: Any) -> tuple[Any, ...]:
    """The types of a union; a type that is none, alone."""
    if get_origin(kind) is Annotated:
        return _members(get_args(kind)[0])
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


@cache
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


def _encoded(value: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))
