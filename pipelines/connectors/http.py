"""One HTTP client for every connector: time-outs, retries, turns, and recordings replayed through the same code.

What may pass is tried again with growing, jittered pauses (connection faults, 429, 5xx, an answer cut short or no
JSON); anything else is a fault in words, never an empty page. Only the path of a link is followed, so a page cannot
send the client, or its token, to another host. Belongs here: requests and answers. Not: paging (`listing`), not whose
turn it is (`turns`).
"""

import logging
import re
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import cache
from typing import TypeVar

import httpx
import msgspec
import stamina

from pipelines import failpoints
from pipelines.connectors.rate_limit import LONGEST_WAIT_S, Deferred, Turns
from pipelines.errors import AtlasError, Refused, SourceFault, Unreachable
from pipelines.source import Auth

TIMEOUT = httpx.Timeout(30.0, connect=10.0)
ATTEMPTS = 6
UNSAID_WAIT_S = 1.0
"""How long a host is left alone that says 429 and not for how long."""
LONGEST_BAN_S = 30 * 86_400.0
"""What a host that asks to be left alone for longer, or for ever, is believed."""
USER_AGENT = "modelatlas/0.1"
LONGEST_ANSWER_S = 120.0
MOST_BYTES = 256 * 1024**2
JSON = "application/json"
PACKING = {"content-encoding", "content-length", "transfer-encoding"}
GONE = frozenset({404, 410})
RATE_LIMIT = re.compile(r"\bt=([0-9]+)")
SECRET_PARAMETER = re.compile(r"token|key|secret|sig|pass|login", re.IGNORECASE)


def _told(details: stamina.instrumentation.RetryDetails) -> None:
    """Says why something is tried again, and when; stamina's own words do not."""
    again = f"trying again in {details.wait_for:.1f} s ({details.retry_num} of {ATTEMPTS - 1})"
    _log.warning("%s; %s", details.caused_by, again)


_log = logging.getLogger(__name__)
stamina.instrumentation.set_on_retry_hooks([_told])

DocumentT = TypeVar("DocumentT")

_trusted = cache(httpx.create_ssl_context)
"""Whom to trust is read once: that takes 40 ms."""


class _TryAgain(Exception):
    """An answer that may be better next time."""

    def __init__(self, words: str, wait_s: float | None = None) -> None:
        super().__init__(words)
        self.wait_s = wait_s


