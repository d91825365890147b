"""Records that a source skips between two pages of a listing.

    page ──the same page, one record larger──> the extra record must be on the next page ──not there?──> added

Where the extra record is missing once, every further page is requested twice, and the records that only the larger page
returns are added. Belongs here: this check alone. Not here: other guards of a listing (`loop_guard`).
"""

from typing import Any

import httpx
import msgspec

from pipelines.connectors.pages import Page, PageReader, with_parameter


class SkipState(msgspec.Struct):
    """What the check knows after a page.

    found: the source skips records. expected: records by key that the next page must return; None before the first.
    """

    found: bool = False
    expected: dict[str, str] | None = None


class SkippedRecords:
    """Finds the records that one listing skips. size_parameter: the query parameter that sets the size of a page."""

    def __init__(self, pages: PageReader[Any], size_parameter: str, state: SkipState) -> None:
        self._pages, self._size_parameter, self._state = pages, size_parameter, state

    def before(self, page: Page[Any], *, last: bool) -> list[bytes]:
        """Records that are missing before a page and, once the source is known to skip, after it."""
        state = self._state
        expected = state.expected or {}
        missing = sorted(expected.keys() - set(page.keys))
        found = [expected[key].encode() for key in missing]
        state.found = state.found or bool(missing)
        extra: dict[str, bytes] = {}
        if not last and (state.found or state.expected is None):
            extra = {key: record for key, record in self._larger(page).items() if key not in page.keys}
        if state.found:
            found += extra.values()
            extra = {}
        state.expected = {key: record.decode() for key, record in extra.items()}
        self._pages.client.notes["records skipped between pages, requested again"] += len(found)
        return found

    def _larger(self, page: Page[Any]) -> dict[str, bytes]:
        """The records by key of a page that is requested one record larger."""
        size = int(httpx.URL(page.target).params[self._size_parameter])
        _, larger = self._pages.get(with_parameter(page.target, self._size_parameter, size + 1))
        if larger is None:
            return {}
        return {head.key(): record for head, record in zip(larger.heads, larger.records, strict=True) if head}
