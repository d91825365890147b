"""Reads a listing page by page: to its end, or newest first down to where the last run began.

    paginator ──target──> page ──> records, Checkpoint   page by page
                                   Cursor, FullScan      after the last page

The state of a listing is plain data, kept with the pages that were landed, so a run continues where another broke off.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, Literal, cast

import httpx
import msgspec

from pipelines.connectors import json_records
from pipelines.connectors.http import Answer, Client, request_of
from pipelines.connectors.json_records import Records
from pipelines.connectors.pagination import Page, PageT, Paginator, Position, RecordHead, known_positions
from pipelines.connectors.retries import RetryableError
from pipelines.connectors.urls import without_secrets
from pipelines.errors import ListingChanged, SourceFault
from pipelines.source import Checkpoint, Cursor, FullScan, Item, Payload, Window

MAX_IDLE_PAGES = 20  # after so many in succession without a new record the listing is taken to be endless


class State(msgspec.Struct):
    """How far a listing was read."""

    started_at: datetime  # when its first page was requested
    next_link: str | None = None
    ended: Literal["end", "cursor", "unchanged", "unknown"] | None = None
    """At its end, at the last cursor, by a 304, or at a page none of whose records has a readable id."""
    responses: int = 0
    highest: int | datetime | None = None  # of all positions
    lowest: int | datetime | None = None
    previous: dict[str, int | datetime | None] | None = None  # the positions of the page before, of numbered pages
    validators: dict[str, str] = {}  # of the first page


@dataclass(frozen=True, slots=True)
class Incremental:
    """The listing is newest first; a run reads it down to where the last one began."""

    overlap: timedelta | int  # how far below the last cursor: a record may appear later than its position says
    start: Position | None = None  # where a run stops while there is no cursor; None: at the end

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
    records: its records, a list, an object with their ids, or null. head: what paging reads of a record. incremental:
    None: every run reads it to its end. kind: the stream that its records belong to. Raises SourceFault where the
    source serves no proper listing.
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
        records: Callable[[PageT], Records],
        paginator: Paginator,
        head: type[RecordHead] | None = None,
        incremental: Incremental | None = None,
        kind: str = "",
    ) -> None:
        self._client, self._name, self._kind, self._limit = client, name, kind, window.limit
        self._page_type, self._records, self._paginator = page_type, records, paginator
        self._head = head
        self._incremental = incremental
        self._first = str(httpx.URL(path, params=dict(parameters)))
        self._cursor = window.cursors.get(name, {})
        self._stop_below = incremental.stop_below(self._cursor) if incremental and not window.full_refresh else None
        self._conditional = paginator.conditional or self._stop_below is not None
        self._targets: set[str] = set()
        self._recent_keys: deque[set[str]] = deque(maxlen=MAX_IDLE_PAGES)
        self._idle_pages = 0
        self._state = State(datetime.now(UTC))
        with suppress(msgspec.ValidationError):  # a checkpoint of another layout
            restored = {"started_at": self._state.started_at, **window.checkpoints.get(name, {})}
            self._state = msgspec.convert(restored, State)

    def __iter__(self) -> Iterator[Page[PageT]]:
        state = self._state
        while state.ended is None and (self._limit is None or state.responses < self._limit):
            target = self._client.target_of(state.next_link or self._first)
            if target in self._targets and not self._paginator.numbered:
                raise ListingChanged(self._words("repeats itself: its next page was read before", target))
            self._targets.add(target)
            page = self._request(target)
            if page is None:
                return
            self._advance(page)
            yield page

    def items(self) -> Iterator[Item]:
        """The records as payloads, the checkpoint of each page, then the cursor and the full scan."""
        for page in self:
            for record, name in zip(page.records, page.names, strict=True):
                yield Payload(record, page.request, name, kind=self._kind)
            yield page.checkpoint
        yield from self.end()

    def end(self) -> Iterator[Item]:
        """The cursor, and a FullScan where every record was returned; to be yielded after the pages."""
        state = self._state
        above_cursor = state.ended == "end" and self._stop_below is not None and "value" in self._cursor
        self._client.notes["listings that ended before the last cursor, which is kept"] += above_cursor
        self._client.notes["listings read to a page without readable ids"] += state.ended == "unknown"
        maybe_cut = above_cursor or state.ended == "unknown"
        cursor = dict(self._cursor) | {"validators": {} if maybe_cut else state.validators}
        if self._incremental and state.highest is not None and not maybe_cut:
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

    def _request(self, target: str) -> Page[PageT] | None:
        """Requests a page; None where the listing is unchanged by the conditional headers of its first page."""
        state = self._state
        conditions = self._cursor.get("validators", {}) if self._conditional and not state.responses else {}
        answer = self._client.answer(
            target,
            self._page_type,
            conditions,
            records=self._records,
            check=lambda answer: self._check(answer, target),
        )
        response = answer.response
        if response.status_code == httpx.codes.NOT_MODIFIED:
            state.ended, state.validators = "unchanged", dict(conditions)
            self._client.notes["listings unchanged"] += 1
            return None
        if response.status_code != httpx.codes.OK:
            raise SourceFault(f"{self._client.source} has no {without_secrets(target)}: {response.status_code}.")
        if not state.responses:  # with these headers an unchanged response is a 304 (RFC 9110, 13.1)
            sent = {"if-none-match": "etag", "if-modified-since": "last-modified"}
            state.validators = {name: found for name, of in sent.items() if (found := response.headers.get(of))}
        return self._page(answer, target)

    def _page(self, answer: Answer[PageT], target: str) -> Page[PageT]:
        """The page of an answer with status 200."""
        found = answer.records[: self._limit]
        heads = [head for each in found if self._head and (head := json_records.decode_head(each.body, self._head))]
        return Page(
            target,
            request_of(answer.response),
            cast(PageT, answer.document),
            [each.body for each in found],
            [each.name for each in found],
            [head.key() for head in heads],
            {head.key(): head.position() for head in heads},
            answer.response.links.get("next", {}).get("url"),
        )

    def _check(self, answer: Answer[PageT], target: str) -> None:
        """Raises RetryableError for an empty page that names itself as the next one."""
        if answer.response.status_code != httpx.codes.OK or answer.records or self._paginator.numbered:
            return
        link = self._paginator.next_page(self._page(answer, target), self._state.previous).link
        if link is not None and self._client.target_of(link) == target:
            raise RetryableError(self._client.source, "the page is empty and names itself as the next one")

    def _advance(self, page: Page[PageT]) -> None:
        """Moves the state past a page."""
        state = self._state
        state.responses += 1
        following = self._paginator.next_page(page, state.previous)
        state.next_link = following.link and self._client.without_token(following.link)
        state.previous = following.previous
        new = set(page.keys).difference(*self._recent_keys)
        self._recent_keys.append(set(page.keys))
        self._client.notes["records returned twice"] += len(page.keys) - len(new)
        self._idle_pages = 0 if new or not self._head else self._idle_pages + 1
        if self._idle_pages == MAX_IDLE_PAGES:
            words = f"does not come to an end: {MAX_IDLE_PAGES} pages have no new record"
            raise ListingChanged(self._words(words, page.target))
        positions = known_positions(page.positions)
        if positions:
            seen = positions if state.highest is None else [*positions, state.highest, state.lowest]
            state.highest, state.lowest = max(seen), min(seen)
            if state.responses == 1 and self._not_in_future(state.highest) != state.highest:
                state.validators = {}  # a first page of future times stays unchanged while new records appear below it
        if self._paginator.requires_ids and page.records and not page.keys:
            state.ended = "unknown"
        elif state.next_link is None:
            state.ended = "end"
        elif self._stop_below is not None and positions and max(positions) < self._stop_below and not following.back:
            state.ended = "cursor"
        page.checkpoint = Checkpoint(self._name, msgspec.to_builtins(state))

    def _words(self, fault: str, target: str) -> str:
        return (
            f"{self._client.source} {fault} ({without_secrets(target)}). "
            "Nothing of this run is published; run it again later."
        )

    def _not_in_future(self, position: Position) -> Position:
        """A position, but no time after the first request: the clock of the source may be wrong."""
        return min(position, self._state.started_at) if isinstance(position, datetime) else position
