"""What a connector declares and yields: the source, the contracts of its streams, and the items of a fetch.

    @source(...) def fetch(client, window) ──> Payload, Skipped, Checkpoint, Cursor, FullScan ──> landing

A connector is a module `assets/<domain>/<source>.py` with one generator under `@source`, which reads from a `Client`
(HTTP) or a `Path` (a folder).
"""

import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, ClassVar, Literal

import msgspec

Kind = Literal["http", "folder"]
Auth = Literal["bearer", "basic"]
AwareDatetime = Annotated[datetime, msgspec.Meta(tz=True)]
"""A time with its time zone; a text without one is invalid."""


class Contract(msgspec.Struct):
    """The fields of a stream's payloads that its SQL reads. Other fields pass; a payload that lacks a required field or
    has it with another type is quarantined.
    """

    volatile: ClassVar[tuple[str, ...]] = ()
    """Paths of counters, such as `stats` or `versions[*].stats`. A change of these alone makes an observation, not a
    version."""
    envelope: ClassVar[str | None] = None
    """The field of a page that holds its records, for pages that are landed from a file."""

    def external_id(self) -> str | None:
        """The id that the source gives the record; None where the payload does not hold it."""
        return None

    def version_at(self) -> datetime | None:
        """When the source last changed the record; None where the payload does not hold it."""
        return None


@dataclass(frozen=True, slots=True)
class Payload:
    """One JSON document of the source, byte for byte as it was received: one model, one post, one workflow."""

    body: bytes
    request: str
    """The URL without secrets, or the path, that it was read from."""
    external_id: str | None = None
    version_at: datetime | None = None
    kind: str = ""
    """The stream of the source that it belongs to; empty for a source with one stream."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """Something that was read and is not a payload of this source; the ledger counts it by its reason."""

    request: str
    reason: str
    external_id: str | None = None
    """The record that cannot be read at the moment and therefore stays as it is."""
    kind: str = ""
    """The stream of that record."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A page was yielded completely. A run that breaks off later continues after it."""

    listing: str
    state: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far a listing was read. The next run starts from it; it is committed with the data."""

    listing: str
    value: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class FullScan:
    """The run yielded every record of a kind. Records that it did not yield may be gone from the source."""

    kind: str
    responses: int
    """How many responses the records came in."""
    id_range: tuple[int, int] | None = None
    """The scan covers only records with a numeric id from the first to the second; None: all."""


@dataclass(frozen=True)
class Window:
    """The day that a run reads, and what earlier runs left."""

    day: date
    current: bool = True
    """Whether the day is today, or the day of a recording."""
    full_refresh: bool = False
    """Whether everything is read, not only what is new."""
    cursors: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The cursors of the last run, by listing."""
    checkpoints: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The checkpoints of a run that broke off, by listing."""
    limit: int | None = None
    """The most pages of a listing, and records of a page, in a recording that was kept small."""

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
        """The last microsecond of the day."""
        return self.start + timedelta(days=1, microseconds=-1)


Item = Payload | Skipped | Checkpoint | Cursor | FullScan
Fetch = Callable[[Any, Window], Iterator[Item]]
GetRecord = Callable[[Any, str, str], Payload | None]
GetChangeToken = Callable[[Any], str]


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """The keywords of `@source`."""

    kind: Kind
    base_url: str
    """The URL, or the name of the folder, that is read unless ATLAS_<SOURCE>_BASE_URL is set."""
    start_date: date
    """The first day that can be requested."""
    extra_urls: Mapping[str, str] = field(default_factory=dict)
    """Other base URLs that the source reads, by name."""
    supports_backfill: bool = False
    """Whether a past day can still be requested."""
    rate: float | None = None
    """Requests a second that the operator allows; None is no limit."""
    auth: Auth = "bearer"
    """How a token is sent."""
    requires_contact: bool = False
    """Whether the operator requires a way to reach the caller (ATLAS_CONTACT)."""
    get_record: GetRecord | None = None
    """Returns one record by kind and external id; None where the source answers that it is gone."""
    change_token: GetChangeToken | None = None
    """Returns a text that changes when the source has something new; takes two requests at most."""
    poll_interval: timedelta = timedelta(minutes=15)
    """How often a sensor reads the change token."""
    full_refresh_cron: str | None = None
    """When everything is read, not only what is new."""
    owners: tuple[str, ...] = ("team:data-engineering",)


@dataclass(frozen=True, kw_only=True)
class Source(SourceOptions):
    """A connector as declared."""

    name: str
    """`<domain>/<source>`, as its module is called."""
    fetch: Fetch
    contracts: Mapping[str, type[Contract]]
    """The contract of each stream, by kind."""
    description: str
    code_version: str
    """A digest of the connector's module and of the helper modules that it imports."""

    @property
    def domain(self) -> str:
        return self.name.split("/")[0]

    @property
    def stem(self) -> str:
        return self.name.split("/")[1]

    @property
    def streams(self) -> dict[str, str]:
        """The name of each stream by its kind: `domain/source`, or `domain/source.kind` where there are several."""
        return {kind: f"{self.name}.{kind}" if kind else self.name for kind in self.contracts}


@dataclass(frozen=True, kw_only=True)
class source(SourceOptions):
    """Decorator: declares a fetch generator as a source."""

    contract: type[Contract] | Mapping[str, type[Contract]]
    """The contract of the payloads; by kind where the source has several streams."""

    def __call__(self, fetch: Fetch) -> Source:
        module = sys.modules[fetch.__module__]
        _, domain, stem = module.__name__.split(".")
        return Source(
            name=f"{domain}/{stem}",
            fetch=fetch,
            contracts=self.contract if isinstance(self.contract, Mapping) else {"": self.contract},
            description=(module.__doc__ or "").strip(),
            code_version=_code_version(module),
            **{option.name: getattr(self, option.name) for option in fields(SourceOptions)},
        )


def _code_version(module: ModuleType) -> str:
    """A digest of a connector and of the modules `_<helper>.py` of its folder that it imports."""
    helpers = {
        str(value.__file__)
        for value in vars(module).values()
        if isinstance(value, ModuleType) and value.__name__.startswith(f"{module.__package__}._")
    }
    files = [str(module.__file__), *sorted(helpers)]
    return hashlib.sha256(b"".join(Path(file).read_bytes() for file in files)).hexdigest()[:16]
