"""Reading a listing page by page: to its end, or newest first down to where the last run began.

    client ──page──> records ──> Checkpoint, page by page ──> Mark, Swept

A listing keeps ids, so that what its source does wrong shows: pages without end, records told twice, records left out
between two pages. Its state is plain data and travels with the pages that were landed, so that a run goes on where one
broke off. Belongs here: order and completeness. Not: requests (`http`), not what a record means (`assets`).
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, TypeVar

import httpx
import msgspec

from pipelines.connectors.http import Client, request_of, without_secrets
from pipelines.connectors.pagination import Below, Last, Numbered, Position, Step, replaced
from pipelines.errors import SourceFault
from pipelines.source import Checkpoint, Cursor, FullScan, Item, Payload, Window

PageT = TypeVar("PageT")

MOST_IDLE_PAGES = 20
"""So many pages one after the other that tell no new record are a listing without end."""


class Head(msgspec.Struct):
    """What paging needs of a record: its id and, for a listing that is newest first, its place."""

    def key(self) -> str:
        raise NotImplementedError

    def position(self) -> Position | None:
        return None


class State(msgspec.Struct):
    """How far a listing was read.

    ended: at its `end`, at `known` ground, `unchanged` since the last run, or `cut` off where no more may be asked for.
    began: when its first page was asked for. high, low: the first and the last of all places told. last: the page
    before, where pages are numbered. wider: what a wider page told beyond this one; leaves_out: the next page did not
    begin with that.
    """

    began: datetime
    link: str | None = None
    ended: str | None = None
    answers: int = 0
    high: int | datetime | None = None
    low: int | datetime | None = None
    last: Last | None = None
    leaves_out: bool = False
    wider: dict[str, str] | None = None
    validators: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class Answer(Generic[PageT]):
    """A decoded page, its records as they were received, and the URL it came from without secrets.

    done: to be yielded after the page's payloads.
    """

    page: PageT
    records: list[bytes]
    request: str
    done: Checkpoint


class Listing(Generic[PageT]):
    """The pages of one listing: an iterator of answers, then `end` for what the run knows by them.

    name: under which marks and checkpoints are kept. shape: what a page decodes to; records: its records.
    following: the link from one page to the next, by the page, the keys of its records and the `next` of its Link
    header (RFC 8288); None after the last. paging: instead, words that the source has for it.
    head: what paging needs of a record. overlap: the listing is newest first, and is read so far beyond the mark of
    the last run; since: where it ends when there is none. conditional: one answer tells everything, so that an
    unchanged one need not be sent again. border: the parameter that sets the size of a page, for a source known to
    leave out records between two pages. kind: the stream that it tells. among: the parameters that a listing of all
    records has, where this one tells some that have their ids in a row; paged below an id.
    """

    def __init__(
        self,
        client: Client,
        window: Window,
        name: str,
        path: str,
        parameters: dict[str, str | int],
        shape: type[PageT],
        *,
        records: Callable[[PageT], list[msgspec.Raw]],
        following: Callable[[PageT, list[str], str | None], str | None] = lambda page, keys, link: None,
        paging: Below | Numbered | None = None,
        head: type[Head] | None = None,
        overlap: timedelta | int | None = None,
        since: Position | None = None,
        conditional: bool = False,
        border: str | None = None,
        kind: str = "",
        among: dict[str, str | int] | None = None,
    ) -> None:
        self._client, self._window, self._name, self._kind = client, window, name, kind
        self._shape, self._records, self._following = shape, records, following
        self._paging = paging
        self._head = msgspec.json.Decoder(head) if head else None
        self._overlap, self._since, self._border = overlap, since, border
        self._first = str(httpx.URL(path, params=parameters))
        self._all = str(httpx.URL(path, params=among)) if among is not None else None
        self._cursor = window.cursors.get(name, {})
        self._stop = None if window.full_refresh or overlap is None else self._known()
        self._conditional = conditional or self._stop is not None
        self._links: set[str] = set()
        self._keys: deque[set[str]] = deque(maxlen=MOST_IDLE_PAGES)
        self._idle = 0
        self._state = _resumed(window.resume.get(name, {}))
        if self._state.ended == "known" and self._stop is None:  # of an increment that broke off; a sweep goes on
            self._state.ended = None

    def __iter__(self) -> Iterator[Answer[PageT]]:
        state = self._state
        while state.ended is None:
            target = self._unasked(state.link or self._first)
            conditions = self._cursor.get("validators", {}) if self._conditional and not state.answers else {}
            response, page = self._client.ask(target, self._shape, conditions)
            if page is None:
                if response.status_code != httpx.codes.NOT_MODIFIED:
                    raise SourceFault(
                        f"{self._client.source} has no {without_secrets(target)}: {response.status_code}."
                    )
                state.ended, state.validators = "unchanged", dict(conditions)
                self._client.notes["listings unchanged"] += 1
                return
            if not state.answers:
                state.validators = _validators(response)
            yield self._answer(response, page, target)

    def items(self) -> Iterator[Item]:
        """The listing's records as payloads of its kind, and all that is to be yielded with them."""
        for answer in self:
            for record in answer.records:
                yield Payload(record, answer.request, kind=self._kind)
            yield answer.done
        yield from self.end()

    def end(self) -> Iterator[Item]:
        """How far the listing was read and whether it told everything; to be yielded after its pages."""
        moves = self._may_move
        cursor = dict(self._cursor) | {"validators": self._state.validators if moves else {}}
        if moves and self._overlap is not None and self._state.high is not None:
            cursor["value"] = _plain(self._mark(self._state.high))
        if self._overlap is not None or self._conditional:
            yield Cursor(self._name, cursor)
        if self._state.ended == "end" and self._stop is None:
            if self._all is None:
                yield FullScan(self._kind, self._state.answers)
            elif self._state.high is not None:
                yield FullScan(self._kind, self._state.answers, self._between())
            else:
                self._client.notes["listings that tell nothing, of which nothing is concluded"] += 1

    def _answer(self, response: httpx.Response, page: PageT, target: str) -> Answer[PageT]:
        state, next_link = self._state, response.links.get("next", {}).get("url")
        state.answers += 1
        records = [bytes(each) for each in self._records(page)]
        heads = [self._read(each) for each in records]
        keys = [head.key() for head in heads if head]
        places = {head.key(): place for head in heads if head and (place := head.position()) is not None}
        step = self._step(target, page, keys, places, next_link)
        state.link, state.last = step.link, step.last
        if self._border:
            records += self._left_out(target, keys)
        self._see(keys, target)
        positions: list[Any] = list(places.values())
        if positions:
            state.high = max([*positions, *([] if state.high is None else [state.high])])
            state.low = min([*positions, *([] if state.low is None else [state.low])])
            if state.answers == 1 and self._mark(state.high) != state.high:
                state.validators = {}  # a page of times that are still to come stays as it is, whatever comes below
        if state.link is None:
            state.ended = "cut" if step.cut else "end"
            self._client.notes["pages beyond the last that may be asked for"] += step.cut
        elif self._stop is not None and positions and max(positions) < self._stop and not step.back:
            state.ended = "known"
        return Answer(page, records, request_of(response), Checkpoint(self._name, msgspec.to_builtins(state)))

    @property
    def _may_move(self) -> bool:
        """Whether all that is newer than the mark was told: a listing that ends short of it may have been cut."""
        if self._state.ended in ("end", "cut") and self._stop is not None and "value" in self._cursor:
            self._client.notes["listings that ended short of the last mark, which stays"] += 1
            return False
        return True

    def _between(self) -> tuple[int | None, int | None]:
        """The ids next to the lowest and the highest told, whoever has them: of all between, every record was told."""
        assert isinstance(self._paging, Below) and self._all is not None
        found: list[int | None] = []
        for word, place in (("b", self._state.low), ("a", self._state.high)):
            target = replaced(self._all, self._paging.parameter, f"{word}{place}")
            _, page = self._client.ask(target, self._shape)
            heads = [self._read(bytes(each)) for each in (self._records(page) if page is not None else [])]
            if page is None or None in heads:
                raise SourceFault(
                    f"{self._client.source} does not say which record is next to its {self._name} at "
                    f"{without_secrets(target)}, so it is not known which are missing. "
                    "Nothing of this run is published; run it again later."
                )
            found.append(next((int(head.key()) for head in heads if head), None))
        return found[0], found[1]

    def _step(
        self, target: str, page: PageT, keys: list[str], places: dict[str, Position], next_link: str | None
    ) -> Step:
        """From a page to the next."""
        if self._paging is None:
            return Step(self._following(page, keys, next_link))
        if not keys:
            self._expect_none(page, target)
        if isinstance(self._paging, Below):
            return self._paging.following(target, keys)
        return self._paging.following(target, places, len(self._records(page)), self._state.last)

    def _expect_none(self, page: PageT, target: str) -> None:
        """An empty page is the end; one whose records have no ids is a fault."""
        if self._records(page):
            raise SourceFault(
                f"{self._client.source} tells records without ids at {without_secrets(target)}, so there is no way on. "
                "Nothing of this run is published; run it again later."
            )

    def _read(self, record: bytes) -> Head | None:
        """A record's head; None where it has none, and landing will say why."""
        try:
            return self._head.decode(record) if self._head else None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None

    def _see(self, keys: list[str], target: str) -> None:
        """Keeps the ids of a page; a listing that goes on without a new one is a fault."""
        fresh = set(keys).difference(*self._keys)
        self._keys.append(set(keys))
        self._client.notes["records told twice"] += len(keys) - len(fresh)
        self._idle = 0 if fresh or self._head is None else self._idle + 1
        if self._idle == MOST_IDLE_PAGES:
            raise SourceFault(
                f"{self._client.source} does not come to an end: {MOST_IDLE_PAGES} pages up to "
                f"{without_secrets(target)} tell nothing new. Nothing of this run is published; run it again later."
            )

    def _left_out(self, target: str, keys: list[str]) -> list[bytes]:
        """Records that the listing leaves out between two pages.

        A page asked for with room for one record more must tell one that the next page begins with. Where it is not
        there, each page is asked for twice from then on, and the records that only the wider one tells are added.
        """
        state, found = self._state, []
        told = state.wider or {}
        missing = sorted(told.keys() - set(keys))
        if missing:
            found = [told[key].encode() for key in missing]
            state.leaves_out = True
        beyond: dict[str, bytes] = {}
        if state.link is not None and (state.leaves_out or state.wider is None):
            beyond = {key: record for key, record in self._wider(target) if key not in keys}
        if state.leaves_out:
            found += beyond.values()
            beyond = {}
        state.wider = {key: record.decode() for key, record in beyond.items()}
        self._client.notes["records left out between pages, asked for again"] += len(found)
        return found

    def _wider(self, target: str) -> Iterator[tuple[str, bytes]]:
        """The records of a page, asked for with room for one more."""
        border = str(self._border)
        _, page = self._client.ask(replaced(target, border, int(httpx.URL(target).params[border]) + 1), self._shape)
        for each in self._records(page) if page is not None else []:
            if head := self._read(bytes(each)):
                yield head.key(), bytes(each)

    def _unasked(self, link: str) -> str:
        target = self._client.below_base(link)
        if target in self._links and not isinstance(self._paging, Numbered):
            raise SourceFault(
                f"{self._client.source} repeats itself: it names {without_secrets(target)} as the next page a second "
                "time. Nothing of this run is published; run it again later."
            )
        self._links.add(target)
        return target

    def _known(self) -> Position | None:
        """Where known ground begins."""
        if "value" not in self._cursor:
            return self._since
        value = _place(self._cursor["value"])
        try:
            return value - self._overlap  # type: ignore[operator]
        except OverflowError:
            return value

    def _mark(self, high: Position) -> Position:
        """The highest place seen, but no time that was still to come when it was asked for: its clock may be wrong."""
        return min(high, self._state.began) if isinstance(high, datetime) else high


def _resumed(state: Mapping[str, Any]) -> State:
    """Where a run broke off; the beginning, where other code has written that."""
    began = datetime.now(UTC)
    try:
        return msgspec.convert({"began": began, **state}, State)
    except msgspec.ValidationError:
        return State(began)


def _place(value: str | int) -> Position:
    return datetime.fromisoformat(value) if isinstance(value, str) else value


def _plain(place: Position) -> str | int:
    return place.isoformat() if isinstance(place, datetime) else place


def _validators(response: httpx.Response) -> dict[str, str]:
    """The headers to send so that an unchanged answer is a 304 (RFC 9110, 13.1)."""
    pairs = {"if-none-match": response.headers.get("etag"), "if-modified-since": response.headers.get("last-modified")}
    return {name: value for name, value in pairs.items() if value}
