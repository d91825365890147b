"""One page of a listing: requested, decoded, with its records byte for byte and what paging reads of them.

    PageReader.get(target) ──> Page: document, records, keys, positions, Link header

Belongs here: requesting and decoding a page. Not here: which page follows (`pagination`), where a listing ends
(`listing`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Generic, TypeVar

import httpx
import msgspec

from pipelines.connectors.http import Client, request_of

PageT = TypeVar("PageT")
Position = datetime | int
"""Where a record stands in a listing that is newest first."""


class RecordHead(msgspec.Struct):
    """The fields of a record that paging reads: its id and, where the listing is newest first, its position."""

    def key(self) -> str:
        raise NotImplementedError

    def position(self) -> Position | None:
        return None


@dataclass(frozen=True)
class Page(Generic[PageT]):
    """A page as received.

    target: path and query of its request. heads: one for each record, None where it cannot be decoded; landing reports
    why. request: its URL as it is stored. next_link: `next` of its Link header (RFC 8288).
    """

    target: str
    document: PageT
    records: list[bytes]
    heads: list[RecordHead | None]
    request: str
    next_link: str | None

    @cached_property
    def keys(self) -> list[str]:
        return [head.key() for head in self.heads if head]

    @cached_property
    def positions(self) -> dict[str, Position]:
        """The positions of the records that have one, by key."""
        return {head.key(): position for head in self.heads if head and (position := head.position()) is not None}


class PageReader(Generic[PageT]):
    """Requests pages of one type.

    records: the records of a decoded page. head: what paging reads of a record. limit: the most records of a page.
    """

    def __init__(
        self,
        client: Client,
        page_type: type[PageT],
        records: Callable[[PageT], list[msgspec.Raw]],
        head: type[RecordHead] | None,
        limit: int | None,
    ) -> None:
        self._client, self._page_type, self._records, self._limit = client, page_type, records, limit
        self._head = msgspec.json.Decoder(head) if head else None

    def get(
        self, target: str, conditions: Mapping[str, str] | None = None
    ) -> tuple[httpx.Response, Page[PageT] | None]:
        """Returns the response and the page; None where it is gone, or unchanged by conditional headers."""
        response, document = self._client.request(target, self._page_type, conditions, records=self._records)
        if document is None:
            return response, None
        records = [bytes(each) for each in self._records(document)][: self._limit]
        heads = [self._decode(each) for each in records]
        next_link = response.links.get("next", {}).get("url")
        return response, Page(target, document, records, heads, request_of(response), next_link)

    def _decode(self, record: bytes) -> RecordHead | None:
        try:
            return self._head.decode(record) if self._head else None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None


def with_parameter(target: str, parameter: str, value: str | int) -> str:
    """A target with another value of one query parameter."""
    return str(httpx.URL(target).copy_set_param(parameter, value))
