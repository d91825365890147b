"""One HTTP client for every connector: time-outs, retries, pages, and recordings replayed through the same code.

What may pass is tried again with growing, jittered pauses (connection faults, 429, 5xx; Retry-After is obeyed up to
`LONGEST_WAIT_S`); anything else is a fault in words, never an empty page. Only the path of a next-page link is
followed, so a page cannot send the client, or its token, to another host. Belongs here: requests and answers. Not:
what a page means.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Generic, TypeVar

import httpx
import msgspec
import stamina

from pipelines.errors import AtlasError

TIMEOUT = httpx.Timeout(30.0, connect=10.0)
ATTEMPTS = 6
LONGEST_WAIT_S = 120.0
USER_AGENT = "modelatlas/0.1"
SECRET_PARAMETER = re.compile(r"token|key|secret|sig|pass", re.IGNORECASE)

# Where structlog is installed, as Dagster does, stamina would tell of retries on standard output.
stamina.instrumentation.set_on_retry_hooks([stamina.instrumentation.LoggingOnRetryHook])

PageT = TypeVar("PageT")


@dataclass(frozen=True, slots=True)
class Answer(Generic[PageT]):
    """A decoded page and the URL it came from, without secrets."""

    page: PageT
    request: str


class _TryAgain(Exception):
    """An answer that may be better next time."""

    def __init__(self, words: str, wait_s: float | None) -> None:
        super().__init__(words)
        self.wait_s = wait_s


class Client:
    """Requests to one source; a context manager."""

    def __init__(
        self, source: str, base_url: str, *, token: str | None = None, transport: httpx.BaseTransport | None = None
    ) -> None:
        self.source = source
        headers = {"user-agent": USER_AGENT, "accept": "application/json"}
        if token:
            headers["authorization"] = f"Bearer {token}"
        self._http = httpx.Client(base_url=base_url, headers=headers, timeout=TIMEOUT, transport=transport)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def pages(
        self,
        path: str,
        parameters: Mapping[str, str | int],
        shape: type[PageT],
        following: Callable[[PageT], str | None],
    ) -> Iterator[Answer[PageT]]:
        """The pages of a listing; `following` names the link from one to the next. A repeated link is a fault."""
        decode = msgspec.json.Decoder(shape).decode
        link: str | None = str(httpx.URL(path, params=dict(parameters)))
        seen: set[str] = set()
        while link is not None:
            target = self._below_base(link)
            if target in seen:
                raise AtlasError(
                    f"{self.source} repeats itself: it names {without_secrets(target)} as the next page a second time. "
                    "Nothing of this run is published; run it again later."
                )
            seen.add(target)
            response = self.get(target)
            request = without_secrets(str(response.request.url))
            try:
                page = decode(response.content)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise AtlasError(
                    f"{self.source} answered {request} with something that is no page of it: {error}. "
                    "Nothing of this run is published; run it again later."
                ) from None
            yield Answer(page, request)
            link = following(page)

    def _below_base(self, link: str) -> str:
        """A link's path and query, below the path of the base URL."""
        try:
            target = httpx.URL(link).raw_path.decode()
        except httpx.InvalidURL as error:
            raise AtlasError(
                f"{self.source} names a next page that is no URL: {error}. Nothing of this run is published."
            ) from None
        base = self._http.base_url.raw_path.decode().rstrip("/")
        return target.removeprefix(base) if target.startswith(f"{base}/") else target

    def get(self, target: str) -> httpx.Response:
        """One answer with status 200."""
        try:
            for attempt in stamina.retry_context(on=_pause, attempts=ATTEMPTS, timeout=None, wait_max=30.0):
                with attempt:
                    return self._once(target)
        except _TryAgain as error:
            raise AtlasError(
                f"{self.source} does not answer {without_secrets(target)}: {error}, after {ATTEMPTS} attempts. "
                "Run it again later."
            ) from None
        except httpx.RequestError as error:
            raise AtlasError(
                f"{self.source} cannot be reached at {without_secrets(str(self._http.base_url))}: {error}. "
                f"Check ATLAS_{self.source.split('/')[-1].upper()}_BASE_URL and the network, or use --recorded."
            ) from None
        raise AssertionError("stamina ends with an answer or an error")

    def _once(self, target: str) -> httpx.Response:
        response = self._http.get(target)
        if response.status_code == httpx.codes.OK:
            return response
        words = f"status {response.status_code}"
        if response.status_code == httpx.codes.TOO_MANY_REQUESTS or response.status_code >= 500:
            wait_s = _retry_after(response)
            if wait_s is None or wait_s <= LONGEST_WAIT_S:
                raise _TryAgain(words, wait_s)
            words += f", and it asks to wait {wait_s:.0f} s"
        raise AtlasError(f"{self.source} refused {without_secrets(str(response.request.url))}: {words}.")


def _pause(error: Exception) -> bool | float:
    """What stamina may try again, and after how long where the server says so."""
    if isinstance(error, _TryAgain):
        return True if error.wait_s is None else error.wait_s
    return isinstance(error, httpx.RequestError)


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds to wait by the Retry-After header, given in seconds or as a date (RFC 9110, 10.2.3)."""
    value = response.headers.get("retry-after")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        until = parsedate_to_datetime(value)
    except ValueError:
        return None
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return max(0.0, (until - datetime.now(UTC)).total_seconds())


def without_secrets(url: str) -> str:
    """A URL that may be stored and shown."""
    parsed = httpx.URL(url)
    for name in set(parsed.params):
        if SECRET_PARAMETER.search(name):
            parsed = parsed.copy_remove_param(name)
    return str(parsed.copy_with(userinfo=b"", fragment=None) if parsed.is_absolute_url else parsed)
