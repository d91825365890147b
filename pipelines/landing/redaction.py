"""Replaces the values at the redacted paths of a contract by keyed hashes, before anything else reads a payload.

    payload ──Redactor.redact──> {"password_hash": "redacted:5d41…"} ──> validate
       └── not JSON? ──Redactor.described──> its length and keyed hash ──> quarantine

The hash is HMAC-SHA256 of the value's bytes, with the key ATLAS_REDACTION_KEY: a change of the value is a change of the
payload. A null stays. Where the payload has a value of another type on the way, such as a text instead of a list, that
whole value is replaced. Names of keys are compared exactly: `Token` is not `token`.
"""

import hmac
import re

import msgspec

from pipelines import settings
from pipelines.connectors.json_values import replace_values, steps_of
from pipelines.errors import AtlasError
from pipelines.landing.jsonb import Unlandable, repair_any_size
from pipelines.source import Contract

NOT_KEPT = "not_kept"
"""The reason of a payload that cannot be read, of a stream with redacted paths: its bytes are not kept."""
_REDACTED = re.compile(rb'"redacted:[0-9a-f]{64}"')
_NO_KEY = """\
{stream} has redacted paths ({paths}), and ATLAS_REDACTION_KEY is not set: nothing was read. Set it in the environment,
and keep it: with another key every value looks changed. This makes one:
python -c "import secrets; print(secrets.token_hex(32))\""""


class Redactor:
    """Redacts the payloads of one stream."""

    def __init__(self, paths: tuple[str, ...], key: str) -> None:
        self._paths, self._key = [steps_of(path) for path in paths], key.encode()

    def redact(self, body: bytes) -> bytes:
        """A payload with hashes at the paths. Raises Unlandable, which shows nothing of it, where it is not JSON."""
        try:
            try:
                msgspec.json.decode(body, type=msgspec.Raw)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                repair_any_size(body)
            return replace_values(body, self._paths, self._hash)
        except Unlandable as fault:
            raise Unlandable(NOT_KEPT, _not_kept(fault.reason, fault.byte_offset), fault.byte_offset) from None
        except ValueError:
            raise Unlandable(NOT_KEPT, _not_kept("not_json", None)) from None

    def described(self, body: bytes) -> bytes:
        """What is kept of a payload that cannot be read: its length and keyed hash, as JSON."""
        return msgspec.json.encode({"bytes": len(body), "hmac_sha256": self._digest(body)})

    def _hash(self, value: bytes) -> bytes:
        if value == b"null" or _REDACTED.fullmatch(value):  # of a payload that comes from quarantine
            return value
        return b'"redacted:%s"' % self._digest(value).encode()

    def _digest(self, value: bytes) -> str:
        return hmac.digest(self._key, value, "sha256").hex()


def redactor(stream: str, contract: type[Contract]) -> Redactor | None:
    """What redacts the payloads of a stream; None if it has no redacted paths. Raises AtlasError without a key."""
    if not contract.redacted:
        return None
    key = settings.redaction_key()
    if not key:
        raise AtlasError(_NO_KEY.format(stream=stream, paths=", ".join(contract.redacted)))
    return Redactor(contract.redacted, key)


def _not_kept(reason: str, offset: int | None) -> str:
    place = "" if offset is None else f" at byte {offset}"
    return f"{reason}{place}; of a stream with redacted paths only length and keyed hash are kept: fetch it again"
