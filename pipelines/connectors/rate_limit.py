"""Rate limits of hosts: one request at a time over all runs, never faster than the operator of the host allows.

`ops.rate_limits` holds, for each host, when it may be asked next and until when it is blocked. An advisory lock is held
from reading that to the answer, so that no request leaves after another run was asked to wait. Times are the
database's. Belongs here: waiting. Not: what is asked (`http`).
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from pipelines import failpoints
from pipelines.errors import AtlasError
from pipelines.warehouse import locks
from pipelines.warehouse.database import Connection

LONGEST_WAIT_S = 120.0
"""A host that asks to be left alone for longer ends the run: the next one goes on from there."""


PAUSE = "update ops.rate_limits set next_request_at = clock_timestamp() + make_interval(secs => %s) where host = %s"
"""From the answer on: how long a request was on its way is not known, and the next may be faster."""


class Deferred(AtlasError):
    """The host asked to be left alone for longer than a run waits."""

    def __init__(self, host: str, until: datetime) -> None:
        super().__init__(
            f"deferred: {host} asks to be left alone until {until:%Y-%m-%d %H:%M:%S} UTC. Nothing is sent before; "
            "run it again then, it goes on where it stopped."
        )
        self.until = until


class Turns:
    """The turns of one host.

    rate: requests a second that the operator allows; None is no limit.
    """

    def __init__(self, connection: Connection, host: str, rate: float | None) -> None:
        self._connection, self.host = connection, host
        self._pause_s = 1 / rate if rate else 0.0
        self.waited_s = 0.0
        connection.execute("insert into ops.rate_limits (host) values (%s) on conflict do nothing", [host])

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Waits until the host may be asked; nobody else asks it until the block ends."""
        while True:
            locks.acquire(self._connection, locks.host(self.host))
            try:
                failpoints.reached("turns.locked")
                if (wait_s := self._wait_s()) <= 0:
                    failpoints.reached("turns.taken")
                    try:
                        yield
                    finally:
                        self._connection.execute(PAUSE, [self._pause_s, self.host])
                    failpoints.reached("turns.paused")
                    return
            finally:
                locks.release(self._connection, locks.host(self.host))
            self.waited_s += wait_s
            time.sleep(wait_s)

    def leave_alone(self, seconds: float) -> None:
        """Keeps every run from asking the host for so long; to be said within a turn."""
        self._connection.execute(
            """
            update ops.rate_limits
            set blocked_until = greatest(blocked_until, clock_timestamp() + make_interval(secs => %s))
            where host = %s
            """,
            [seconds, self.host],
        )

    def _wait_s(self) -> float:
        """How long to wait still; where that is not at all, the turn is taken."""
        row = self._connection.execute(
            """
            with asked as (select *, clock_timestamp() as now from ops.rate_limits where host = %(host)s),
            taken as (
                update ops.rate_limits h set next_request_at = asked.now + make_interval(secs => %(pause)s)
                from asked
                where h.host = asked.host and greatest(asked.next_request_at, asked.blocked_until) <= asked.now
            )
            select blocked_until, extract(epoch from blocked_until - now)::float8 as blocked_s,
                extract(epoch from greatest(next_request_at, blocked_until) - now)::float8 as wait_s
            from asked
            """,
            {"host": self.host, "pause": self._pause_s},
        ).fetchone()
        assert row is not None
        if row["blocked_s"] > LONGEST_WAIT_S:
            raise Deferred(self.host, row["blocked_until"])
        return float(row["wait_s"])