class Client:
    """Requests to one source; a context manager. `notes` counts what the ledger should tell.

    token: sent as a bearer token, or as `user:key` where auth is basic. contact: how whoever calls can be reached.
    turns: shared with every other run that asks the host; none for a recording. places: other hosts that the source
    is read from, by name.
    """

    def __init__(
        self,
        source: str,
        base_url: str,
        *,
        token: str | None = None,
        auth: Auth = "bearer",
        contact: str | None = None,
        turns: Turns | None = None,
        places: Mapping[str, "Client"] | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.source, self._base_url, self._turns, self._places = source, base_url, turns, places or {}
        self._stem = source.split("/")[-1].upper()
        self.notes: Counter[str] = Counter()
        for place in self._places.values():
            place.notes = self.notes
        self.anonymous = token is None
        headers = {
            "user-agent": f"{USER_AGENT} ({contact})" if contact else USER_AGENT,
            "accept": JSON,
        }
        basic = None
        if token and auth == "basic":
            user, _, key = token.partition(":")
            basic = httpx.BasicAuth(user, key)
        elif token:
            headers["authorization"] = f"Bearer {token}"
        self._http = httpx.Client(
            base_url=base_url, headers=headers, auth=basic, timeout=TIMEOUT, verify=_trusted(), transport=transport
        )

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def place(self, name: str) -> "Client | None":
        """Another host of the source; None where none is set."""
        return self._places.get(name)

    def ask(
        self,
        target: str,
        shape: type[DocumentT],
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        gone: frozenset[int] = GONE,
    ) -> tuple[httpx.Response, DocumentT | None]:
        """An answer and what it says; None where it is unchanged (304), to conditional headers, or gone (404, 410).

        target: a path below the base URL; nothing is the base URL itself. body: JSON to send with it, which makes it a
        POST.
        """
        try:
            for attempt in stamina.retry_context(on=_pause, attempts=ATTEMPTS, timeout=None, wait_max=30.0):
                with attempt:
                    response = self._once(target, headers or {}, body, gone)
                    failpoints.reached("http.read")
                    return response, self._decoded(response, shape)
        except _TryAgain as error:
            raise AtlasError(
                f"{self.source} does not answer {without_secrets(target)}: {error}, after {ATTEMPTS} attempts. "
                "Nothing of this run is published; run it again later, it goes on where it stopped."
            ) from None
        except httpx.RequestError as error:
            raise Unreachable(
                f"{self.source} cannot be reached at {without_secrets(str(self._http.base_url))}: {error}. "
                f"Check ATLAS_{self._stem}_BASE_URL and the network, or use --recorded."
            ) from None
        raise AssertionError("stamina ends with an answer or an error")

    def get_record(
        self, target: str, shape: type[object], body: bytes | None = None, gone: frozenset[int] = GONE
    ) -> tuple[bytes, str] | None:
        """One record by its own URL, with the request that is stored; None where the source says that it is gone.

        shape: what tells a record from an error that says 200. gone: the statuses by which it says so.
        """
        response, document = self.ask(target, shape, body=body, gone=gone)
        return None if document is None else (response.content.strip(), request_of(response))

    def below_base(self, link: str) -> str:
        """A link's path and query, below the path of the base URL."""
        if not link:
            return link
        try:
            target = httpx.URL(link).raw_path.decode()
        except httpx.InvalidURL as error:
            raise SourceFault(
                f"{self.source} names a next page that is no URL: {error}. Nothing of this run is published."
            ) from None
        base = self._http.base_url.raw_path.decode().rstrip("/")
        return target.removeprefix(base) if target.startswith(f"{base}/") else target

    def _once(
        self, target: str, headers: Mapping[str, str], body: bytes | None, gone: frozenset[int]
    ) -> httpx.Response:
        turn: AbstractContextManager[None] = self._turns.turn() if self._turns else nullcontext()
        with turn:
            self.notes["requests"] += 1
            failpoints.reached("http.asking")
            response = self._answer(target or self._base_url, headers, body)
            failpoints.reached("http.answered")
            unchanged = {httpx.codes.NOT_MODIFIED} if headers else set()
            if response.status_code in {httpx.codes.OK, *unchanged, *gone}:
                return response
            words = f"status {response.status_code}"
            if response.status_code == httpx.codes.TOO_MANY_REQUESTS or response.status_code >= 500:
                self.notes["answers to try again"] += 1
                raise _TryAgain(words, self._obey(response))
        advice = f" Set ATLAS_{self._stem}_TOKEN." if response.status_code in {401, 403} and self.anonymous else ""
        raise Refused(f"{self.source} refused {request_of(response)}: {words}.{advice}")

    def _answer(self, target: str, headers: Mapping[str, str], body: bytes | None) -> httpx.Response:
        """An answer whole, if it comes in time and has an end."""
        method, sent = ("GET", dict(headers)) if body is None else ("POST", {**headers, "content-type": JSON})
        deadline, content = time.monotonic() + LONGEST_ANSWER_S, bytearray()
        with self._http.stream(method, target, headers=sent, content=body) as response:
            for part in response.iter_bytes():
                content += part
                if len(content) > MOST_BYTES:
                    raise SourceFault(f"{self.source} sends more than {MOST_BYTES:,} bytes: {request_of(response)}.")
                if time.monotonic() > deadline:
                    raise _TryAgain(f"an answer takes longer than {LONGEST_ANSWER_S:.0f} s")
        told = [(name, value) for name, value in response.headers.multi_items() if name not in PACKING]
        return httpx.Response(response.status_code, headers=told, content=bytes(content), request=response.request)

    def _obey(self, response: httpx.Response) -> float | None:
        """Keeps every run from asking for as long as the server says; how long this one must wait by itself."""
        wait_s = _retry_after(response)
        if wait_s is None and response.status_code == httpx.codes.TOO_MANY_REQUESTS:
            wait_s = UNSAID_WAIT_S
        if wait_s is None:
            return None
        if self._turns:
            self._turns.leave_alone(wait_s)
            return 0.0
        if wait_s > LONGEST_WAIT_S:
            raise Deferred(self.source, datetime.now(UTC) + timedelta(seconds=wait_s))
        return wait_s

    def _decoded(self, response: httpx.Response, shape: type[DocumentT]) -> DocumentT | None:
        if response.status_code != httpx.codes.OK:
            return None
        try:
            return msgspec.json.decode(response.content, type=shape)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise _TryAgain(f"the answer is no page of it ({error})") from None


def request_of(response: httpx.Response) -> str:
    """The URL that was asked, as it may be stored."""
    return without_secrets(str(response.request.url))


def _pause(error: Exception) -> bool | float:
    """What stamina may try again, and after how long where the server says so."""
    if isinstance(error, _TryAgain):
        return True if error.wait_s is None else error.wait_s
    return isinstance(error, httpx.RequestError)


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds to wait by the Retry-After header, given in seconds or as a date (RFC 9110, 10.2.3).

    A date is one of the server's clock, which may be wrong: it is compared with the answer's own.
    """
    value = response.headers.get("retry-after")
    if value is None:
        said = response.headers.get("ratelimit", "") if response.status_code == httpx.codes.TOO_MANY_REQUESTS else ""
        limit = RATE_LIMIT.search(said)
        return min(float(limit.group(1)), LONGEST_BAN_S) if limit else None
    try:
        return min(max(0.0, float(value)), LONGEST_BAN_S)
    except ValueError:
        pass
    if (until := _date(value)) is None:
        return None
    now = _date(response.headers.get("date", "")) or datetime.now(UTC)
    return min(max(0.0, (until - now).total_seconds()), LONGEST_BAN_S)


def _date(value: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def without_secrets(url: str) -> str:
    """A URL that may be stored and shown."""
    parsed = httpx.URL(url)
    for name in set(parsed.params):
        if SECRET_PARAMETER.search(name):
            parsed = parsed.copy_remove_param(name)
    return str(parsed.copy_with(userinfo=b"", fragment=None) if parsed.is_absolute_url else parsed)
