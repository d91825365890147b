"""Guards against a listing without end: a page that is named twice, page after page without a new record.

Belongs here: what makes a listing endless. Not here: records that it skips (`skipped_records`).
"""

from collections import deque

from pipelines.connectors.http import Client, without_secrets
from pipelines.errors import SourceFault

MAX_IDLE_PAGES = 20
"""After so many pages in succession without a new record the listing is taken to be endless."""


class LoopGuard:
    """Watches the pages of one listing; raises SourceFault where they do not end.

    unique_targets: a page is requested once. compares_keys: the keys of its records are known.
    """

    def __init__(self, client: Client, *, unique_targets: bool, compares_keys: bool) -> None:
        self._client, self._unique_targets, self._compares_keys = client, unique_targets, compares_keys
        self._targets: set[str] = set()
        self._keys: deque[set[str]] = deque(maxlen=MAX_IDLE_PAGES)
        self._idle_pages = 0

    def check_target(self, target: str) -> None:
        """Called before a page is requested."""
        if self._unique_targets and target in self._targets:
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
