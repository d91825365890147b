"""Validates one payload by its contract: its id, time and digest, or the reason why it is rejected.

    Payload ──> Arrival, or Rejected

Only fields that the contract names are decoded. Belongs here: checks of a single payload. Not here: comparison with
what staging has (`publish`), storage in jsonb (`stage_bodies`), storage of what is rejected (`quarantine`).
"""

import hashlib
import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import cast

import msgspec

from pipelines.landing.jsonb import Unlandable, repair_any_size
from pipelines.landing.volatile_fields import VolatileFields, path_tree, split_off
from pipelines.quarantine import Rejected
from pipelines.source import Contract, Payload

MAX_ID_LENGTH = 1_000

_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
"""What PostgreSQL does not accept in text: NUL and lone surrogates."""
_MISSING_FIELD = re.compile(r"missing required field `(.+)`")


@dataclass(frozen=True, slots=True)
class Arrival:
    """A valid payload. sequence: its place in the run. digest: of its body without volatile fields."""

    sequence: int
    stream: str
    external_id: str
    digest: bytes
    version_at: datetime
    fetched_at: datetime
    request: str
    body: bytes
    volatile: VolatileFields | None

    @property
    def body_key(self) -> tuple[bytes, bool]:
        """Identifies the body: the digest, and whether volatile fields were split off before."""
        return self.digest, self.volatile is not None

    def row(self) -> tuple[object, ...]:
        """Its row in staging.arrivals."""
        found = self.volatile
        volatile = (found.digest, found.values.decode(), found.paths.decode()) if found else (None, None, None)
        times = self.version_at, self.fetched_at
        return self.sequence, self.stream, self.external_id, self.digest, *times, self.request, *volatile

    def rejected(self, fault: Unlandable) -> Rejected:
        """The same payload, rejected because its body cannot be stored."""
        return _rejected(self.stream, self.body, self.request, self.external_id, fault)


class Validator:
    """Validates the payloads of one stream in one run. fetched_at: when they were received, if not now."""

    def __init__(self, stream: str, contract: type[Contract], fetched_at: datetime | None) -> None:
        self._stream, self._contract, self._fetched_at = stream, contract, fetched_at
        self._decoder = msgspec.json.Decoder(contract)
        self._volatile = path_tree(contract.volatile)

    def validate(self, payload: Payload, sequence: int) -> Arrival | Rejected:
        """The payload with its id, times and digest, or with the reason why it cannot land."""
        external_id = payload.external_id
        request = payload.request.encode(errors="backslashreplace").decode()

        try:
            record = self._decode(payload.body)
            external_id = external_id or record.external_id()
            if not external_id:
                raise Unlandable("no_id", "the payload has no id of its own", path="$")
            if len(external_id) > MAX_ID_LENGTH or _UNSTORABLE.search(external_id):
                unusable, external_id = external_id, None
                raise Unlandable("no_id", f"the id cannot be used: {unusable[:100]!a}", path="$")
        except Unlandable as fault:
            return _rejected(self._stream, payload.body, request, external_id, fault)
        except msgspec.ValidationError as error:
            external_id = external_id or self._readable_id(payload.body)
            return _rejected(self._stream, payload.body, request, external_id, _contract_fault(error))
        received = self._fetched_at or datetime.now(UTC)
        version_at = payload.version_at or record.version_at() or received
        stable, volatile = split_off(payload.body, self._volatile) if self._volatile else (payload.body, None)
        digest = hashlib.sha256(stable).digest()
        return Arrival(
            sequence, self._stream, external_id, digest, version_at, received, request, payload.body, volatile
        )

    def _decode(self, body: bytes) -> Contract:
        try:
            return self._decoder.decode(body)
        except msgspec.ValidationError:
            raise
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return self._decoder.decode(repair_any_size(body)[0])

    def _readable_id(self, body: bytes) -> str | None:
        """The id of a payload that violates its contract; None if the id itself cannot be read."""
        try:
            found = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
            values = {}
            for each in msgspec.structs.fields(self._contract):
                with suppress(KeyError, msgspec.ValidationError):
                    values[each.name] = msgspec.json.decode(found[each.encode_name], type=each.type)
            record = SimpleNamespace(**{name: value for name, value in values.items() if value is not None})
            return self._contract.external_id(cast(Contract, record))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, AttributeError):
            return None


def _rejected(stream: str, body: bytes, request: str, external_id: str | None, fault: Unlandable) -> Rejected:
    digest = hashlib.sha256(body).digest()
    said = fault.reason, fault.detail, fault.path, fault.byte_offset
    return Rejected(stream, body, digest, request, external_id, *said)


def _contract_fault(error: msgspec.ValidationError) -> Unlandable:
    """How a payload violates its contract, with the JSON path."""
    message, _, at = str(error).partition(" - at ")
    path = at.strip("`").replace("[...]", "[*]") or "$"
    if missing := _MISSING_FIELD.search(message):
        return Unlandable("missing_field", message, path=f"{path}.{missing.group(1)}")
    return Unlandable("wrong_type", message, path=path)
