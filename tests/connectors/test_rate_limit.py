"""Rate limits over a real Postgres: one request at a time, never faster than allowed, never while a host is blocked."""

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import psycopg
import pytest
from psycopg.rows import dict_row

from pipelines.connectors import rate_limit
from pipelines.connectors.rate_limit import RateLimit
from pipelines.errors import AtlasError
from pipelines.warehouse.database import Warehouse

HOST = "civitai.example:443"
TOLERANCE_S = 0.005
"""Clocks of Postgres and of Python are read at different moments."""

Open = Callable[..., RateLimit]


@pytest.fixture
def opened(warehouse: Warehouse) -> Iterator[Open]:
    """Rate limits, each on a connection of its own, as each run has."""
    with ExitStack() as stack:

        def make(host: str = HOST, rate: float | None = None) -> RateLimit:
            return RateLimit(stack.enter_context(warehouse.connect()), host, rate)

        yield make


def together(*work: Callable[[], None]) -> None:
    """Runs functions at once, each in a thread."""
    threads = [threading.Thread(target=each) for each in work]
    for each in threads:
        each.start()
    for each in threads:
        each.join()


def asking(
    asked: list[tuple[float, float]], limit: RateLimit, times: int, lasting_s: float = 0.0
) -> Callable[[], None]:
    """Takes slots, and notes when each began and ended."""

    def ask() -> None:
        for _ in range(times):
            with limit.slot():
                began = time.monotonic()
                time.sleep(lasting_s)
                asked.append((began, time.monotonic()))

    return ask


def test_two_runs_together_are_never_faster_than_the_rate(opened: Open) -> None:
    asked: list[tuple[float, float]] = []
    together(*(asking(asked, opened(rate=20), 6) for _ in range(2)))
    began = [moment for moment, _ in sorted(asked)]
    assert len(began) == 12
    for start, first in enumerate(began):
        for more, last in enumerate(began[start:]):
            assert last - first >= more / 20 - TOLERANCE_S
    assert began[-1] - began[0] < 2 * 11 / 20, "and they do not wait for nothing"


def test_a_slot_lasts_until_the_answer(opened: Open) -> None:
    asked: list[tuple[float, float]] = []
    together(*(asking(asked, opened(), 4, lasting_s=0.03) for _ in range(2)))
    asked.sort()
    assert all(ended <= began for (_, ended), (began, _) in pairwise(asked))


def test_a_block_of_one_keeps_the_other_from_asking(opened: Open) -> None:
    asked: list[tuple[float, float]] = []
    until = []
    taken = threading.Event()

    def blocked() -> None:
        limit = opened()
        with limit.slot():
            taken.set()
            time.sleep(0.1)  # the other waits for its slot meanwhile
            limit.block_for(0.4)
            until.append(time.monotonic() + 0.4)

    other = opened()

    def later() -> None:
        taken.wait()
        asking(asked, other, 1)()

    together(blocked, later)
    assert asked[0][0] >= until[0] - TOLERANCE_S


def test_a_short_block_does_not_end_a_long_one(opened: Open) -> None:
    limit = opened()
    started = time.monotonic()
    limit.block_for(0.3)
    limit.block_for(0.01)
    with limit.slot():
        assert time.monotonic() - started >= 0.3 - TOLERANCE_S


def test_a_block_that_is_too_long_is_raised_to_every_run_at_once(opened: Open) -> None:
    first = opened()
    first.block_for(rate_limit.MAX_WAIT_S + 60)
    until = datetime.now(UTC) + timedelta(seconds=rate_limit.MAX_WAIT_S + 60)
    for each in (first, opened()):
        started = time.monotonic()
        with pytest.raises(AtlasError, match=f"deferred: {HOST} accepts no requests until") as caught, each.slot():
            pytest.fail("it was asked")
        words = re.findall("until (.*) UTC", str(caught.value))
        assert abs(datetime.fromisoformat(f"{words[0]}+00:00") - until) < timedelta(seconds=5)
        assert time.monotonic() - started < 1
    with opened("another.example").slot():
        pass


def test_a_failure_gives_the_slot_back(opened: Open) -> None:
    limit = opened()
    with pytest.raises(AtlasError), limit.slot():
        raise AtlasError("the source fell silent")
    with opened().slot():
        pass


def test_a_lost_connection_gives_the_slot_back(warehouse: Warehouse, opened: Open) -> None:
    asked: list[tuple[float, float]] = []
    dying = psycopg.connect(warehouse.conninfo, autocommit=True, row_factory=dict_row)
    limit = RateLimit(dying, HOST, None)
    held = limit.slot()
    held.__enter__()
    waiting = threading.Thread(target=asking(asked, opened(), 1))
    waiting.start()
    time.sleep(0.05)
    assert not asked
    with warehouse.connect() as connection:
        connection.execute("select pg_terminate_backend(%s)", [dying.info.backend_pid])
    waiting.join(timeout=5)
    assert len(asked) == 1
    with pytest.raises(psycopg.OperationalError):
        held.__exit__(None, None, None)


def test_hosts_do_not_wait_for_each_other(opened: Open) -> None:
    slow = opened(rate=0.1)
    with slow.slot():
        pass
    started = time.monotonic()
    with opened("another.example", rate=0.1).slot():
        pass
    assert time.monotonic() - started < 1
