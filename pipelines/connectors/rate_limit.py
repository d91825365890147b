"""Rate limits of hosts: over all runs one request at a time, and never faster than the operator allows.

    slot() ──advisory lock of the host──> wait until next_request_at and blocked_until ──> request ──> next_request_at

The lock is held from reading both times (by the clock of the database) to the end of the response, so every run knows
of a Retry-After that another received before it sends its next request.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.errors import AtlasError
from pipelines.warehouse import locks
from pipelines.warehouse.database import Connection

MAX_WAIT_S = 120.0  # a host that blocks requests for longer ends the run; the next run continues it


class RateLimit:
    """The rate limit of one host. rate: requests a second; None is no limit."""

    def __init__(self, connection: Connection, host: str, rate: float | None) -> None:
        self._connection, self.host = connection, host
        self._interval_s = 1 / rate if rate else 0.0
        connection.execute("insert into ops.rate_limits (host) values (%s) on conflict do nothing", [host])

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Waits until a request may be sent; no other run sends one until the block ends.

        Raises AtlasError where the host is blocked for more than MAX_WAIT_S.
        """
        # From the end of the response: the time at which the request reached the host is unknown.
        delay = (
            "update ops.rate_limits set next_request_at = clock_timestamp() + make_interval(secs => %s) where host = %s"
        )
        while True:
            locks.acquire(self._connection, locks.host(self.host))
            try:
                if (wait_s := self._reserve()) <= 0:
                    try:
                        yield
                    finally:
                        self._connection.execute(delay, [self._interval_s, self.host])
                    return
            finally:
                locks.release(self._connection, locks.host(self.host))
            time.sleep(wait_s)

    def block_for(self, seconds: float) -> None:
        """Blocks the host for every run; called within a slot. A longer block stays as it is."""
        self._connection.execute(
            """
            update ops.rate_limits
            set blocked_until = greatest(blocked_until, clock_timestamp() + make_interval(secs => %s))
            where host = %s
            """,
            [seconds, self.host],
        )

    def _reserve(self) -> float:
        """Reserves a slot; returns the seconds to wait, none where it is reserved."""
        row = self._connection.execute(
            """
            update ops.rate_limits
            set next_request_at = case
                when greatest(next_request_at, blocked_until) > now() then next_request_at
                else now() + make_interval(secs => %s)
            end
            where host = %s
            returning blocked_until, extract(epoch from blocked_until - now())::float8 as blocked_s,
                extract(epoch from greatest(old.next_request_at, blocked_until) - now())::float8 as wait_s
            """,
            [self._interval_s, self.host],
        ).fetchone()
        assert row is not None
        if row["blocked_s"] > MAX_WAIT_S:
            raise AtlasError(
                f"deferred: {self.host} accepts no requests until {row['blocked_until']:%Y-%m-%d %H:%M:%S} UTC. "
                "No request is sent before; run it again then, it goes on where it stopped."
            )
        return float(row["wait_s"])
