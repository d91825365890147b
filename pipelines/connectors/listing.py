"""Reads a listing page by page: to its end, or newest first down to where the last run began.

    paginator ──target──> page ──> records, Checkpoint   page by page
                                   Cursor, FullScan      after the last page

The state of a listing is plain data, kept with the pages that were landed, so a run continues where another broke off.
Belongs here: where a listing begins and ends, and what that proves. Not here: the order of pages (`pagination`),
requests (`http`), what a record means (`assets`).
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, Literal

import httpx
import msgspec

from pipelines.connectors.http import Client, without_secrets
from pipelines.connectors.pages import Page, PageReader, PageT, Position, RecordHead
from pipelines.connectors.pagination import Paginator
from pipelines.errors import SourceFault
from pipelines.source import Checkpoint, Cursor, FullScan, Item, Payload, Window

MAX_IDLE_PAGES = 20
"""After so many pages in succession without a new record the listing is taken to be endless."""


class State(msgspec.Struct):
    """How far a listing was read.

    started_at: when its first page was requested. ended: why no page follows: the listing ended, the last cursor was
    reached, or the response is unchanged (304). highest, lowest: of all positions. previous: the positions of the page
    before, of numbered pages. validators: of the first page.
    """

    started_at: datetime
    next_link: str | None = None
    ended: Literal["end", "cursor", "unchanged"] | None = None
    responses: int = 0
    highest: int | datetime | None = None
    lowest: int | datetime | None = None
    previous: dict[str, int | datetime] | None = None
    validators: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class ListingPage(Generic[PageT]):
    """A decoded page, its records as received, and its URL without secrets.

    checkpoint: to be yielded after the payloads of the page.
    """

    document: PageT
    records: list[bytes]
    request: str
    checkpoint: Checkpoint


@dataclass(frozen=True, slots=True)
class Incremental:
    """The listing is newest first; a run reads it down to where the last one began.

    overlap: how far below the last cursor it reads, since a record may appear later than its position says. start:
    where it stops while there is no cursor; None: at the end.
    """

    overlap: timedelta | int
    start: Position | None = None

    def stop_below(self, cursor: Mapping[str, Any]) -> Position | None:
        """The position below which earlier runs have read everything."""
        if "value" not in cursor:
            return self.start
        value = cursor["value"]
        position: Any = datetime.fromisoformat(value) if isinstance(value, str) else value
        try:
            return position - self.overlap  # type: ignore[no-any-return]
        except OverflowError:
            return position  # type: ignore[no-any-return]


class Listing(Generic[PageT]):
    """The pages of one listing: an iterator over them, then `end` for what they prove. `items` yields all of it.

    name: of its cursor and checkpoints. path, parameters: of the first page. page_type: what a page decodes to;
    records: its records. head: what paging reads of a record. incremental: None: every run reads it to its end. kind:
    the stream that its records belong to. Raises SourceFault where the source serves no proper listing.
    """

    def __init__(
        self,
        client: Client,
        window: Window,
        name: str,
        path: str,
        parameters: Mapping[str, str | int],
        page_type: type[PageT],
        *,
        records: Callable[[PageT], list[msgspec.Raw]],
        paginator: Paginator,
        head: type[RecordHead] | None = None,
        incremental: Incremental | None = None,
        kind: str = "",
    ) -> None:
        self._client, self._name, self._kind = client, name, kind
        self._paginator, self._incremental, self._max_pages = paginator, incremental, window.limit
        self._pages = PageReader(client, page_type, records, head, window.limit)
        self._first = str(httpx.URL(path, params=dict(parameters)))
        self._cursor = window.cursors.get(name, {})
        stops_early = incremental if not window.full_refresh else None
        self._stop_below = stops_early.stop_below(self._cursor) if stops_early else None
        self._conditional = paginator.conditional or self._stop_below is not None
        self._guard = _LoopGuard(client, numbered=paginator.numbered, compares_keys=head is not None)
        self._state = _restored(window.checkpoints.get(name, {}))
        if self._state.ended == "cursor" and self._stop_below is None:
            self._state.ended = None  # an increment broke off after its last page; a full refresh reads on

    def __iter__(self) -> Iterator[ListingPage[PageT]]:
        state = self._state
        while state.ended is None and (self._max_pages is None or state.responses < self._max_pages):
            target = self._client.target_of(state.next_link or self._first)
            self._guard.check_target(target)
            conditions = self._cursor.get("validators", {}) if self._conditional and not state.responses else {}
            response, page = self._pages.get(target, conditions)
            if page is None:
                if response.status_code != httpx.codes.NOT_MODIFIED:
                    raise SourceFault(
                        f"{self._client.source} has no {without_secrets(target)}: {response.status_code}."
                    )
                state.ended, state.validators = "unchanged", dict(conditions)
                self._client.notes["listings unchanged"] += 1
                return
            if not state.responses:
                state.validators = _validators(response)
            yield self._advance(page)

    def items(self) -> Iterator[Item]:
        """The records as payloads, the checkpoint of each page, then the cursor and the full scan."""
        for page in self:
            for record in page.records:
                yield Payload(record, page.request, kind=self._kind)
            yield page.checkpoint
        yield from self.end()

    def end(self) -> Iterator[Item]:
        """The cursor, and a FullScan where every record was returned; to be yielded after the pages."""
        state, advances = self._state, self._cursor_advances()
        cursor = dict(self._cursor) | {"validators": state.validators if advances else {}}
        if advances and self._incremental and state.highest is not None:
            value = self._not_in_future(state.highest)
            cursor["value"] = value.isoformat() if isinstance(value, datetime) else value
        if self._incremental or self._conditional:
            yield Cursor(self._name, cursor)
        if state.ended != "end" or self._stop_below is not None or self._paginator.numbered:
            return
        if not self._paginator.is_range:
            yield FullScan(self._kind, state.responses)
        elif isinstance(state.lowest, int) and isinstance(state.highest, int):
            yield FullScan(self._kind, state.responses, (state.lowest, state.highest))

    def _advance(self, page: Page[PageT]) -> ListingPage[PageT]:
        """Moves the state past a page."""
        state = self._state
        state.responses += 1
        if self._paginator.requires_ids and page.records and not page.keys:
            raise SourceFault(
                f"{self._client.source} returns records without ids at {without_secrets(page.target)}, so the next "
                "page is unknown. Nothing of this run is published; run it again later."
            )
        following = self._paginator.next_page(page, state.previous)
        state.next_link = following.link
        state.previous = dict(following.previous) if following.previous else None
        self._guard.check_keys(page.keys, page.target)
        positions: list[Any] = list(page.positions.values())
        self._widen(positions)
        if state.next_link is None:
            state.ended = "end"
        elif self._stop_below is not None and positions and max(positions) < self._stop_below and not following.back:
            state.ended = "cursor"
        checkpoint = Checkpoint(self._name, msgspec.to_builtins(state))
        return ListingPage(page.document, page.records, page.request, checkpoint)

    def _widen(self, positions: list[Any]) -> None:
        """Extends the range of positions by those of a page."""
        state = self._state
        if not positions:
            return
        seen = positions if state.highest is None else [*positions, state.highest, state.lowest]
        state.highest, state.lowest = max(seen), min(seen)
        if state.responses == 1 and self._not_in_future(state.highest) != state.highest:
            state.validators = {}  # a first page of future times stays unchanged while new records appear below it

    def _cursor_advances(self) -> bool:
        """Whether everything above the last cursor was returned: a listing that ends above it may have been cut."""
        if self._state.ended == "end" and self._stop_below is not None and "value" in self._cursor:
            self._client.notes["listings that ended before the last cursor, which is kept"] += 1
            return False
        return True

    def _not_in_future(self, position: Position) -> Position:
        """A position, but no time after the first request: the clock of the source may be wrong."""
        return min(position, self._state.started_at) if isinstance(position, datetime) else position


def _restored(checkpoint: Mapping[str, Any]) -> State:
    """The state of a checkpoint; a new one where it is empty or has another layout."""
    started_at = datetime.now(UTC)
    try:
        return msgspec.convert({"started_at": started_at, **checkpoint}, State)
    except msgspec.ValidationError:
        return State(started_at)


def _validators(response: httpx.Response) -> dict[str, str]:
    """The conditional headers with which an unchanged response is a 304 (RFC 9110, 13.1)."""
    pairs = {"if-none-match": response.headers.get("etag"), "if-modified-since": response.headers.get("last-modified")}
    return {name: value for name, value in pairs.items() if value}


class _LoopGuard:
    """Watches the pages of one listing; raises SourceFault where they do not end.

    numbered: a page may be requested twice. compares_keys: the keys of its records are known.
    """

    def __init__(self, client: Client, *, numbered: bool, compares_keys: bool) -> None:
        self._client, self._numbered, self._compares_keys = client, numbered, compares_keys
        self._targets: set[str] = set()
        self._keys: deque[set[str]] = deque(maxlen=MAX_IDLE_PAGES)
        self._idle_pages = 0

    def check_target(self, target: str) -> None:
        """Called before a page is requested."""
        if target in self._targets and not self._numbered:
            raise SourceFault(
                f"{self._client.source} repeats itself: it names {without_secrets(target)} as the next page a second "
                "time. Nothing of this run is published; run it again later."
            )
        self._targets.add(target)

    def check_keys(self, keys: list[str], target: str) -> None:
        """Called with the keys of each page; counts records that an earlier page returned."""
        new = set(keys).difference(*self._keys)
        self._keys.append(set(keys))
        self._client.notes["records returned twice"] += len(keys) - len(new)
        self._idle_pages = 0 if new or not self._compares_keys else self._idle_pages + 1
        if self._idle_pages == MAX_IDLE_PAGES:
            raise SourceFault(
                f"{self._client.source} does not come to an end: {MAX_IDLE_PAGES} pages up to "
                f"{without_secrets(target)} return no new record. Nothing of this run is published; run it again later."
            )
