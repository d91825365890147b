"""Validates one payload by its contract: its id and digest, or the reason why it is rejected.

    Payload ──redact──> decode ──> Arrival, with the values that do not fit; or Rejected
    {"id": 1, "stats": {"likes": 5}} ──split_off──> {"id": 1, "stats": null} and {"stats": {"likes": 5}}

Only fields that the contract names are decoded. Volatile fields, such as counters, are left out of the digest; `null`
takes the place of each, so that a field that appears or disappears is still a change of the version. Not here:
storage (`stage_bodies`), which values do not fit (`optional_values`), restoring volatile fields
(`ops.restore_volatile_fields`).
"""

import hashlib
import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from types import SimpleNamespace
from typing import NamedTuple, cast

import msgspec

from pipelines.connectors.json_keys import UNDECODABLE
from pipelines.connectors.json_values import EACH_ELEMENT, EACH_VALUE, steps_of, with_whole_numbers
from pipelines.landing.jsonb import SPACED_COLON, Unlandable, is_lossless, repair, repair_any_size
from pipelines.landing.optional_values import RejectedValue, split_off_rejected
from pipelines.landing.redaction import Redactor, redactor
from pipelines.source import Contract, Payload, Stream

MAX_ID_LENGTH = 1_000
OF_CONTRACT = ("wrong_type", "missing_field")
NOT_A_TEXT = re.compile("[\0\ud800-\udfff]")  # what PostgreSQL does not accept in text: NUL and lone surrogates
SHORT = 10_000
TINY = re.compile(rb"[eE]-[0-9]{4}")
"""jsonb accepts every number of a text that is no longer, has no such exponent, and is `is_lossless`."""
COLON = b'":'
NOTHING = msgspec.Raw(b"null")

PathTree = dict[str, "PathTree"]  # paths by their steps; a step without further steps leads to a volatile field


class VolatileFields(NamedTuple):
    """The volatile fields of a payload: the digest of `values`, which is JSON in its structure; the path of each."""

    digest: bytes
    values: str
    paths: str


@dataclass(frozen=True, slots=True)
class Arrival:
    """A valid payload."""

    sequence: int  # its place in the run
    stream: str
    external_id: str
    digest: bytes  # of its body without volatile fields
    received_at: datetime
    request: str
    body: bytes
    volatile: VolatileFields | None
    rejected: list[RejectedValue]  # of the optional values in it

    @property
    def body_key(self) -> tuple[bytes, bool]:
        """Identifies the body: the digest, and whether volatile fields were split off before."""
        return self.digest, self.volatile is not None


@dataclass(frozen=True)
class Rejected:
    """A payload that cannot land, and the reason."""

    sequence: int  # its place in the run
    stream: str
    body: bytes
    received_at: datetime
    request: str
    external_id: str | None
    fault: Unlandable


def usable_id(external_id: str | None) -> str | None:
    """The id, or None where it is too long or PostgreSQL does not store it as text."""
    fits = external_id and len(external_id) <= MAX_ID_LENGTH and not NOT_A_TEXT.search(external_id)
    return external_id if fits else None


