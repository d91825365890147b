"""Whose turn it is to ask a host: one request at a time over all runs, never faster than its operator allows.

`ops.hosts` holds, for each host, when it may be asked next and until when it asked to be left alone; an advisory lock
is held from that look to the answer, so no request leaves after another run has been told to wait. Times are the
database's. Belongs here: waiting. Not: what is asked (`http`).
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from pipelines import failpoints
from pipelines.errors import AtlasError
from pipelines.ledger import LOCK, UNLOCK
from pipelines.warehouse.database import Connection

LONGEST_WAIT_S = 120.0
"""A host that asks to be left alone for longer ends the run: the next one goes on from there."""


PAUSE = "update ops.hosts set next_at = clock_timestamp() + make_interval(secs => %s) where host = %s"
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
        connection.execute("insert into ops.hosts (host) values (%s) on conflict do nothing", [host])

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Waits until the host may be asked; nobody else asks it until the block ends."""
        while True:
            self._connection.execute(LOCK, [self._name])
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
                self._connection.execute(UNLOCK, [self._name])
            self.waited_s += wait_s
            time.sleep(wait_s)

    def leave_alone(self, seconds: float) -> None:
        """Keeps every run from asking the host for so long; to be said within a turn."""
        self._connection.execute(
            """
            update ops.hosts set free_at = greatest(free_at, clock_timestamp() + make_interval(secs => %s))
            where host = %s
            """,
            [seconds, self.host],
        )

    @property
    def _name(self) -> str:
        return f"host {self.host}"

    def _wait_s(self) -> float:
        """How long to wait still; where that is not at all, the turn is taken."""
        row = self._connection.execute(
            """
            with asked as (select *, clock_timestamp() as now from ops.hosts where host = %(host)s),
            taken as (
                update ops.hosts h set next_at = asked.now + make_interval(secs => %(pause)s)
                from asked
                where h.host = asked.host and greatest(asked.next_at, asked.free_at) <= asked.now
            )
            select free_at, extract(epoch from free_at - now)::float8 as blocked_s,
                extract(epoch from greatest(next_at, free_at) - now)::float8 as wait_s
            from asked
            """,
            {"host": self.host, "pause": self._pause_s},
        ).fetchone()
        assert row is not None
        if row["blocked_s"] > LONGEST_WAIT_S:
            raise Deferred(self.host, row["free_at"])
        return float(row["wait_s"])
