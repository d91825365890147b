"""The vocabulary of a connector: what a source is, what it yields, and what its SQL relies on.

A connector is a module `assets/<domain>/<source>.py` with one generator under `@source`; the module's place is the
source's name. It reads from a `Client` (HTTP) or a `Path` (a folder), yields `Payload` and `Skipped`, and knows
neither the database nor Dagster.
"""

import hashlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import msgspec

Kind = Literal["http", "folder"]


class Contract(msgspec.Struct):
    """What a source's SQL relies on, nothing more: unknown fields pass, a missing or re-typed one is quarantined."""

    def external_id(self) -> str | None:
        """The source's own id of the record, where the payload holds it."""
        return None

    def version_at(self) -> datetime | None:
        """When the source last changed the record, where the payload holds it."""
        return None


@dataclass(frozen=True, slots=True)
class Payload:
    """One JSON document of the source's own, as it was received: one model, one post, one workflow."""

    body: bytes
    request: str
    external_id: str | None = None
    version_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Skipped:
    """Something that was looked at and is no payload of this source; counted in the ledger by its reason."""

    request: str
    reason: str


@dataclass(frozen=True, slots=True)
class Window:
    """The day that a run is about."""

    day: date

    @classmethod
    def of(cls, partition: str) -> "Window":
        return cls(date.fromisoformat(partition))

    @property
    def key(self) -> str:
        return self.day.isoformat()

    @property
    def start(self) -> datetime:
        return datetime(self.day.year, self.day.month, self.day.day, tzinfo=UTC)

    @property
    def last(self) -> datetime:
        """The day's last moment."""
        return self.start + timedelta(days=1, microseconds=-1)


Item = Payload | Skipped
Fetch = Callable[[Any, Window], Iterator[Item]]


@dataclass(frozen=True)
class Source:
    """A connector as declared: its name is its address, `<domain>/<source>`."""

    name: str
    fetch: Fetch
    contract: type[Contract]
    kind: Kind
    base_url: str
    envelope: str | None
    owners: tuple[str, ...]
    since: date
    description: str
    code_version: str

    @property
    def self_named(self) -> bool:
        """Whether a payload holds its own id, and the connector need not give it."""
        return self.contract.external_id is not Contract.external_id

    @property
    def domain(self) -> str:
        return self.name.split("/")[0]

    @property
    def stem(self) -> str:
        return self.name.split("/")[1]


def source(
    *,
    contract: type[Contract],
    kind: Kind,
    base_url: str,
    since: date,
    envelope: str | None = None,
    owners: tuple[str, ...] = ("team:data-engineering",),
) -> Callable[[Fetch], Source]:
    """Makes a fetch generator a source.

    base_url: what is read when nothing else is set, a URL or the name of a folder. since: the first day that can be
    asked for. envelope: the field of a page that holds its records, for pages landed from a file.
    """

    def declare(fetch: Fetch) -> Source:
        module = sys.modules[fetch.__module__]
        _, domain, stem = module.__name__.split(".")
        return Source(
            name=f"{domain}/{stem}",
            fetch=fetch,
            contract=contract,
            kind=kind,
            base_url=base_url,
            envelope=envelope,
            owners=owners,
            since=since,
            description=(module.__doc__ or "").strip(),
            code_version=hashlib.sha256(Path(str(module.__file__)).read_bytes()).hexdigest()[:16],
        )

    return declare