class Validator:
    """Validates the payloads of one stream."""

    def __init__(self, stream: str, contract: type[Contract], redact: Redactor | None) -> None:
        self._stream, self._contract, self._redactor = stream, contract, redact
        self._decoder = msgspec.json.Decoder(contract)
        self._volatile = path_tree(contract.volatile)

    def validate(self, payload: Payload, sequence: int, received_at: datetime) -> Arrival | Rejected:
        """The payload with its id and digest, or with the reason why it cannot land."""
        body, external_id = payload.body, payload.external_id
        request = payload.request.encode(errors="backslashreplace").decode().replace("\0", "\\0")
        if self._redactor:
            try:
                body = self._redactor.redact(body)
            except Unlandable as fault:
                described = self._redactor.described(body)
                return Rejected(sequence, self._stream, described, received_at, request, usable_id(external_id), fault)
        try:
            record, text, rejected = self._decode(body)
            external_id = external_id or record.external_id()
            if not external_id:
                raise Unlandable("no_id", "the payload has no id of its own", path="$")
            if not usable_id(external_id):
                raise Unlandable("no_id", f"the id cannot be used: {external_id[:100]!a}", path="$")
        except Unlandable as fault:
            if fault.reason in OF_CONTRACT:
                external_id = external_id or self._readable_id(body)
            return Rejected(sequence, self._stream, body, received_at, request, usable_id(external_id), fault)
        stable, volatile = split_off(text, self._volatile) if self._volatile else (text, None)
        digest = hashlib.sha256(stable).digest()
        return Arrival(sequence, self._stream, external_id, digest, received_at, request, text, volatile, rejected)

    def _decode(self, body: bytes) -> tuple[Contract, bytes, list[RejectedValue]]:
        """A payload decoded, its text with whole numbers for the integers of the contract, and its rejected values."""
        try:
            return self._decoder.decode(body), body, []
        except UNDECODABLE:
            pass
        try:
            msgspec.json.decode(body, type=msgspec.Raw)
            accepted, rejected = split_off_rejected(with_whole_numbers(body, self._contract), self._contract)
        except UNDECODABLE:
            repaired = with_whole_numbers(repair_any_size(body)[0], self._contract)
            accepted, rejected = split_off_rejected(repaired, self._contract)
        return self._decoder.decode(accepted), with_whole_numbers(body, self._contract), rejected

    def _readable_id(self, body: bytes) -> str | None:
        """The id of a payload that violates its contract; None if the id itself cannot be read."""
        try:
            text = with_whole_numbers(body, self._contract)
            found = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
            values = {}
            for each in msgspec.structs.fields(self._contract):
                with suppress(KeyError, msgspec.ValidationError):
                    values[each.name] = msgspec.json.decode(found[each.encode_name], type=each.type)
            record = SimpleNamespace(**{name: value for name, value in values.items() if value is not None})
            return self._contract.external_id(cast(Contract, record))
        except (*UNDECODABLE, AttributeError):
            return None


def validators(stream: Stream) -> dict[str, Validator]:
    """What validates the payloads of a run, by kind. Raises AtlasError where a redacted stream has no key."""
    contracts = stream.source.contracts
    return {
        kind: Validator(name, contracts[kind], redactor(name, contracts[kind])) for kind, name in stream.names.items()
    }


def path_tree(paths: tuple[str, ...]) -> PathTree:
    """The paths of a contract, as one tree."""
    root: PathTree = {}
    for path in paths:
        node = root
        for step in steps_of(path):
            node = node.setdefault(step, {})
    return root


def split_off(body: bytes, volatile: PathTree) -> tuple[bytes, VolatileFields | None]:
    """A payload without its volatile fields, and these; the whole payload and None, if splitting could lose data.

    Decoding an object loses duplicate keys. The result then has fewer `":` than the body, provided that each colon
    directly follows its key. Fields that jsonb cannot hold unchanged stay in the body, whose bytes are kept.
    """
    found: list[tuple[list[str], msgspec.Raw]] = []
    try:
        stable, values = (bytes(part) for part in _split(msgspec.Raw(body.strip()), volatile, [], found))
    except UNDECODABLE:
        return body, None
    left = stable.count(COLON) + sum(bytes(value).count(COLON) for _, value in found)
    if not found or left != body.count(COLON) or SPACED_COLON.search(body):
        return body, None
    if not is_lossless(values) or ((len(values) > SHORT or TINY.search(values)) and repair(values)[1]):
        return body, None
    paths = msgspec.json.encode([path for path, _ in found])
    return stable, VolatileFields(hashlib.sha256(values).digest(), values.decode(), paths.decode())


def _split(
    value: msgspec.Raw, node: PathTree, at: list[str], found: list[tuple[list[str], msgspec.Raw]]
) -> tuple[msgspec.Raw, msgspec.Raw]:
    """A value without volatile fields, and these alone; appends the path and the value of each to `found`."""
    if not node:
        found.append((at, value))
        return NOTHING, value
    opening = bytes(memoryview(value)[:1])
    if opening == b"[" and EACH_ELEMENT in node:
        parts = [
            _split(each, node[EACH_ELEMENT], [*at, str(number)], found)
            for number, each in enumerate(msgspec.json.decode(value, type=list[msgspec.Raw]))
        ]
        return _encoded([stable for stable, _ in parts]), _encoded([volatile for _, volatile in parts])
    if opening != b"{":
        return value, NOTHING
    stable = msgspec.json.decode(value, type=dict[str, msgspec.Raw])
    volatile = {}
    for name in sorted(stable):
        step = node.get(name, node.get(EACH_VALUE))
        if step is not None:
            stable[name], volatile[name] = _split(stable[name], step, [*at, name], found)
    return _encoded(stable), _encoded(volatile)


def _encoded(value: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))
