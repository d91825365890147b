"""The HTTP client of every connector: time-outs, retries, rate limits, and recordings replayed through the same code.

    Client.request ──rate limit slot──> response ──200──> decoded document
                       └── 408, 421, 425, 429, 5xx, connection error, cut, not JSON: retried, with growing pauses

A response that stays bad, or any other status, raises an error; it is never an empty page. A page of which single
records are broken is a page (`json_records`). Only the path and query of
a link are followed, so a page cannot send the client, or its token, to another host.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import cache
from typing import Generic, NamedTuple, TypeVar
from urllib.parse import quote

import httpx
import msgspec
import stamina

from pipelines.connectors import json_records
from pipelines.connectors.json_keys import UNDECODABLE
from pipelines.connectors.json_records import Record, Records
from pipelines.connectors.rate_limit import RateLimit
from pipelines.connectors.retries import (
    ATTEMPTS,
    RetryableError,
    requested_wait_s,
    retry_delay,
    retry_delay_without_response,
)
from pipelines.connectors.urls import without_secrets
from pipelines.errors import AtlasError, Refused, SourceFault, Unanswered, Unreachable
from pipelines.source import Auth

TIMEOUT = httpx.Timeout(30.0, connect=10.0)
USER_AGENT = "modelatlas/0.1"
MAX_RESPONSE_S = 120.0
MAX_RESPONSE_BYTES = 256 * 1024**2
JSON = "application/json"
TRANSFER_HEADERS = {"content-encoding", "content-length", "transfer-encoding"}  # of the bytes before they are decoded
GONE = frozenset({404, 410})
RETRIED = frozenset({408, 421, 425, 429})  # and every 5xx
MAX_UNANSWERED = 5  # records in a row; each costs ATTEMPTS requests

DocumentT = TypeVar("DocumentT")

Keep = Callable[[str, bytes | None, httpx.Response, list[bytes]], None]
"""Keeps a response for a recording: its target, the body of its request, and its records."""

_tls_context = cache(httpx.create_ssl_context)  # loading the certificates takes 40 ms: once a process


class Answer(NamedTuple, Generic[DocumentT]):
    """A response, its document, and the records of that as received. Without a document for a 304 or a record that
    is gone.
    """

    response: httpx.Response
    document: DocumentT | None
    records: list[Record]


class Client(AbstractContextManager["Client"]):
    """Sends requests to one source. `notes` counts what the ledger shows of a run.

    token: sent as a bearer token, or as `user:key` where auth is basic. contact: how the operator can reach the caller.
    rate_limit: shared with every other run that reads the host; None for a recording. keep: is called with each
    response that is used. variable: how the names of its settings begin.
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
        variable: str | None = None,
    ) -> None:
        self.source, self._base_url, self._rate_limit, self._keep = source, base_url, rate_limit, keep
        self._variable = variable or f"ATLAS_{source.split('/')[-1]}".upper()
        self.notes: Counter[str] = Counter()
        self._unanswered, self._without_response = 0, 0  # records in a row
        self.anonymous = token is None
        self._own_secrets = {each for each in (token, (token or "").partition(":")[2]) if each}
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
        self, target: str, document_type: type[DocumentT], headers: Mapping[str, str] | None = None
    ) -> tuple[httpx.Response, DocumentT | None]:
        """Returns a response and its document, as `answer` does."""
        return self.answer(target, document_type, headers)[:2]

    def answer(
        self,
        target: str,
        document_type: type[DocumentT],
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        gone: frozenset[int] = GONE,
        records: Callable[[DocumentT], Records] | None = None,
        check: Callable[[Answer[DocumentT]], object] = lambda _: None,
        delay: Callable[[Exception], bool | float] = retry_delay,
    ) -> Answer[DocumentT]:
        """Returns what a request is answered; without a document for a 304 to conditional headers, or a status of
        `gone`.

        target: a path below the base URL; empty for the base URL itself. body: JSON, sent by POST; without it the
        request is a GET. records: of the document. check: raises RetryableError for an answer that cannot be used.
        delay: whether an attempt is followed by another, and when. Raises Unanswered after the last attempt,
        Unreachable, Refused, SourceFault, or AtlasError where the host is blocked for long.
        """
        try:
            for attempt in stamina.retry_context(on=delay, attempts=ATTEMPTS, timeout=None, wait_max=30.0):
                with attempt:
                    response = self._attempt(target, headers or {}, body, gone)
                    answer = self._decode(response, document_type, records)
                    check(answer)
                    if self._keep:
                        self._keep(target, body, response, [each.body for each in answer.records])
                    return answer
        except RetryableError as error:
            if isinstance(error.__cause__, httpx.ConnectError | httpx.ConnectTimeout | httpx.UnsupportedProtocol):
                raise Unreachable(
                    f"{self.source} cannot be reached at {without_secrets(str(self._http.base_url))}: {error}. "
                    f"Check {self._variable}_BASE_URL and the network, or use --recorded."
                ) from None
            raise Unanswered(
                f"{self.source} does not answer {without_secrets(target)}: {error}, after {ATTEMPTS} attempts. "
                "Nothing of this run is published; run it again later, it goes on where it stopped.",
                str(error).partition(" (")[0],
                has_response=error.has_response,
            ) from None
        raise AssertionError("stamina ends with an answer or an error")

    def get_record(
        self,
        target: str,
        document_type: type[DocumentT],
        body: bytes | None = None,
        gone: frozenset[int] = GONE,
        record: Callable[[DocumentT], msgspec.Raw] | None = None,
    ) -> tuple[bytes, str] | None:
        """Returns one record by its own URL, and the URL as it is stored; None where the source says that it is gone.

        document_type: what a record has and an error with status 200 lacks. gone: the statuses of a deleted record.
        record: where the document holds the record; without it, the document is the record.

        Raises Refused where this record cannot be fetched: a connector may skip it, and go on. Raises AtlasError where
        several in a row have no response at all, since the source is down then.
        """
        try:
            answer = self.answer(
                target,
                document_type,
                body=body,
                gone=gone,
                records=(lambda document: [record(document)]) if record else None,
                delay=retry_delay if self._unanswered < MAX_UNANSWERED else retry_delay_without_response,
            )
        except Unanswered as error:
            self._unanswered += 1
            self._without_response = 0 if error.has_response else self._without_response + 1
            if self._without_response < MAX_UNANSWERED:
                raise
            raise AtlasError(f"{MAX_UNANSWERED} records in a row have no response. {error}") from None
        except Refused:
            self._unanswered, self._without_response = 0, 0
            raise
        self._unanswered, self._without_response = 0, 0
        if answer.document is None:
            return None
        found = answer.records[0].body if record else answer.response.content.strip()
        return found, request_of(answer.response)

    def without_token(self, link: str) -> str:
        """A link without the parameters that hold the client's own token, which each request has in its header."""
        try:
            url = httpx.URL(link)
        except httpx.InvalidURL:
            return link
        every = url.params.multi_items()
        kept = [(name, value) for name, value in every if value not in self._own_secrets]
        return link if len(kept) == len(every) else str(url.copy_with(params=kept))

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
        """Sends a request once. Raises RetryableError for a lost connection and a status that may pass, Refused for
        other unexpected ones.
        """
        slot: AbstractContextManager[None] = self._rate_limit.slot() if self._rate_limit else nullcontext()
        with slot:
            self.notes["requests"] += 1
            try:
                response = self._receive(target or self._base_url, headers, body)
            except httpx.RequestError as error:
                words = str(error) or type(error).__name__
                raise RetryableError(self.source, words, has_response=False) from error
            except httpx.InvalidURL as error:
                raise Refused(f"{self.source}: {target!a} is not a URL: {error}.", "its URL is not valid") from None
            unchanged = {httpx.codes.NOT_MODIFIED} if headers else set()
            if response.status_code in {httpx.codes.OK, *unchanged, *gone}:
                return response
            words = f"status {response.status_code}"
            if response.status_code in RETRIED or response.status_code >= 500:
                self.notes["responses retried"] += 1
                wait_s = requested_wait_s(response)
                held = self._rate_limit is not None and wait_s is not None
                if self._rate_limit and wait_s is not None:
                    self._rate_limit.block_for(wait_s)  # the next slot waits, as those of other runs do
                raise RetryableError(self.source, words, wait_s, held=held)
        advice = f" Set {self._variable}_TOKEN." if response.status_code in {401, 403} and self.anonymous else ""
        if response.has_redirect_location:
            with suppress(httpx.InvalidURL):
                led_to = response.url.join(response.headers["location"])
                place = f"{led_to.scheme}://{led_to.netloc.decode()}{led_to.path}"  # without user and parameters
                advice = f" It redirects to {place}: if that is where the source is now, set {self._variable}_BASE_URL."
        raise Refused(f"{self.source} refused {request_of(response)}: {words}.{advice}", words)

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
                    raise RetryableError(self.source, f"a response takes longer than {MAX_RESPONSE_S:.0f} s")
        kept = [(name, value) for name, value in response.headers.multi_items() if name not in TRANSFER_HEADERS]
        return httpx.Response(response.status_code, headers=kept, content=bytes(content), request=response.request)

    def _decode(
        self, response: httpx.Response, document_type: type[DocumentT], records: Callable[[DocumentT], Records] | None
    ) -> Answer[DocumentT]:
        if response.status_code != httpx.codes.OK:
            return Answer(response, None, [])
        try:
            if records is None:
                return Answer(response, json_records.decode(response.content, document_type).document, [])
            return Answer(response, *json_records.decode_page(response.content, document_type, records))
        except UNDECODABLE as error:
            raise RetryableError(self.source, f"the response is not a valid page ({error})") from None


def request_of(response: httpx.Response) -> str:
    """The URL of the request, as it may be stored."""
    return without_secrets(str(response.request.url))


def quoted(external_id: str) -> str:
    """An id as part of a path: escaped, but for its slashes."""
    return quote(external_id)
