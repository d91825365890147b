"""What a payload is before it lands: its digest, its id and time by the contract, or why it is rejected.

Only what the contract names is decoded. Belongs here: one payload. Not: what staging already holds (`landing`).
"""

import hashlib
import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import cast

import msgspec

from pipelines.landing.jsonb import NotJson, readable
from pipelines.landing.volatile_fields import Counted, take_out, tree
from pipelines.quarantine import Rejected
from pipelines.source import Contract, Payload

LONGEST_ID = 1_000

_MISSING_FIELD = re.compile(r"missing required field `(.+)`")


@dataclass(frozen=True, slots=True)
class Arrival:
    """A payload that holds to its contract, by its place in the run. digest: of its body less its counters."""

    sequence: int
    stream: str
    external_id: str
    digest: bytes
    version_at: datetime
    fetched_at: datetime
    request: str
    body: bytes
    counted: Counted | None

    @property
    def text(self) -> tuple[bytes, bool]:
        """What tells its text from others: the digest, and whether counters were taken out before."""
        return self.digest, self.counted is not None

    def rejected(self, fault: NotJson) -> Rejected:
        """The same payload, where its body cannot be stored after all."""
        return Rejected(
            self.stream,
            self.body,
            hashlib.sha256(self.body).digest(),
            self.request,
            self.external_id,
            fault.reason,
            fault.detail,
            byte_offset=fault.byte_offset,
        )


class Examiner:
    """Examines the payloads of one stream in one run.

    fetched_at: when they were received, where that is not now.
    """

    def __init__(self, stream: str, contract: type[Contract], fetched_at: datetime | None) -> None:
        self._stream, self._contract, self._fetched_at = stream, contract, fetched_at
        self._decoder = msgspec.json.Decoder(contract)
        self._counters = tree(contract.volatile)

    def examine(self, payload: Payload, sequence: int) -> Arrival | Rejected:
        """The payload with its id and times, or why it cannot land."""
        external_id = payload.external_id
        request = payload.request.encode(errors="backslashreplace").decode()

        def reject(reason: str, detail: str, path: str | None = None, byte_offset: int | None = None) -> Rejected:
            digest = hashlib.sha256(payload.body).digest()
            return Rejected(self._stream, payload.body, digest, request, external_id, reason, detail, path, byte_offset)

        try:
            record = self._decode(payload.body)
        except NotJson as fault:
            return reject(fault.reason, fault.detail, byte_offset=fault.byte_offset)
        except msgspec.ValidationError as error:
            external_id = external_id or self._readable_id(payload.body)
            return reject(*_contract_fault(error))
        external_id = external_id or record.external_id()
        if not external_id:
            return reject("no_id", "the payload has no id of its own", "$")
        if len(external_id) > LONGEST_ID or not _storable(external_id):
            unusable, external_id = external_id, None
            return reject("no_id", f"the id cannot be used: {unusable[:100]!a}", "$")
        received = self._fetched_at or datetime.now(UTC)
        version_at = payload.version_at or record.version_at() or received
        stable, counted = take_out(payload.body, self._counters) if self._counters else (payload.body, None)
        digest = hashlib.sha256(stable).digest()
        return Arrival(
            sequence, self._stream, external_id, digest, version_at, received, request, payload.body, counted
        )

    def _decode(self, body: bytes) -> Contract:
        try:
            return self._decoder.decode(body)
        except msgspec.ValidationError:
            raise
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            mended, _ = readable(body)
            return self._decoder.decode(mended)

    def _readable_id(self, body: bytes) -> str | None:
        """The id of a payload that breaks its contract, where the id itself can still be read."""
        try:
            found = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
            values = {}
            for each in msgspec.structs.fields(self._contract):
                with suppress(KeyError, msgspec.ValidationError):
                    values[each.name] = msgspec.json.decode(found[each.encode_name], type=each.type)
            readable = SimpleNamespace(**{name: value for name, value in values.items() if value is not None})
            return self._contract.external_id(cast(Contract, readable))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, AttributeError):
            return None


def _contract_fault(error: msgspec.ValidationError) -> tuple[str, str, str]:
    """Reason code, words and JSON path of a broken contract."""
    words, _, at = str(error).partition(" - at ")
    path = at.strip("`").replace("[...]", "[*]") or "$"
    if missing := _MISSING_FIELD.search(words):
        return "missing_field", words, f"{path}.{missing.group(1)}"
    return "wrong_type", words, path


def _storable(text: str) -> bool:
    """Whether Postgres takes it as text: no NUL, no half of a surrogate pair."""
    return "\x00" not in text and not any("\ud800" <= character <= "\udfff" for character in text)
