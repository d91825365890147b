"""The values in payloads that a contract names, and payloads with another value in their place.

    contract, payload ──places──> Place ──changed, retyped──> the payload with another value there, or without one

Belongs here: what tests of all contracts share. Not here: what becomes of such payloads.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from msgspec.inspect import DictType, ListType, RawType, StructType, Type, UnionType

from pipelines.source import Payload, Source
from tests.select_paths import Path


@dataclass(frozen=True)
class Place:
    """A value in a payload that a contract names: its keys from the top, its path with `[*]` for any element."""

    keys: tuple[str | int, ...]
    path: str
    required: bool  # a field without a default
    identified: bool = False  # an element of a list or a map that is an object with required fields

    def is_told_by(self, path: str) -> bool:
        """Whether a path leads here."""
        tokens = re.findall(r"\.[^.\[]+|\[\*\]", self.path)
        below = zip(tokens, self.keys, strict=True)
        exact = [
            re.escape(token) if token != "[*]" else rf"(\[{re.escape(repr(key))}\]|\.\"?{re.escape(str(key))}\"?)"
            for token, key in below
        ]
        return re.fullmatch(re.escape("$") + "".join(exact), path) is not None


def places(value: Any, kind: Type, keys: tuple[str | int, ...] = (), path: str = "$") -> Iterator[Place]:
    """The values below `value` that a contract of this type names."""
    for one in kind.types if isinstance(kind, UnionType) else (kind,):
        if isinstance(one, StructType) and isinstance(value, dict):
            for named in one.fields:
                if named.encode_name in value:
                    at, below = (*keys, named.encode_name), f"{path}.{named.encode_name}"
                    if not isinstance(named.type, RawType):
                        yield Place(at, below, named.required)
                    yield from places(value[named.encode_name], named.type, at, below)
        elif isinstance(one, ListType | DictType):
            inner = one.item_type if isinstance(one, ListType) else one.value_type
            children: list[tuple[str | int, Any]] = []
            if isinstance(one, ListType) and isinstance(value, list):
                children = list(enumerate(value))
            elif isinstance(one, DictType) and isinstance(value, dict):
                children = list(value.items())
            for name, child in children:
                if not isinstance(inner, RawType):
                    of = inner.types if isinstance(inner, UnionType) else (inner,)
                    fields = [named for each in of if isinstance(each, StructType) for named in each.fields]
                    yield Place((*keys, name), f"{path}[*]", False, any(named.required for named in fields))
                yield from places(child, inner, (*keys, name), f"{path}[*]")


def relied_upon(source: Source, payloads: Sequence[Payload]) -> dict[Path, tuple[Payload, Place]]:
    """Each path that a contract names, with a payload that has a value there."""
    kinds = {kind: msgspec.inspect.type_info(contract) for kind, contract in source.contracts.items()}
    found: dict[Path, tuple[Payload, Place]] = {}
    for payload in payloads:
        for place in places(msgspec.json.decode(payload.body), kinds[payload.kind]):
            found.setdefault((payload.kind, place.path), (payload, place))
    return found


def changed(payload: Payload, place: Place, value: object, *, leave_out: bool = False) -> bytes:
    """The payload's body with another value at a place, or none."""
    document = msgspec.json.decode(payload.body)
    at = document
    for key in place.keys[:-1]:
        at = at[key]
    if leave_out:
        del at[place.keys[-1]]
    else:
        at[place.keys[-1]] = value
    return msgspec.json.encode(document)


def value_at(body: bytes, place: Place) -> Any:
    """The value that a body has at a place."""
    value = msgspec.json.decode(body)
    for key in place.keys:
        value = value[key]
    return value


def retyped(source: Source, payload: Payload, place: Place) -> bytes:
    """The payload's body with a value of a type at the place that the contract does not allow there."""
    values: list[object] = [[], {}, "re-typed", 1.5, False]
    for value in values:
        body = changed(payload, place, value)
        try:
            msgspec.json.decode(body, type=source.contracts[payload.kind])
        except msgspec.ValidationError:
            return body
    stream = source.stream_names[payload.kind]
    pytest.fail(f"the contract of {stream} takes anything at {place.path}: declare it as msgspec.Raw")
