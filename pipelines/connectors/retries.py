"""When a request is sent again: what may be better the next time, how long a source asks to wait, what is logged."""

import logging
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx
import stamina

ATTEMPTS = 6
DEFAULT_WAIT_S = 1.0  # after a 429 that names no time
MAX_BLOCK_S = 30 * 86_400.0  # the longest block that is stored, whatever the host asks for
RATE_LIMIT_RESET = re.compile(r"\bt=([0-9]+)")


class RetryableError(Exception):
    """A response of a source that may be better at the next attempt. wait_s: seconds until then, where the server says
    so; held: the rate limit keeps to them; has_response: the server has sent one.
    """

    def __init__(
        self, source: str, words: str, wait_s: float | None = None, *, held: bool = False, has_response: bool = True
    ) -> None:
        super().__init__(words)
        self.source, self.wait_s, self.held, self.has_response = source, wait_s, held, has_response


def _log_retry(details: stamina.instrumentation.RetryDetails) -> None:
    """Logs the source, the reason and the time of a retry; stamina's own message does not."""
    error = details.caused_by
    assert isinstance(error, RetryableError)
    wait_s = max(details.wait_for, error.wait_s or 0.0)
    again = f"trying again in {wait_s:.1f} s ({details.retry_num} of {ATTEMPTS - 1})"
    logging.getLogger(__name__).warning("%s: %s; %s", error.source, error, again)


stamina.instrumentation.set_on_retry_hooks([_log_retry])


def retry_delay(error: Exception) -> bool | float:
    """Whether stamina retries, or after how many seconds where the server says so."""
    if not isinstance(error, RetryableError):
        return False
    return 0.0 if error.held else True if error.wait_s is None else error.wait_s


def retry_delay_without_response(error: Exception) -> bool | float:
    """As `retry_delay`, but a response is taken as it is."""
    return not getattr(error, "has_response", True) and retry_delay(error)


def requested_wait_s(response: httpx.Response) -> float | None:
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
