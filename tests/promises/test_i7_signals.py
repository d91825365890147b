"""I7, crash anywhere: a real `atlas` process and its group, interrupted or cut off while the server works for it.

`test_i7_crash.py` interrupts between statements; here the server has one, and waits for a lock that the test holds.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipelines import project
from pipelines.source import Window
from pipelines.warehouse.database import Connection, Warehouse
from tests.crashes.outcome import PATIENCE_S, assert_nothing_left, assert_truthful, contents, ledger_of, shown
from tests.runs import land_recorded, transform

DAY = "2026-11-01"
COMMAND = ("transform", "catalog/danbooru")
TABLE = "lock table catalog.image_tags in share mode"  # the last one that a transform writes

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def landed(warehouse: Warehouse) -> Warehouse:
    """A warehouse in which a day waits to be transformed."""
    source = project.sources()["catalog/danbooru"]
    land_recorded(warehouse, source, Window.of(DAY))
    return warehouse


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts an `atlas` process in a group of its own."""
    started: list[subprocess.Popen[str]] = []

    def run(warehouse: Warehouse, *arguments: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-m", "pipelines.cli.main", *arguments],
            cwd=project.ROOT,
            env=os.environ | {"DATABASE_URL": warehouse.conninfo, "ATLAS_HOME": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def until(condition: Callable[[], object], process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


@contextmanager
def waiting(warehouse: Warehouse, process: "subprocess.Popen[str]") -> Iterator[Connection]:
    """While a process waits for a lock that this block holds; gives the connection that holds it."""
    query = """
        select from pg_stat_activity
        where datname = current_database() and application_name = 'atlas' and wait_event_type = 'Lock'
    """
    with warehouse.connect() as watcher:
        until(lambda: watcher.execute(query).rowcount, process)
        yield watcher


@contextmanager
def held(warehouse: Warehouse, statement: str = TABLE) -> Iterator[Connection]:
    """Holds what a statement locks."""
    with warehouse.connect() as connection, connection.transaction():
        connection.execute(statement.encode())
        yield connection


def ended(process: "subprocess.Popen[str]") -> str:
    """What a process said that was interrupted or cut off."""
    _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1, said
    assert "Traceback" not in said
    return said


def assert_completes(start: Start, warehouse: Warehouse, new_warehouse: Callable[[], Warehouse]) -> None:
    """The command, run again, ends with what an undisturbed run makes."""
    again = start(warehouse, *COMMAND)
    out, said = again.communicate(timeout=PATIENCE_S)
    assert again.returncode == 0, said + out
    assert_truthful(ledger_of(warehouse))
    assert_nothing_left(warehouse)

    undisturbed = new_warehouse()
    source = project.sources()["catalog/danbooru"]
    land_recorded(undisturbed, source, Window.of(DAY))
    transform(undisturbed, source, DAY)
    assert contents(warehouse) == contents(undisturbed)
    undisturbed.drop_database(undisturbed.database)


def interrupt(process: "subprocess.Popen[str]", _: Connection) -> str:
    os.killpg(process.pid, signal.SIGINT)
    said = ended(process)
    assert "error: Interrupted" in said
    return "interrupted"


def cut(process: "subprocess.Popen[str]", watcher: Connection) -> str:
    watcher.execute(
        """
        select pg_terminate_backend(pid) from pg_stat_activity
        where datname = current_database() and application_name = 'atlas' and wait_event_type = 'Lock'
        """
    )
    assert "error: The database connection was lost" in ended(process)
    return "terminating connection"


@pytest.mark.parametrize("strike", [interrupt, cut])
@pytest.mark.sample(1, "strikes and outages")
def test_struck_while_the_server_works(
    start: Start,
    landed: Warehouse,
    new_warehouse: Callable[[], Warehouse],
    strike: Callable[["subprocess.Popen[str]", Connection], str],
) -> None:
    before = shown(contents(landed))
    with held(landed):
        process = start(landed, *COMMAND)
        with waiting(landed, process) as watcher:
            reason = strike(process, watcher)
    assert shown(contents(landed)) == before
    run = ledger_of(landed)[-1]
    assert (run["status"], run["fetched"]) == ("failed", 0)
    assert reason in run["error_text"]
    assert_completes(start, landed, new_warehouse)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only /proc tells what a process has imported")
def test_ctrl_c_while_the_command_still_imports(start: Start, warehouse: Warehouse) -> None:
    process = start(warehouse, *COMMAND)
    until(lambda: "psycopg_binary" in Path(f"/proc/{process.pid}/maps").read_text(), process)
    process.send_signal(signal.SIGINT)
    assert "error: Interrupted" in ended(process)
    assert ledger_of(warehouse) == []


@pytest.mark.sample(1, "strikes and outages")
def test_ctrl_c_in_a_dagster_run(start: Start, with_dagster: Warehouse) -> None:
    with held(with_dagster):
        process = start(with_dagster, "run", "catalog/danbooru", "--partition", DAY)
        with waiting(with_dagster, process) as watcher:
            interrupt(process, watcher)
    *landed, transformed = ledger_of(with_dagster)
    assert [(run["kind"], run["status"]) for run in landed] == [("land", "completed")] * 2
    assert (transformed["kind"], transformed["status"]) == ("transform", "failed")
    assert transformed["error_text"] == "interrupted"
