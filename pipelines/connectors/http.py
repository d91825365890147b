"""The HTTP client of every connector: time-outs, retries, rate limits, and recordings replayed through the same code.

    Client.request ──rate limit slot──> response ──200──> decoded document
                       └── 429, 5xx, connection error, cut or invalid JSON: retried, with growing pauses

A response that stays bad, or any other status, raises an error; it is never an empty page. Only the path and query of
a link are followed, so a page cannot send the client, or its token, to another host.
"""

import logging
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any, TypeVar

import httpx
import msgspec
import stamina

from pipelines.connectors.rate_limit import RateLimit
from pipelines.errors import AtlasError, Refused, SourceFault, Unreachable
from pipelines.source import Auth

TIMEOUT = httpx.Timeout(30.0, connect=10.0)
ATTEMPTS = 6
DEFAULT_WAIT_S = 1.0  # after a 429 that names no time
MAX_BLOCK_S = 30 * 86_400.0  # the longest block that is stored, whatever the host asks for
USER_AGENT = "modelatlas/0.1"
MAX_RESPONSE_S = 120.0
MAX_RESPONSE_BYTES = 256 * 1024**2
JSON = "application/json"
TRANSFER_HEADERS = {"content-encoding", "content-length", "transfer-encoding"}  # of the bytes before they are decoded
GONE = frozenset({404, 410})
RATE_LIMIT_RESET = re.compile(r"\bt=([0-9]+)")
PARAMETERS = re.compile(r"[?&][^?#\s\"'<>]*")
USER_IN_URL = re.compile(r"(?<=://)[^/@?#\s\"']+@")
PERHAPS_SECRET = re.compile("token|key|secret|sig|pass|login", re.IGNORECASE)
"""Parameters that are left out of what is logged and stored: rather too many than too few."""

DocumentT = TypeVar("DocumentT")

Keep = Callable[[str, bytes | None, httpx.Response, list[msgspec.Raw]], None]
"""Keeps a response for a recording: its target, the body of its request, and its records."""

_tls_context = cache(httpx.create_ssl_context)  # loading the certificates takes 40 ms: once a process


def _log_retry(details: stamina.instrumentation.RetryDetails) -> None:
    """Logs the reason and the time of a retry; stamina's own message does not."""
    again = f"trying again in {details.wait_for:.1f} s ({details.retry_num} of {ATTEMPTS - 1})"
    logging.getLogger(__name__).warning("%s; %s", details.caused_by, again)


stamina.instrumentation.set_on_retry_hooks([_log_retry])


class _RetryableError(Exception):
    """A response that may be better at the next attempt. wait_s: seconds until then, where the server says so."""

    def __init__(self, words: str, wait_s: float | None = None) -> None:
        super().__init__(words)
        self.wait_s = wait_s


