"""The vocabulary of a connector: what a source is, what it yields, and what its SQL relies on.

A connector is a module `assets/<domain>/<source>.py` with one generator under `@source`; the module's place is the
source's name. It reads from a `Client` (HTTP) or a `Path` (a folder), yields items, and knows neither the database nor
Dagster.
"""

import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, Literal

import msgspec

Kind = Literal["http", "folder"]
Auth = Literal["bearer", "basic"]


class Contract(msgspec.Struct):
    """What a stream's SQL relies on, nothing more: unknown fields pass, a missing or re-typed one is quarantined.

    volatile: paths of counters such as `stats` or `versions[*].stats`: they make no new version of a payload, but an
    observation beside it. envelope: the field of a page that holds its records, for pages landed from a file.
    """

    volatile: ClassVar[tuple[str, ...]] = ()
    envelope: ClassVar[str | None] = None

    def external_id(self) -> str | None:
        """The source's own id of the record, where the payload holds it."""
        return None

    def version_at(self) -> datetime | None:
        """When the source last changed the record, where the payload holds it."""
        return None


@dataclass(frozen=True, slots=True)
class Payload:
    """One JSON document of the source's own, as it was received: one model, one post, one workflow.

    kind: which of the source's streams it belongs to, for a source that has several.
    """

    body: bytes
    request: str
    external_id: str | None = None
    version_at: datetime | None = None
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Skipped:
    """Something that was looked at and is no payload of this source; counted in the ledger by its reason.

    external_id: of the record that stays as it was, where only now it cannot be read.
    """

    request: str
    reason: str
    external_id: str | None = None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A page has been yielded whole: a run that breaks off after it need not fetch it again."""

    listing: str
    state: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far a listing was read: where the next run begins. Kept with the data."""

    listing: str
    cursor: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class FullScan:
    """Every record of a kind that there is was told, in so many answers; what is missing may be gone.

    between: only those whose ids, which are numbers, lie between these two; None: however low, however high.
    """

    kind: str
    answers: int
    between: tuple[int | None, int | None] = (None, None)


@dataclass(frozen=True)
class Window:
    """The day that a run is about, and what is known from runs before.

    current: the day is today, or a recording's own day. full_refresh: everything is asked for, not only what is new.
    cursors: the marks that the last run left, by listing. resume: the checkpoints of a run that broke off.
    """

    day: date
    current: bool = True
    full_refresh: bool = False
    cursors: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    resume: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

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


Item = Payload | Skipped | Checkpoint | Cursor | FullScan
Fetch = Callable[[Any, Window], Iterator[Item]]
Look = Callable[[Any, str, str], Payload | None]
Probe = Callable[[Any], str]


@dataclass(frozen=True)
class Source:
    """A connector as declared: its name is its address, `<domain>/<source>`."""

    name: str
    fetch: Fetch
    contracts: Mapping[str, type[Contract]]
    kind: Kind
    base_url: str
    extra_urls: Mapping[str, str]
    owners: tuple[str, ...]
    start_date: date
    supports_backfill: bool
    rate: float | None
    auth: Auth
    requires_contact: bool
    get_record: Look | None
    change_token: Probe | None
    poll_interval: timedelta
    full_refresh_cron: str | None
    description: str
    code_version: str

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


def source(
    *,
    contract: type[Contract] | Mapping[str, type[Contract]],
    kind: Kind,
    base_url: str,
    start_date: date,
    extra_urls: Mapping[str, str] | None = None,
    supports_backfill: bool = False,
    rate: float | None = None,
    auth: Auth = "bearer",
    requires_contact: bool = False,
    get_record: Look | None = None,
    change_token: Probe | None = None,
    poll_interval: timedelta = timedelta(minutes=15),
    full_refresh_cron: str | None = None,
    owners: tuple[str, ...] = ("team:data-engineering",),
) -> Callable[[Fetch], Source]:
    """Makes a fetch generator a source.

    contract: of its payloads, by kind where there are several. base_url: what is read when nothing else is set, a URL
    or the name of a folder; extra_urls: other places it reads, by name. start_date: the first day that can be asked
    for. supports_backfill: a past day can still be asked for. rate: requests a second that its operator allows. auth:
    how a token is sent. requires_contact: its operator requires a way to reach the caller. get_record: one record by
    kind and id, None where the source says that it is gone. change_token: a text that changes when there is news, read
    in two requests at most; poll_interval: how often it is read. full_refresh_cron: when everything is read, not only
    what is new.
    """

    def declare(fetch: Fetch) -> Source:
        module = sys.modules[fetch.__module__]
        _, domain, stem = module.__name__.split(".")
        return Source(
            name=f"{domain}/{stem}",
            fetch=fetch,
            contracts=contract if isinstance(contract, Mapping) else {"": contract},
            kind=kind,
            base_url=base_url,
            extra_urls=extra_urls or {},
            owners=owners,
            start_date=start_date,
            supports_backfill=supports_backfill,
            rate=rate,
            auth=auth,
            requires_contact=requires_contact,
            get_record=get_record,
            change_token=change_token,
            poll_interval=poll_interval,
            full_refresh_cron=full_refresh_cron,
            description=(module.__doc__ or "").strip(),
            code_version=hashlib.sha256(Path(str(module.__file__)).read_bytes()).hexdigest()[:16],
        )

    return declare
