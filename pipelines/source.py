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
AwareDatetime = Annotated[datetime, msgspec.Meta(tz=True)]  # a text without a time zone is invalid


class Contract(msgspec.Struct):
    """The fields of a stream's payloads that its SQL reads. Other fields pass. Required are those without a default,
    which identify the record and its children: a payload that lacks one, or has it with another type, is quarantined.
    An optional field of another type is quarantined alone. A change of volatile fields alone makes an observation, not
    a version. Redacted values are replaced by keyed hashes before anything else reads them; they are texts then.
    """

    volatile: ClassVar[tuple[str, ...]] = ()  # paths of counters, such as `stats` or `versions[*].stats`
    redacted: ClassVar[tuple[str, ...]] = ()  # paths of secrets, such as `password_hash` or `tokens[*].value`
    envelope: ClassVar[str | None] = None  # the field with the records of a page, for pages that are landed from a file

    def external_id(self) -> str | None:
        """The id that the source gives the record; None where the payload does not hold it."""
        return None


@dataclass(frozen=True, slots=True)
class Payload:
    """One JSON document of the source, byte for byte as it was received: one model, one post, one workflow."""

    body: bytes
    request: str  # the URL without secrets, or the path, that it was read from
    external_id: str | None = None
    kind: str = ""  # the stream of the source that it belongs to; empty for a source with one stream


@dataclass(frozen=True, slots=True)
class Skipped:
    """Something that was read and is not a payload of this source; the ledger counts it by its reason."""

    request: str
    reason: str
    external_id: str | None = None  # of a record that cannot be read at the moment and therefore stays as it is
    kind: str = ""


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
    responses: int  # how many of them the records came in
    id_range: tuple[int, int] | None = None  # it covers only records with a numeric id from first to second; None: all


@dataclass(frozen=True)
class Window:
    """What a run reads: a day of a stream, and what earlier runs left."""

    day: date
    kind: str = ""  # the stream; empty for a source with one stream
    current: bool = True  # the day is today, or the day of a recording
    full_refresh: bool = False  # everything is read, not only what is new
    cursors: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # of the last run, by listing
    checkpoints: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # of a run that broke off, by listing
    limit: int | None = None  # the most pages of a listing, and records of a page, in a recording that was kept small

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
GetRecord = Callable[[Any, str, str], Payload | Skipped | None]


@dataclass(frozen=True, kw_only=True, eq=False)
class SourceOptions:
    """The keywords of `@source`."""

    kind: Kind
    base_url: str  # the URL, or the name of the folder, that is read unless ATLAS_<SOURCE>_BASE_URL is set
    start_date: date  # the first day that can be requested
    other_urls: Mapping[str, str] = field(default_factory=dict)
    """Base URLs of streams that are read from another server, by kind. One that is empty is not read unless
    ATLAS_<SOURCE>_<KIND>_BASE_URL is set."""
    comes_with: Mapping[str, str] = field(default_factory=dict)
    """Streams without a listing of their own, by kind, with the kind of the stream in whose runs they are fetched."""
    supports_backfill: bool = False  # a past day can still be requested
    rate: float | None = None  # requests a second that the operator allows; None is no limit
    auth: Auth = "bearer"  # how a token is sent
    requires_contact: bool = False  # the operator requires a way to reach the caller (ATLAS_CONTACT)
    get_record: GetRecord | None = None
    """By kind and external id: the record; Skipped where it exists, and is not landed; None where it is gone."""
    only_listed: tuple[str, ...] = ()  # streams, by kind, of which `get_record` cannot fetch records
    change_token: Callable[[Any, str], str] | None = None
    """Returns a text that changes when a stream, given by its kind, has something new; takes one request."""
    poll_interval: timedelta = timedelta(minutes=15)  # how often a sensor reads the change token of each stream
    full_refresh_cron: str | None = None  # when everything is read, not only what is new
    refused_share: float = 0.1  # of a landing's payloads, or a table's rows: where more are refused, a check fails
    owners: tuple[str, ...] = ("team:data-engineering",)


@dataclass(frozen=True, kw_only=True, eq=False)
class Source(SourceOptions):
    """A connector as declared."""

    name: str  # `<domain>/<source>`, as its module is called
    fetch: Fetch
    contracts: Mapping[str, type[Contract]]  # of each stream, by kind
    description: str
    code_version: str  # a digest of the connector's module and of the helper modules that it imports

    @property
    def domain(self) -> str:
        return self.name.split("/")[0]

    @property
    def stem(self) -> str:
        return self.name.split("/")[1]

    @property
    def stream_names(self) -> dict[str, str]:
        """The name of each stream by its kind: `domain/source`, or `domain/source.kind` where there are several."""
        return {kind: f"{self.name}.{kind}" if kind else self.name for kind in self.contracts}

    @property
    def streams(self) -> "list[Stream]":
        """The streams that have runs of their own."""
        return [Stream(self, kind) for kind in self.contracts if kind not in self.comes_with]


@dataclass(frozen=True)
class Stream:
    """What a run lands and transforms: a stream of a source, with those that come with it."""

    source: Source
    kind: str

    @property
    def name(self) -> str:
        return self.source.stream_names[self.kind]

    @property
    def get_record(self) -> GetRecord | None:
        """Fetches a record by its id; None where the source only lists the records of the stream."""
        return None if self.kind in self.source.only_listed else self.source.get_record

    @property
    def names(self) -> dict[str, str]:
        """The names by kind: its own first, then those of the streams that come with it."""
        kinds = [self.kind, *(kind for kind, main in self.source.comes_with.items() if main == self.kind)]
        return {kind: self.source.stream_names[kind] for kind in kinds}


@dataclass(frozen=True, kw_only=True, eq=False)
class source(SourceOptions):
    """Decorator: declares a fetch generator as a source."""

    contract: type[Contract] | Mapping[str, type[Contract]]  # by kind where the source has several streams

    def __call__(self, fetch: Fetch) -> Source:
        module = sys.modules[fetch.__module__]
        _, domain, stem = module.__name__.split(".")
        imported = [value for value in vars(module).values() if isinstance(value, ModuleType)]
        helpers = {str(each.__file__) for each in imported if each.__name__.startswith(f"{module.__package__}._")}
        code = b"".join(Path(file).read_bytes() for file in (str(module.__file__), *sorted(helpers)))
        return Source(
            name=f"{domain}/{stem}",
            fetch=fetch,
            contracts=self.contract if isinstance(self.contract, Mapping) else {"": self.contract},
            description=(module.__doc__ or "").strip(),
            code_version=hashlib.sha256(code).hexdigest()[:16],
            **{option.name: getattr(self, option.name) for option in fields(SourceOptions)},
        )