class Client(AbstractContextManager["Client"]):
    """Sends requests to one source. `notes` counts what the ledger shows of a run.

    token: sent as a bearer token, or as `user:key` where auth is basic. contact: how the operator can reach the caller.
    rate_limit: shared with every other run that reads the host; None for a recording. keep: is called with each
    response that is used.
    """

    def __init__(
        self,
        source: str,
        base_url: str,
        *,
        token: str | None = None,
        auth: Auth = "bearer",
        contact: str | None = None,
        rate_limit: RateLimit | None = None,
        transport: httpx.BaseTransport | None = None,
        keep: Keep | None = None,
    ) -> None:
        self.source, self._base_url, self._rate_limit, self._keep = source, base_url, rate_limit, keep
        self._variable = f"ATLAS_{source.split('/')[-1].upper()}"
        self.notes: Counter[str] = Counter()
        self.anonymous = token is None
        headers = {"user-agent": f"{USER_AGENT} ({contact})" if contact else USER_AGENT, "accept": JSON}
        basic = None
        if token and auth == "basic":
            user, _, key = token.partition(":")
            basic = httpx.BasicAuth(user, key)
        elif token:
            headers["authorization"] = f"Bearer {token}"
        self._http = httpx.Client(
            base_url=base_url, headers=headers, auth=basic, timeout=TIMEOUT, verify=_tls_context(), transport=transport
        )

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def request(
        self,
        target: str,
        document_type: type[DocumentT],
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        gone: frozenset[int] = GONE,
        records: Callable[[Any], list[msgspec.Raw]] = lambda _: [],
    ) -> tuple[httpx.Response, DocumentT | None]:
        """Returns a response and its document; None for a 304 to conditional headers, or for a status of `gone`.

        target: a path below the base URL; empty for the base URL itself. body: JSON, sent by POST; without it the
        request is a GET. records: of the document. Raises AtlasError after the last attempt or where the host is
        blocked for long, Unreachable, Refused or SourceFault.
        """
        try:
            for attempt in stamina.retry_context(on=_retry_delay, attempts=ATTEMPTS, timeout=None, wait_max=30.0):
                with attempt:
                    response = self._attempt(target, headers or {}, body, gone)
                    document = self._decode(response, document_type)
                    if self._keep:
                        self._keep(target, body, response, [] if document is None else records(document))
                    return response, document
        except _RetryableError as error:
            raise AtlasError(
                f"{self.source} does not answer {without_secrets(target)}: {error}, after {ATTEMPTS} attempts. "
                "Nothing of this run is published; run it again later, it goes on where it stopped."
            ) from None
        except httpx.RequestError as error:
            raise Unreachable(
                f"{self.source} cannot be reached at {without_secrets(str(self._http.base_url))}: {error}. "
                f"Check {self._variable}_BASE_URL and the network, or use --recorded."
            ) from None
        raise AssertionError("stamina ends with an answer or an error")

    def get_record(
        self, target: str, document_type: type[object], body: bytes | None = None, gone: frozenset[int] = GONE
    ) -> tuple[bytes, str] | None:
        """Returns one record by its own URL, and the URL as it is stored; None where the source says that it is gone.

        document_type: what a record has and an error with status 200 lacks. gone: the statuses of a deleted record.
        """
        response, document = self.request(target, document_type, body=body, gone=gone)
        return None if document is None else (response.content.strip(), request_of(response))

    def target_of(self, link: str) -> str:
        """The path and query of a link, below the path of the base URL. Raises SourceFault where it is not a URL."""
        if not link:
            return link
        try:
            target = httpx.URL(link).raw_path.decode()
        except httpx.InvalidURL as error:
            raise SourceFault(
                f"{self.source} names a next page that is not a URL: {error}. Nothing of this run is published."
            ) from None
        base = self._http.base_url.raw_path.decode().rstrip("/")
        return target.removeprefix(base) if target.startswith(f"{base}/") else target

    def _attempt(
        self, target: str, headers: Mapping[str, str], body: bytes | None, gone: frozenset[int]
    ) -> httpx.Response:
        """Sends a request once. Raises _RetryableError for 429 and 5xx, Refused for other unexpected statuses."""
        slot: AbstractContextManager[None] = self._rate_limit.slot() if self._rate_limit else nullcontext()
        with slot:
            self.notes["requests"] += 1
            response = self._receive(target or self._base_url, headers, body)
            unchanged = {httpx.codes.NOT_MODIFIED} if headers else set()
            if response.status_code in {httpx.codes.OK, *unchanged, *gone}:
                return response
            words = f"status {response.status_code}"
            if response.status_code == httpx.codes.TOO_MANY_REQUESTS or response.status_code >= 500:
                self.notes["responses retried"] += 1
                wait_s = _requested_wait_s(response)
                if self._rate_limit and wait_s is not None:
                    self._rate_limit.block_for(wait_s)
                    wait_s = 0.0  # the next slot waits, as those of other runs do
                raise _RetryableError(words, wait_s)
        advice = f" Set {self._variable}_TOKEN." if response.status_code in {401, 403} and self.anonymous else ""
        raise Refused(f"{self.source} refused {request_of(response)}: {words}.{advice}")

    def _receive(self, target: str, headers: Mapping[str, str], body: bytes | None) -> httpx.Response:
        """Sends a request and reads the response, within limits of time and size."""
        method, sent = ("GET", dict(headers)) if body is None else ("POST", {**headers, "content-type": JSON})
        deadline, content = time.monotonic() + MAX_RESPONSE_S, bytearray()
        with self._http.stream(method, target, headers=sent, content=body) as response:
            for part in response.iter_bytes():
                content += part
                if len(content) > MAX_RESPONSE_BYTES:
                    raise SourceFault(
                        f"{self.source} sends more than {MAX_RESPONSE_BYTES:,} bytes: {request_of(response)}."
                    )
                if time.monotonic() > deadline:
                    raise _RetryableError(f"a response takes longer than {MAX_RESPONSE_S:.0f} s")
        kept = [(name, value) for name, value in response.headers.multi_items() if name not in TRANSFER_HEADERS]
        return httpx.Response(response.status_code, headers=kept, content=bytes(content), request=response.request)

    def _decode(self, response: httpx.Response, document_type: type[DocumentT]) -> DocumentT | None:
        if response.status_code != httpx.codes.OK:
            return None
        try:
            return msgspec.json.decode(response.content, type=document_type)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise _RetryableError(f"the response is not a valid page ({error})") from None


def request_of(response: httpx.Response) -> str:
    """The URL of the request, as it may be stored."""
    return without_secrets(str(response.request.url))


def _retry_delay(error: Exception) -> bool | float:
    """Whether stamina retries, or after how many seconds where the server says so."""
    if isinstance(error, _RetryableError):
        return True if error.wait_s is None else error.wait_s
    return isinstance(error, httpx.RequestError)


def _requested_wait_s(response: httpx.Response) -> float | None:
    """Seconds to wait by the Retry-After header, in seconds or as a date (RFC 9110, 10.2.3); else, for a 429, by the
    RateLimit header, or DEFAULT_WAIT_S. None for another status without a time.

    A date is compared with the Date header of the same response, since the server's clock may be wrong.
    """
    value, default = response.headers.get("retry-after"), None
    if response.status_code == httpx.codes.TOO_MANY_REQUESTS:
        default = DEFAULT_WAIT_S
        reset = RATE_LIMIT_RESET.search(response.headers.get("ratelimit", ""))
        value = reset.group(1) if value is None and reset else value
    try:
        seconds = float(value or "")
    except ValueError:
        if (until := _date(value or "")) is None:
            return default
        seconds = (until - (_date(response.headers.get("date", "")) or datetime.now(UTC))).total_seconds()
    return min(max(0.0, seconds), MAX_BLOCK_S)


def _date(value: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def without_secrets(url: str) -> str:
    """A URL without user, fragment and secret parameters: it may be stored and shown."""
    return without_secrets_in_urls(url).partition("#")[0]


def without_secrets_in_urls(text: str, secret: re.Pattern[str] = PERHAPS_SECRET) -> str:
    """A text whose URLs name no user, and have no parameter with the name of a secret."""

    def clean(match: re.Match[str]) -> str:
        parameters = [each.partition("=") for each in match[0][1:].split("&")]
        kept = ["".join(each) for each in parameters if not (each[1] and secret.search(each[0]))]
        return match[0][0] + "&".join(kept) if kept else ""

    return USER_IN_URL.sub("", PARAMETERS.sub(clean, text))
