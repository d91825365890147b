"""Decodes a page or a file of records; where one of them is not JSON, the others and the rest of it are read.

    body ──strict decoder──> document
      └── refused? ──json_splitter──> placeholders for what is broken ──strict decoder──> document
                                          └── Decoded.records: the bytes as received

Not here: where a broken record ends (`json_splitter`), whether it can be repaired (`landing`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

import msgspec

from pipelines.connectors import json_values
from pipelines.connectors.json_keys import UNDECODABLE, has_key_twice
from pipelines.connectors.json_splitter import NotSplit, Splitter

DocumentT = TypeVar("DocumentT")

Records = Sequence[msgspec.Raw] | Mapping[str, msgspec.Raw] | None
"""The records of a document: a list, an object with their names, or null."""


class Record(NamedTuple):
    """A record as it was received, and its key where the records are members of an object."""

    body: bytes
    name: str | None = None


@dataclass(frozen=True)
class Decoded(Generic[DocumentT]):
    """A document, and what its placeholders stand for."""

    document: DocumentT
    broken: Mapping[bytes, bytes] = field(default_factory=dict)

    def records(self, found: Records) -> list[Record]:
        """The records of a list or an object of the document, none where it is null; broken ones as received."""
        if isinstance(found, Mapping):
            named = [(self.original(each), name) for name, each in found.items()]
            return [Record(body, None if msgspec.json.encode(name) in self.broken else name) for body, name in named]
        return [Record(self.original(each)) for each in found or ()]

    def original(self, value: msgspec.Raw) -> bytes:
        """The bytes of a value as received, but for commas that were missing or twice."""
        body = bytes(value)
        for placeholder, original in self.broken.items():
            body = body.replace(placeholder, original)
        return body


def decode(body: bytes, document_type: type[DocumentT], *, may_be_cut: bool = False) -> Decoded[DocumentT]:
    """Decodes a document; one that strict JSON refuses, with placeholders in the place of what is broken.

    may_be_cut: of a document that is cut, what is there is decoded. Raises what msgspec raises where it is cut, is not
    JSON, or is of another type.
    """
    try:
        return Decoded(json_values.decode(body, document_type))
    except msgspec.ValidationError:
        raise
    except UNDECODABLE:
        return _split(body, document_type, may_be_cut=may_be_cut)


def decode_page(
    body: bytes, document_type: type[DocumentT], records: Callable[[DocumentT], Records], *, may_be_cut: bool = False
) -> tuple[DocumentT, list[Record]]:
    """Decodes a document as `decode` does, and its records as received. records: of the document.

    A member with the key of one before is a broken record. Raises what `decode` raises, also where a list or an object
    of the document has the key of another one, and hides it.
    """
    decoded = decode(body, document_type, may_be_cut=may_be_cut)
    found = records(decoded.document)
    if not decoded.broken and has_key_twice(body, levels=2):
        decoded = _split(body, document_type)
        found = records(decoded.document)
    return decoded.document, decoded.records(found)


def decode_head(record: bytes, head_type: type[DocumentT]) -> DocumentT | None:
    """What is read of a record before it lands; None where that is broken."""
    try:
        decoded = decode(record, head_type)
    except UNDECODABLE:
        return None
    read = msgspec.json.encode(decoded.document) if decoded.broken else b""
    return None if any(placeholder in read for placeholder in decoded.broken) else decoded.document


def _split(body: bytes, document_type: type[DocumentT], *, may_be_cut: bool = False) -> Decoded[DocumentT]:
    splitter = Splitter(body, may_be_cut=may_be_cut)
    try:
        mended = splitter.mended()
    except NotSplit:
        mended = body
    return Decoded(msgspec.json.decode(mended, type=document_type), splitter.broken)
