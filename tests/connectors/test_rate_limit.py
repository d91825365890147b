"""Turns over a real Postgres: one at a time, never faster than allowed, never before a ban is over; whoever asks."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import psycopg
import pytest

from pipelines.connectors import rate_limit
from pipelines.connectors.rate_limit import Deferred, Turns
from pipelines.errors import AtlasError
from pipelines.warehouse.database import Warehouse

HOST = "civitai.example:443"
TOLERANCE_S = 0.005
"""Clocks of Postgres and of Python are read at different moments."""

Open = Callable[..., Turns]


@pytest.fixture
def opened(warehouse: Warehouse) -> Iterator[Open]:
    """Turns on a connection of their own, as each run has."""
    with ExitStack() as stack:

        def make(host: str = HOST, rate: float | None = None) -> Turns:
            return Turns(stack.enter_context(warehouse.connect()), host, rate)

        yield make


def together(*work: Callable[[], None]) -> None:
    """Runs functions at once, each in a thread."""
    threads = [threading.Thread(target=each) for each in work]
    for each in threads:
        each.start()
    for each in threads:
        each.join()


def asking(asked: list[tuple[float, float]], turn: Turns, times: int, lasting_s: float = 0.0) -> Callable[[], None]:
    """Takes turns, and notes when each began and ended."""

    def ask() -> None:
        for _ in range(times):
            with turn.turn():
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


def test_a_turn_lasts_until_the_answer(opened: Open) -> None:
    asked: list[tuple[float, float]] = []
    together(*(asking(asked, opened(), 4, lasting_s=0.03) for _ in range(2)))
    asked.sort()
    assert all(ended <= began for (_, ended), (began, _) in pairwise(asked))


def test_what_one_is_told_keeps_the_other_from_asking(opened: Open) -> None:
    asked: list[tuple[float, float]] = []
    until = []

    def told() -> None:
        turn = opened()
        with turn.turn():
            time.sleep(0.1)  # the other waits for its turn meanwhile
            turn.leave_alone(0.4)
            until.append(time.monotonic() + 0.4)

    other = opened()

    def later() -> None:
        time.sleep(0.05)
        asking(asked, other, 1)()

    together(told, later)
    assert asked[0][0] >= until[0] - TOLERANCE_S
    assert other.waited_s > 0.2  # the rest passed while it waited for its turn


def test_a_short_ban_does_not_end_a_long_one(opened: Open) -> None:
    turn = opened()
    started = time.monotonic()
    turn.leave_alone(0.3)
    turn.leave_alone(0.01)
    with turn.turn():
        assert time.monotonic() - started >= 0.3 - TOLERANCE_S


def test_a_ban_that_is_too_long_is_told_to_every_run_at_once(opened: Open) -> None:
    first = opened()
    first.leave_alone(rate_limit.LONGEST_WAIT_S + 60)
    until = datetime.now(UTC) + timedelta(seconds=rate_limit.LONGEST_WAIT_S + 60)
    for each in (first, opened()):
        started = time.monotonic()
        with pytest.raises(Deferred, match=f"deferred: {HOST} asks to be left alone until") as told, each.turn():
            pytest.fail("it was asked")
        assert abs(told.value.until - until) < timedelta(seconds=5)
        assert time.monotonic() - started < 1
    with opened("another.example").turn():
        pass


def test_whoever_fails_gives_the_turn_back(opened: Open) -> None:
    turn = opened()
    with pytest.raises(AtlasError), turn.turn():
        raise AtlasError("the source fell silent")
    with opened().turn():
        pass


def test_whoever_dies_gives_the_turn_back(warehouse: Warehouse, opened: Open) -> None:
    asked: list[tuple[float, float]] = []
    dying = warehouse.connect()
    turn = Turns(dying, HOST, None)
    held = turn.turn()
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
    with slow.turn():
        pass
    started = time.monotonic()
    with opened("another.example", rate=0.1).turn():
        pass
    assert time.monotonic() - started < 1
