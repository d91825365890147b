"""I7, crash anywhere: the server stops or restarts under a command, or its disk is full; the next run makes good.

Each test has a server of its own: an embedded one under a home that is made for it.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, nullcontext
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import make_url

from pipelines import project
from pipelines.landing import bulk_files
from pipelines.schema import migrate
from pipelines.source import Source, Window
from pipelines.warehouse import embedded
from pipelines.warehouse.database import DATABASE, Warehouse
from tests import databases
from tests.crashes.outcome import (
    PATIENCE_S,
    assert_nothing_left,
    assert_truthful,
    contents,
    ledger_of,
    shown,
)
from tests.crashes.payloads import DAY, EARLIER, FIRST, NEWS, a_model
from tests.runs import land_intake, transform

SEED = int(os.environ["TESTS_SEED"])
FULL = os.environ.get("CRASHES") == "all"
MIB = 1024**2

WRITTEN = ["catalog.models", "catalog.images", "staging.versions", "ops.table_digests"]
"""Tables that a transform writes to, in its order: the server stops while it waits for one."""
STOPS = [signal.SIGINT, signal.SIGQUIT, signal.SIGKILL]
"""To the server: fast shutdown, immediate shutdown, a crash."""


def outages() -> list[tuple[str, signal.Signals, bool]]:
    """The table that a command waits for, what the server is sent, whether it is back before the command goes on."""
    all_ = [(table, stop, back) for table in WRITTEN for stop in STOPS for back in (True, False)]
    return all_ if FULL else random.Random(SEED).sample(all_, 1)


def bring(warehouse: Warehouse, source: Source, file: Path, day: str, payloads: list[bytes]) -> None:
    file.write_bytes(b"\n".join(payloads))
    land_intake(warehouse, source, day, nullcontext(bulk_files.intake(source, "models", file, Window.of(day).start)))


def start(home: Path, *arguments: str) -> "subprocess.Popen[str]":
    """An `atlas` process with the embedded server under a home."""
    return subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli.main", *arguments],
        cwd=project.ROOT,
        env=os.environ | {"ATLAS_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    said, _ = process.communicate(timeout=PATIENCE_S)
    return process.returncode, said


def until_it_waits(warehouse: Warehouse, process: "subprocess.Popen[str]") -> None:
    """Stops a process when it waits for a lock."""
    query = """
        select from pg_stat_activity
        where datname = current_database() and application_name = 'atlas' and wait_event_type = 'Lock'
    """
    deadline = time.monotonic() + PATIENCE_S
    with warehouse.connect() as watcher:
        while not watcher.execute(query).rowcount:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.01)
    process.send_signal(signal.SIGSTOP)


def stop_server(home: Path, warehouse: Warehouse, number: signal.Signals) -> None:
    """Sends a signal to the server under a home, and waits until it answers no more."""
    os.kill(int((home / "postgres" / "postmaster.pid").read_text().split()[0]), number)
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            psycopg.connect(warehouse.conninfo, dbname="postgres").close()
        except psycopg.OperationalError:
            return
        assert time.monotonic() < deadline, "the server does not stop"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def prepared(civitai: Source, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Warehouse]]:
    """The home of a server, and a database there in which a day waits to be transformed."""
    home = tmp_path_factory.mktemp("home")
    with embedded.running(home) as url:
        warehouse = Warehouse(make_url(url).set(database="prepared"))
        migrate.ensure(warehouse, project.objects())
        bring(warehouse, civitai, home / "first.ndjson", EARLIER, FIRST)
        transform(warehouse, civitai, EARLIER)
        bring(warehouse, civitai, home / "news.ndjson", DAY, NEWS)
        yield home, warehouse


@pytest.mark.parametrize(("table", "number", "back"), outages())
@pytest.mark.sample(1, "strikes and outages")
def test_the_server_stops_under_a_command(
    prepared: tuple[Path, Warehouse], civitai: Source, table: str, number: signal.Signals, back: bool
) -> None:
    home, origin = prepared
    undisturbed = databases.copy_of(origin, "undisturbed")
    transform(undisturbed, civitai, DAY, shrink=True)
    warehouse = databases.copy_of(origin, DATABASE)
    before, after = contents(warehouse), contents(undisturbed)
    command = ("transform", "catalog/civitai", "--partition", DAY, "--shrink")

    with closing(psycopg.connect(warehouse.conninfo, autocommit=True)) as holder:
        holder.execute("begin")
        holder.execute(sql.SQL("lock table {} in share mode").format(sql.Identifier(*table.split("."))))
        process = start(home, *command)
        until_it_waits(warehouse, process)
        stop_server(home, warehouse, number)
    if back:
        with embedded.running(home):
            os.kill(process.pid, signal.SIGCONT)
            code, said = ended(process)
            assert ledger_of(warehouse)[-1]["status"] == "failed"
    else:
        os.kill(process.pid, signal.SIGCONT)
        code, said = ended(process)
    assert code == 1, said
    assert "Traceback" not in said

    with embedded.running(home):
        assert shown(contents(warehouse)) == shown(before)
        code, said = ended(start(home, *command))
        assert code == 0, said
        assert contents(warehouse) == after
        assert_truthful(ledger_of(warehouse))
        assert_nothing_left(warehouse)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize("left", [1, 4, 9, 20] if FULL else random.Random(SEED).sample([1, 4, 9, 20], 1))
@pytest.mark.long("fills a disk, once for each place")
@pytest.mark.sample(1, "strikes and outages")
def test_the_disk_is_full(small_disk: Path, warehouse: Warehouse, civitai: Source, tmp_path: Path, left: int) -> None:
    dice = random.Random(SEED)
    many = [a_model(number, description=dice.randbytes(4_000).hex()) for number in range(3_000)]
    bring(warehouse, civitai, tmp_path / "many.ndjson", DAY, many)
    home = small_disk / "home"
    command = ("land", "catalog/civitai.models", "--from", str(tmp_path / "many.ndjson"), "--partition", DAY)

    with embedded.running(home) as url:
        full = Warehouse(make_url(url).set(database=DATABASE))
        migrate.ensure(full, project.objects())
        before = contents(full)
        fill(filler := small_disk / "filler", left * MIB)
        code, said = ended(start(home, *command))
        assert code == 1, said
        assert "Traceback" not in said
        assert "No space left on device" in (home / "postgres.log").read_text()

        filler.unlink()
        code, said = ended(start(home, *command))
        assert code == 0, said
        assert contents(full) == contents(warehouse)
        assert contents(full) != before
        failed, landed = ledger_of(full)
        assert (failed["status"], landed["status"]) == ("failed", "completed")
        assert_truthful([failed, landed])
        assert_nothing_left(full)


def fill(path: Path, left: int) -> None:
    """Writes a file until only so many bytes are left on its disk."""
    free = os.statvfs(path.parent)
    with path.open("wb") as file:
        for _ in range((free.f_bavail * free.f_frsize - left) // MIB):
            file.write(b"\0" * MIB)
